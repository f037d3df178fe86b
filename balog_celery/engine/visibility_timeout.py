"""The visibility timeout that a topic's messages are received with."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

from ..sqs.protocols import Queue
from ..text import printable
from .outage import Outage

logger = logging.getLogger(__name__)

#: SQS's default visibility timeout, in seconds: used if the queue's own is unknown or too short.
DEFAULT_VISIBILITY = 30
#: The shortest visibility timeout that leaves time to extend it, in seconds.
MIN_VISIBILITY = 2
#: The longest wait before a failed extension is retried, in seconds.
_LONGEST_RETRY = 60.0
#: How often the queue's own visibility timeout is read, in seconds: a change applies to the receives after that.
READ_INTERVAL = 60.0


def visibility_of(setting: int | None, attributes: Mapping[str, str]) -> int:
    """The visibility timeout to receive with: the setting, else the queue's own if it is long enough, else 30 s."""
    own = int(attributes.get("VisibilityTimeout", DEFAULT_VISIBILITY))
    return setting or (own if own >= MIN_VISIBILITY else DEFAULT_VISIBILITY)


class VisibilityTimeout:
    """The number of seconds that every receive of a topic asks for. Threads may share it.

    Without a setting it is the queue's own, which is read again every :data:`READ_INTERVAL` seconds, and after a
    failure with a back-off of at most that.

    :param queue: the topic's queue.
    :param setting: the number; None for the queue's own.
    :param clock: returns the time in seconds.
    """

    def __init__(self, queue: Queue, setting: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = visibility_of(setting, {})
        self._queue = queue
        self._clock = clock
        self._setting = setting
        self._own: str | None = None
        self._read_at = -math.inf if setting is None else math.inf
        self._reading = threading.Lock()
        self._outage = Outage(f"reading the visibility timeout of {queue.name}", clock=clock)

    @property
    def retry_within(self) -> float:
        """The longest wait before a failed extension is retried, in seconds: it leaves time for several tries."""
        return min(self.seconds / 16, _LONGEST_RETRY)

    def update(self) -> None:
        """Read the queue's own number if it is time to; a failure keeps the number."""
        if self._clock() < self._read_at or not self._reading.acquire(blocking=False):
            return
        try:
            self.read_from(self._queue.attributes())
        except Exception as error:  # such as an answer that is no number: the receives go on
            self._read_at = self._clock() + self._outage.failed(error)
        else:
            self._outage.succeeded()
        finally:
            self._reading.release()

    def read_from(self, attributes: Mapping[str, str]) -> None:
        """Use the number in the queue's *attributes*, unless a setting gives another; log a change.

        :raises ValueError: it is not a number.
        """
        if self._setting is not None:
            return
        self.seconds = visibility_of(None, attributes)
        self._read_at = self._clock() + READ_INTERVAL
        own, before = attributes.get("VisibilityTimeout", "not known"), self._own
        self._own = own
        if own != before and (before is not None or own != str(self.seconds)):
            logger.log(
                logging.INFO if own == str(self.seconds) else logging.WARNING,
                "queue %s: its VisibilityTimeout is %s, so its messages are received with one of %d s",
                printable(self._queue.name),
                printable(own),
                self.seconds,
            )
