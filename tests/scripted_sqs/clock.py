"""The time of a scripted SQS."""

from __future__ import annotations

import time


class Clock:
    """A clock that runs in real time and that a test can move on."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since some moment in the past; they never go back unless a test moves the clock back."""
        return time.monotonic() + self._ahead

    def milliseconds(self) -> int:
        """Return Unix time in milliseconds."""
        return int((time.time() + self._ahead) * 1000)

    def advance(self, seconds: float) -> None:
        """Move it on; a negative number moves it back."""
        self._ahead += seconds


class StoppedClock(Clock):
    """A clock that stands still but for what the test moves it on."""

    def __init__(self) -> None:
        super().__init__()
        self._time = 1_000.0

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return self._time

    def advance(self, seconds: float) -> None:
        """Move it on; a negative number moves it back."""
        self._time += seconds

    def move_to(self, moment: float) -> None:
        """Move it on to a moment of :meth:`now`."""
        self._time = max(self._time, moment)
