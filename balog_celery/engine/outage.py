"""An outage: logged when it begins and when it ends, with the back-off between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..backoff import Backoff
from ..text import printable

logger = logging.getLogger(__name__)


#: A try that takes longer than this counts as failing, in seconds: every call has a shorter deadline.
_OVERDUE = 30.0


class Outage:
    """The state of one operation, such as polling a queue. One thread at a time updates it; any thread may read it.

    :param what: the operation as the log names it, such as "polling events".
    :param backoff: the delays between tries.
    :param clock: returns the time in seconds.
    """

    def __init__(
        self, what: str, backoff: Backoff | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = printable(what)
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._kind: object = None
        self._since = 0.0
        self._problem = ""
        #: When the current try began, by the clock; 0 if there is none. Set before a call: one that does not return is
        #: an outage, too.
        self.began = 0.0

    def __str__(self) -> str:
        return self._what

    @property
    def problem(self) -> str:
        """The last error; "" while the operation works."""
        if not self._problem and self.began and self._clock() - self.began > _OVERDUE:
            return f"a call has not returned for {self._clock() - self.began:.0f} s"
        return self._problem

    @property
    def lasts(self) -> float:
        """For how many seconds the operation has failed; 0 while it works."""
        if self._problem:
            return self._clock() - self._since
        return self._clock() - self.began if self.problem else 0.0

    def failed(self, problem: object, kind: object = None) -> float:
        """Note a failure. Return how many seconds to wait before the next try.

        :param problem: the error, or its text.
        :param kind: the kind of error: a change of it is logged, too.
        """
        if not self._problem:
            self._since = self._clock()
        if not self._problem or kind != self._kind:
            logger.error("%s failed, retrying: %s", self._what, printable(problem, 500))
        self._kind = kind
        self.began = 0.0
        self._problem = printable(problem, 500) or "unknown"
        return self._backoff.failed()

    def succeeded(self) -> None:
        """Note a success."""
        self.began = 0.0
        if self._problem:
            logger.info("%s works again, after %.0f s", self._what, self.lasts)
            self._problem = ""
            self._backoff.succeeded()

    def status(self) -> dict[str, float | str]:
        """For the health check: ``fails_for`` (seconds) and ``error``, if it fails."""
        return {"fails_for": self.lasts, "error": self.problem} if self.problem else {}
