"""A logging handler that ships records to a topic, in batches, from a thread of its own."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..forks import run_in_child
from ..sqs.addresses import queue_name
from ..sqs.messages import DEFAULT_GROUP, MAX_MESSAGE_BYTES, OutgoingMessage
from ..sqs.protocols import Queue
from ..sqs.queues import SQSQueue
from . import process_end
from .buffer import Buffer
from .formatter import SchemaFormatter
from .lineage import current, is_consumed
from .messages import MessageMaker, checked_topic
from .processors import Line
from .sender import Sender, is_of_a_sender, is_sending
from .tally import Tally

#: What sends the records: shipping its own would make ever more of them.
_IGNORED = frozenset({"boto3", "botocore", "s3transfer", "urllib3"})


class SQSHandler(logging.Handler):
    """Sends log records to an Amazon SQS queue, without making the application wait.

    Records are formatted where they are logged, buffered, and sent by a thread: as soon as ten wait, or 1 MiB, or the
    first has waited for *linger* seconds. What SQS cannot take now is tried again, with exponential back-off, for as
    long as it takes; SQS may then have a record twice, recognisable by the id in its header.

    A record counts as sent only when SQS lists it as such. Losses are counted by :meth:`stats` and reported on standard
    error, never logged. A record is *dropped* if the buffer is full (the new one, because what came first is often the
    cause) or if it could not be sent before the process ended. It is *refused* if it is larger than 1 MiB and there is
    no *bucket*, if SQS says that it cannot be a message, or if SQS blames it 20 times with an unknown code.

    The end of the process sends what is buffered, whether it ends by its last line, by SIGTERM, or as a child of
    multiprocessing, billiard or Celery. Before ``os._exit``, and where AWS Lambda freezes the process, call
    :func:`balog_celery.flush`. A closed handler opens again when it is used. A forked child starts with an empty
    buffer, a thread and a connection of its own; its parent sends what was buffered before.

    Records of boto3, botocore, s3transfer and urllib3 are ignored, and so are those of a handler's own thread.

    :param topic: the queue's name, or its URL.
    :param region: with the five arguments below it, arguments for :class:`~balog_celery.queues.SQSQueue`; default:
        boto3's own chain.
    :param bucket: the S3 bucket for records that the queue does not take; their messages point to it, as the Amazon SQS
        Extended Client Library's do. It needs ``s3:PutObject``; let a lifecycle rule of the bucket delete them.
    :param payload_threshold: larger messages go to the bucket, too, also where the queue takes them; in bytes.
    :param queue: a queue that takes the messages instead of SQS, or a function that returns one and is called at the
        first send. Of the arguments above, only *topic* is then used, as a name.
    :param capacity: how many records may wait; 64 MiB is the limit as well.
    :param linger: how long a record may wait for others to fill its batch, in seconds.
    :param flush_timeout: how long :meth:`flush`, :meth:`close` and the end of the process wait for SQS, in seconds.
    :param group: the message group of each record on a FIFO queue: a text, or a function of the record.
    :param deduplication_id: the deduplication id of each record on a FIFO queue, a function of the record; default: one
        that is made from the event.
    :param delay: for how many seconds each message is invisible at first; not for a FIFO queue.
    :param attributes: message attributes: texts by name, or a function of the record that returns them.
    :param feedback: whether to ship what the topic's own consumers log: all records of these consumers while they run,
        and plain log lines of a process that has such consumers. By default they are counted as *withheld*, because
        each would be an event that causes more records. :func:`~balog_celery.send` sends to any topic from anywhere.
    :param level: the handler's level.
    :param telemetry: whether each record gets a span, whose trace context goes with the message; default: where a
        provider of OpenTelemetry has been set in the process.
    :raises ConfigurationError: *topic* is none, *capacity*, *linger* or *flush_timeout* is out of range, *delay* is
        given for a FIFO queue, or a function does not take a record.
    """

    def __init__(
        self,
        topic: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        s3_endpoint_url: str | None = None,
        bucket: str | None = None,
        payload_threshold: int = MAX_MESSAGE_BYTES,
        queue: Queue | Callable[[], Queue] | None = None,
        capacity: int = 10_000,
        linger: float = 1.0,
        flush_timeout: float = 5.0,
        group: str | Callable[[logging.LogRecord], str] = DEFAULT_GROUP,
        deduplication_id: Callable[[logging.LogRecord], str] | None = None,
        delay: int | None = None,
        attributes: Mapping[str, str] | Callable[[logging.LogRecord], Mapping[str, str]] | None = None,
        feedback: bool = False,
        level: int | str = logging.NOTSET,
        telemetry: bool | None = None,
    ) -> None:
        _check(capacity, linger=linger, flush_timeout=flush_timeout)
        super().__init__(level)
        self.setFormatter(SchemaFormatter())
        self.topic = topic = checked_topic(topic)
        self._has_bucket = bool(bucket) and queue is None
        self._connect: Callable[[], Queue] = partial(
            SQSQueue,
            topic,
            region=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=aws_access_key_id,
            aws_secret_access_key=aws_secret_access_key,
            aws_session_token=aws_session_token,
            s3_endpoint_url=s3_endpoint_url,
            payload_buckets=(bucket,) if bucket else (),
            payload_threshold=payload_threshold,
        )
        if queue is not None:
            self._connect = queue if callable(queue) else lambda: queue
        self._new_buffer = partial(Buffer, capacity, linger)
        self._flush_timeout = flush_timeout
        self._feedback = feedback
        self._was_closed = False
        self._make_message = MessageMaker(queue_name(topic), group, deduplication_id, delay, attributes, telemetry)
        self._start_afresh()
        _handlers.add(self)
        process_end.catch_signals()

    def __repr__(self) -> str:
        return f"<SQSHandler {self.topic} ({logging.getLevelName(self.level)})>"

    def _start_afresh(self) -> None:
        self._tally = Tally(repr(self))
        self._sender: Sender | None = None

    def stats(self) -> dict[str, int]:
        """Return how many records were ``sent``, ``dropped``, ``refused`` and ``withheld`` in this process.

        ``waiting`` is the number of those that have no outcome yet.
        """
        return self._tally.stats()

    def filter(self, record: logging.LogRecord) -> Any:
        """Leave out what must not be shipped, before :mod:`logging` takes the handler's lock."""
        if is_of_a_sender(record) or record.name.partition(".")[0] in _IGNORED:
            return False
        passes = super().filter(record)
        if passes and not self._feedback and self._feeds_back(record):
            self._tally.withhold(f"not shipping what consumers of {self.topic} log: set feedback=True to ship it")
            return False
        return passes

    def _feeds_back(self, record: logging.LogRecord) -> bool:
        """Return whether *record* results from consuming this handler's own topic."""
        queue = queue_name(self.topic)
        # Events that get_logger writes outside of those consumers are meant for the topic.
        return current().topic == queue or (is_consumed(queue) and not isinstance(record.msg, Line))

    def emit(self, record: logging.LogRecord) -> None:
        """Format *record* and put it into the buffer."""
        self._tally.accept()
        try:
            message = self._make_message(self.format(record), record)
            size = message.size()
        except Exception:
            self._tally.lose("refused", f"a record of {record.name!r} could not be made a message")
            self.handleError(record)
            return
        if size > MAX_MESSAGE_BYTES and message.attributes:
            # The record is worth more than its trace.
            message = message._replace(attributes={})
            size = message.size()
        if size > MAX_MESSAGE_BYTES and not self._has_bucket:
            reason = f"a record of {size} bytes is larger than a message may be, {MAX_MESSAGE_BYTES}"
            self._tally.lose("refused", reason)
        else:
            self._put(message, size)

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Send what is buffered now, and wait for it.

        :param timeout: how long to wait, in seconds; default: the handler's *flush_timeout*.
        :returns: whether all of it is settled: sent, or refused.
        """
        sender = self._sender
        if _holds_logging_lock():
            timeout = 0.0
        return sender is None or sender.flush(self._time_left() if timeout is None else timeout)

    def close(self) -> None:
        """Flush, and stop the thread. Unsent records are dropped; after a flush in vain there is no wait.

        A function of :mod:`logging.config` that closes the handler does not wait. The thread goes on in the background,
        and the end of the process waits for it.
        """
        self._was_closed = True  # logging does so once
        sender, self._sender = self._sender, None
        if sender is None:
            self._tally.report_end(0)
        elif _holds_logging_lock():
            sender.close()
        else:
            sender.finish(self._time_left())
        super().close()

    def _put(self, message: OutgoingMessage, size: int) -> None:
        while True:
            sender = self._sender
            try:
                if sender is None:
                    sender = self._open()
                sender.put(message, size)
            except ValueError:  # another thread has closed it
                if self._sender is sender:
                    self._sender = None
                continue
            except RuntimeError as error:
                self._tally.lose("dropped", f"no thread can be started: {error}")
                return
            break
        # A sender that was opened since then is finished here, unless close() or process_end does so later: the caller
        # may hold the lock of a MemoryHandler, which the sender's thread needs if botocore logs.
        is_finished_later = is_sending() or (process_end.closes_handlers() and not self._was_closed)
        if process_end.has_begun() and not is_finished_later:
            self._sender = None
            sender.finish(self._time_left())

    def _time_left(self) -> float:
        return process_end.remaining(self._flush_timeout) if process_end.has_begun() else self._flush_timeout

    def _open(self) -> Sender:
        sender = Sender(self.topic, self._new_buffer(self._tally), self._connect, self._tally, self._flush_timeout)
        sender.start()
        self._sender = sender
        if process_end.closes_handlers():
            _kept.append(self)
        return sender


def _check(capacity: int, **durations: float) -> None:
    if capacity < 1:
        raise ConfigurationError(f"bad capacity {capacity!r}: give a number of records, 1 or more")
    for name, seconds in durations.items():
        if not seconds >= 0:
            raise ConfigurationError(f"bad {name} {seconds!r}: give a number of seconds, 0 or more")


def _holds_logging_lock() -> bool:
    """Return whether this thread holds the lock of logging, as logging.config does while it closes handlers.

    The sender may need that lock, to make a logger or to ask for its level: waiting for it would take all of the
    timeout. Both names are private to Python; a test shows that they do what is expected here.
    """
    return bool(logging._lock._is_owned())  # type: ignore[attr-defined]


_handlers: weakref.WeakSet[SQSHandler] = weakref.WeakSet()
#: Handlers that received records while :mod:`logging` closes all handlers. A closed MemoryHandler drops its reference
#: to its target, and :mod:`logging` closes only handlers that are still referenced: these are kept alive for it.
_kept: list[SQSHandler] = []


def _start_all_afresh() -> None:
    # The threads, and the holders of the locks, are the parent's.
    for handler in _handlers:
        handler._start_afresh()


run_in_child(_start_all_afresh)
