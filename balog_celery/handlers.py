"""A logging handler that ships records to a topic, in batches, from a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from .backoff import Backoff
from .errors import ConfigurationError
from .logger import SchemaFormatter
from .queues import BATCH_SIZE, MAX_MESSAGE_BYTES, OutgoingMessage, Queue, SQSQueue, is_bad_message, size_in_batch
from .telemetry import find
from .text import printable

#: What the buffer holds at most besides its capacity, in bytes.
_MAX_BUFFERED_BYTES = 64 * 1_048_576
#: How long flush() and close() wait, in seconds.
_FLUSH_TIMEOUT = 5.0
#: The least time between two reports of one kind on standard error, in seconds.
_REPORT_INTERVAL = 10.0
#: Who logs while records are sent: shipping that would make ever more of it.
_IGNORED = frozenset({"boto3", "botocore", "s3transfer", "urllib3"})
_sender = threading.local()


class _Entry(NamedTuple):
    message: OutgoingMessage
    size: int
    accepted: float


class SQSHandler(logging.Handler):
    """Sends log records to an Amazon SQS queue, without making the application wait.

    Records are formatted where they are logged, buffered, and sent by a thread: as soon as ten wait, or 1 MiB, or the
    first has waited for *linger* seconds. What SQS cannot take now is tried again, with exponential back-off, for as
    long as it takes; SQS may then have a record twice, recognisable by the id in its header.

    What is lost is counted by :meth:`stats` and told on standard error, never logged: a record is dropped where the
    buffer is full (the new one, so that what came first, often the cause, is kept) or where it could not be sent before
    the process ended; it is refused where it is larger than 1 MiB and there is no *bucket*, or SQS says that it cannot
    be a message.

    At exit :mod:`logging` flushes and closes it; that takes at most 5 s. A process that ends by ``os._exit``, such as a
    child of multiprocessing, should call :meth:`flush` before. A forked child starts with an empty buffer, a thread and
    a connection of its own; what was buffered is its parent's to send.

    Records of boto3, botocore, s3transfer and urllib3 are ignored, and those of any such handler's thread.

    :param topic: the queue's name, or its URL.
    :param region: as the other three below, for :class:`~balog_celery.queues.SQSQueue`; default: boto3's own chain.
    :param bucket: the S3 bucket into which records beyond 1 MiB are put, with a pointer in their message, as the Amazon
        SQS Extended Client Library does. It needs ``s3:PutObject``; a lifecycle rule of the bucket is to delete them.
    :param queue: what to send with instead; the arguments above, but for the topic's name, are then not used.
    :param capacity: how many records may wait; 64 MiB is the limit as well.
    :param linger: how long a record may wait for others to fill its batch, in seconds.
    :param level: the handler's level.
    :param telemetry: whether each record gets a span, whose trace context goes with the message; default: where a
        provider of OpenTelemetry has been set in the process.
    :raises ConfigurationError: *capacity* or *linger* is out of range.
    """

    def __init__(
        self,
        topic: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        bucket: str | None = None,
        queue: Queue | None = None,
        capacity: int = 10_000,
        linger: float = 1.0,
        level: int | str = logging.NOTSET,
        telemetry: bool | None = None,
    ) -> None:
        if capacity < 1:
            raise ConfigurationError(f"bad capacity {capacity!r}: give a number of records, 1 or more")
        if linger < 0:
            raise ConfigurationError(f"bad linger {linger!r}: give a number of seconds, 0 or more")
        super().__init__(level)
        self.setFormatter(SchemaFormatter())
        self.topic = topic
        self._name_of_topic = topic.rstrip("/").rpartition("/")[2]
        self._connection = (region, endpoint_url, aws_access_key_id, aws_secret_access_key)
        self._buckets = (bucket,) if bucket and queue is None else ()
        self._given_queue = queue
        self._capacity = capacity
        self._linger = linger
        self._telemetry = telemetry
        self._start_afresh()
        _handlers.add(self)

    def __repr__(self) -> str:
        return f"<SQSHandler {self.topic} ({logging.getLevelName(self.level)})>"

    def _start_afresh(self) -> None:
        self._queue = self._given_queue
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._buffer: deque[_Entry] = deque()
        self._buffered_bytes = 0
        self._accepted = self._settled = 0
        self._sent = self._dropped = self._refused = 0
        self._hurry = 0  # what was accepted up to this number is to be sent at once
        self._flushes = 0
        self._in_vain = 0  # the last flush that ran out of time waited for this number
        self._closed = False
        self._backoff = Backoff(0.5, 30.0)
        self._reports: dict[str, float] = {}

    def stats(self) -> dict[str, int]:
        """Return how many records were ``sent``, ``dropped`` and ``refused`` in this process, and how many wait."""
        with self._changed:
            waiting = self._accepted - self._settled
            return {"sent": self._sent, "dropped": self._dropped, "refused": self._refused, "waiting": waiting}

    def filter(self, record: logging.LogRecord) -> Any:
        """Leave out what must not be shipped, before :mod:`logging` takes the handler's lock."""
        if getattr(_sender, "active", False) or record.name.partition(".")[0] in _IGNORED:
            return False
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Format *record* and put it into the buffer."""
        try:
            # In the thread that logs, because its current context is what the trace goes on from.
            attributes = find(self._telemetry).created(self._name_of_topic, record.name)
            self._accept(self.format(record), attributes)
        except Exception:
            self.handleError(record)

    def flush(self, timeout: float = _FLUSH_TIMEOUT) -> bool:  # type: ignore[override]
        """Send what is buffered now, and wait for it.

        :param timeout: how long to wait, in seconds.
        :returns: whether all of it is settled: sent, or refused.
        """
        with self._changed:
            target = self._hurry = self._accepted
            self._flushes += 1
            self._changed.notify_all()
            if self._changed.wait_for(lambda: self._settled >= target, timeout):
                return True
            self._in_vain = target
            return False

    def close(self) -> None:
        """Flush, and stop. What is not sent within 5 s is dropped; after a flush in vain there is no second wait."""
        if self._in_vain < self._accepted:
            self.flush()
        with self._changed:
            self._closed = True
            lost = self._accepted - self._settled
            self._dropped += lost
            self._settled += lost
            self._buffer.clear()
            self._changed.notify_all()
        if lost:
            self._report("closed", f"{lost} records were not sent before the end; {self._dropped} were dropped in all")
        super().close()

    def _accept(self, line: str, attributes: Mapping[str, str]) -> None:
        message = OutgoingMessage(line, attributes)
        size = message.size()
        if size > MAX_MESSAGE_BYTES and attributes:
            # The record is worth more than its trace.
            message = OutgoingMessage(line)
            size = message.size()
        if size > MAX_MESSAGE_BYTES and not self._buckets:
            self._refuse(f"a record of {size} bytes is larger than a message may be, {MAX_MESSAGE_BYTES}")
            return
        with self._changed:
            problem = self._problem(size)
            if not problem:
                self._buffer.append(_Entry(message, size, time.monotonic()))
                self._buffered_bytes += size
                self._accepted += 1
                if len(self._buffer) == 1 or self._is_due():
                    self._changed.notify_all()
                return
            self._dropped += 1
            dropped = self._dropped
        self._report("dropped", f"{problem}: {dropped} records were dropped so far")

    def _problem(self, size: int) -> str:
        if self._closed:
            return "the handler is closed"
        if len(self._buffer) >= self._capacity or self._buffered_bytes + size > _MAX_BUFFERED_BYTES:
            return "the buffer is full"
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"balog-sqs-handler-{self.topic}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the interpreter is shutting down, or the system has no more of them
                return str(error)
            self._thread = thread
        return ""

    def _run(self) -> None:
        _sender.active = True
        while batch := self._next_batch():
            self._ship(batch)

    def _next_batch(self) -> list[_Entry]:
        """Wait for a batch that is due; an empty one means that the handler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closed)
            while self._buffer and not self._is_due():
                self._changed.wait(self._buffer[0].accepted + self._linger - time.monotonic())
            batch: list[_Entry] = []
            room = MAX_MESSAGE_BYTES
            while self._buffer and len(batch) < BATCH_SIZE and size_in_batch(self._buffer[0].size) <= room:
                entry = self._buffer.popleft()
                batch.append(entry)
                room -= size_in_batch(entry.size)
                self._buffered_bytes -= entry.size
            return batch

    def _is_due(self) -> bool:
        return (
            len(self._buffer) >= BATCH_SIZE
            or self._buffered_bytes >= MAX_MESSAGE_BYTES
            or self._settled < self._hurry
            or time.monotonic() >= self._buffer[0].accepted + self._linger
        )

    def _ship(self, batch: list[_Entry]) -> None:
        """Send *batch*, again and again until all of it is settled or the handler is closed."""
        while batch and not self._closed:
            flushes = self._flushes
            batch = self._try(batch)
            if batch:
                self._pause(self._backoff.failed(), flushes)
            else:
                self._backoff.succeeded()

    def _try(self, batch: list[_Entry]) -> list[_Entry]:
        """Send *batch* once; return what is to be tried again."""
        try:
            if self._queue is None:
                region, endpoint_url, key_id, secret = self._connection
                self._queue = SQSQueue(
                    self.topic,
                    region=region,
                    endpoint_url=endpoint_url,
                    aws_access_key_id=key_id,
                    aws_secret_access_key=secret,
                    payload_buckets=self._buckets,
                )
            failures = self._queue.send([entry.message for entry in batch])
        except Exception as error:
            if not is_bad_message(error):
                self._report("failed", f"sending failed, and is tried again: {printable(error, 500)}")
                return batch
            if len(batch) > 1:
                return [entry for one in batch for entry in self._try([one])]
            self._refuse(printable(error, 500))
            self._settle(1, sent=0)
            return []
        again = []
        for failure in failures:
            said = printable(f"{failure.code}: {failure.message}", 500)
            if failure.sender_fault:
                self._refuse(f"SQS refused a record: {said}")
            else:
                self._report("failed", f"SQS did not take a record, and it is sent again: {said}")
                again.append(batch[failure.index])
        self._settle(len(batch) - len(again), sent=len(batch) - len(failures))
        return again

    def _settle(self, count: int, sent: int) -> None:
        with self._changed:
            if not self._closed:  # close() has counted them
                self._settled += count
                self._sent += sent
                self._changed.notify_all()

    def _refuse(self, reason: str) -> None:
        with self._changed:
            self._refused += 1
            refused = self._refused
        self._report("refused", f"{reason} ({refused} refused so far)")

    def _pause(self, seconds: float, flushes: int) -> None:
        """Wait, but no longer than until the end or a flush later than the first *flushes*."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._flushes != flushes, seconds)

    def _report(self, kind: str, text: str) -> None:
        """Tell standard error, seldom; the process's own, as sys.stderr may lead into logging, and so here again."""
        now = time.monotonic()
        if now - self._reports.get(kind, -_REPORT_INTERVAL) < _REPORT_INTERVAL or sys.__stderr__ is None:
            return
        self._reports[kind] = now
        with contextlib.suppress(OSError, ValueError):  # it is closed: nobody is left to be told
            print(f"balog_celery: {self!r}: {text}", file=sys.__stderr__, flush=True)


_handlers: weakref.WeakSet[SQSHandler] = weakref.WeakSet()


def _start_all_afresh() -> None:
    # The threads, and whatever held the locks, are the parent's.
    for handler in _handlers:
        handler._start_afresh()


os.register_at_fork(after_in_child=_start_all_afresh)
