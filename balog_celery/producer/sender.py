"""The thread that sends what a buffer holds."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from ..backoff import Backoff
from ..forks import run_in_child
from ..sqs.messages import MAX_DOUBTFUL, OutgoingMessage
from ..sqs.protocols import Queue
from ..sqs.translation import is_bad_message
from ..text import printable
from ..threads import SupervisedThread
from . import process_end
from .buffer import Buffer, Entry, State
from .tally import Tally

#: The threads of senders, or greenlets.
_threads: set[int] = set()
run_in_child(_threads.clear)  # the child has none of them, and may use their ids again


def is_of_a_sender(record: logging.LogRecord) -> bool:
    """Return whether a sender's thread has made *record*; a MemoryHandler may give it those of others to handle."""
    made_by = threading.get_ident() if record.thread is None else record.thread
    return made_by in _threads and record.process in (None, os.getpid())


def is_sending() -> bool:
    """Return whether the current thread is a sender's."""
    return threading.get_ident() in _threads


class Sender:
    """Sends what its buffer holds, from a thread of its own, until the buffer is closed and empty.

    :param topic: names the thread.
    :param buffer: holds the messages.
    :param connect: makes the queue, in the thread.
    :param tally: counts the outcomes, and reports problems.
    :param flush_timeout: how long the end of the process waits for it, in seconds.
    """

    def __init__(
        self, topic: str, buffer: Buffer, connect: Callable[[], Queue], tally: Tally, flush_timeout: float
    ) -> None:
        self.flush_timeout = flush_timeout
        self.buffer = buffer
        self._connect = connect
        self._tally = tally
        self._queue: Queue | None = None
        self._backoff = Backoff(0.5, 30.0)
        name = f"balog-sqs-handler-{topic}"
        self._thread = SupervisedThread(f"the sender of {topic}", name, self._run)

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: the interpreter is shutting down, or the system has no more threads.
        """
        process_end.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            process_end.remove(self)
            raise

    def put(self, message: OutgoingMessage, size: int) -> None:
        """Buffer a message that was counted as accepted; without room for it, it is dropped.

        :raises ValueError: the sender was closed.
        """
        if not self.buffer.put(message, size):
            self._tally.lose("dropped", "the buffer is full")
        self._thread.ensure_alive()

    def hurry(self) -> None:
        """Send what is buffered at once, without waiting for it."""
        self.buffer.hurry()

    def flush(self, timeout: float) -> bool:
        """Send what is buffered at once; return whether all of it has its outcome within *timeout* seconds."""
        self._thread.ensure_alive()
        return self.buffer.wait(self.buffer.hurry(), timeout)

    def close(self) -> None:
        """Send what is buffered and stop, without waiting for it."""
        self.buffer.close()

    def finish(self, timeout: float) -> None:
        """Send what is buffered and stop. What has no outcome after *timeout* seconds is dropped and reported.

        After a flush in vain it does not wait a second time.
        """
        self._thread.ensure_alive()
        target = self.buffer.close()
        if self.buffer.wait(target, 0.0 if self.buffer.was_in_vain(target) else timeout):
            self._tally.report_end(0)
        else:
            self.abandon()

    def abandon(self) -> None:
        """Drop and report what has no outcome yet, without waiting for it."""
        self._tally.report_end(self.buffer.abandon())

    def _run(self) -> None:
        ident = threading.get_ident()
        _threads.add(ident)
        try:
            while batch := self.buffer.take():
                self._ship(batch)
            process_end.remove(self)
        finally:
            _threads.discard(ident)

    def _ship(self, batch: list[Entry]) -> None:
        """Send *batch*, again and again until every message has its outcome."""
        while batch and self.buffer.state is not State.ABANDONED:
            hurries = self.buffer.hurries
            batch = self._try(batch)
            if batch:
                self.buffer.pause(self._backoff.failed(), hurries)
            else:
                self._backoff.succeeded()

    def _try(self, batch: list[Entry]) -> list[Entry]:
        """Send *batch* once; return the messages to send again."""
        try:
            if self._queue is None:
                self._queue = self._connect()
            failures = self._queue.send([entry.message for entry in batch])
            # Before anything is counted, as an index may be wrong.
            failed = [(batch[failure.index], failure) for failure in failures]
        except BaseException as error:  # the thread must go on
            if not is_bad_message(error):
                self._tally.report("failed", f"sending failed, and is tried again: {printable(error, 500)}")
                return batch
            if len(batch) > 1:
                return [entry for one in batch for entry in self._try([one])]
            self.buffer.settle_refused(f"SQS refused a record: {printable(error, 500)}")
            return []
        self.buffer.settle_sent(len(batch) - len(failed))
        again = []
        for entry, failure in failed:
            answer = printable(f"{failure.code}: {failure.message}", 500)
            refusals = entry.refusals + failure.doubtful
            if failure.sender_fault or refusals >= MAX_DOUBTFUL:
                self.buffer.settle_refused(f"SQS refused a record: {answer}")
            else:
                self._tally.report("failed", f"SQS did not take a record, and it is sent again: {answer}")
                again.append(entry._replace(refusals=refusals))
        return again
