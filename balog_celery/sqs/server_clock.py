"""The difference between this machine's clock and the service's: a signature with the wrong time is refused."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

#: AWS accepts five minutes. The AWS SDKs for Java and Go do not blame the clock for less than four.
_TOLERANCE = timedelta(minutes=4)


class ServerClock:
    """The offset of one service's clock. Threads may share it.

    It is learned from the ``Date`` of an answer that refuses a signature, as the AWS SDKs for Java, Go and JavaScript
    do; boto3 does not.
    """

    def __init__(self) -> None:
        #: How far the service's clock is ahead of this machine's.
        self.offset = timedelta(0)
        self._lock = threading.Lock()

    def correct(self, date: str) -> bool:
        """Learn the offset from the ``Date`` of an answer, and log it; return whether it is new."""
        offset = clock_offset(date)
        with self._lock:
            if abs(offset - self.offset) < _TOLERANCE:
                return False
            self.offset = offset
        if offset:
            logger.warning("%s; requests are signed with AWS's time from now on", clock_problem(offset))
        else:
            logger.info("the clock of this machine agrees with AWS's again")
        return True


def clock_offset(date: str) -> timedelta:
    """Return how far the clock that wrote *date*, an HTTP ``Date``, is ahead of this machine's.

    It is 0 if that is within the tolerance of AWS, or if *date* cannot be read.
    """
    try:
        offset = parsedate_to_datetime(date) - datetime.now(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        return timedelta(0)
    return offset if abs(offset) >= _TOLERANCE else timedelta(0)


def clock_problem(offset: timedelta) -> str:
    """Return what is wrong with this machine's clock, and what to do."""
    direction = "behind" if offset > timedelta(0) else "ahead of"
    seconds = abs(round(offset.total_seconds()))
    return f"the clock of this machine is {seconds} s {direction} AWS's: set it, for instance with NTP"
