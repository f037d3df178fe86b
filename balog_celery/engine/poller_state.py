"""What a poller does, and the receive that it may have open."""

from __future__ import annotations

from typing import NamedTuple


class Activity(NamedTuple):
    """What a poller does: ``starting``, ``polling``, ``dispatching``, ``paused`` or ``failing``.

    :param since: since when, by ``time.monotonic()``.
    :param reason: why it is paused.
    :param is_back_pressure: whether that may last: consumers are busy, their queue is cancelled, or a user wishes it.
    """

    doing: str
    since: float
    reason: str = ""
    is_back_pressure: bool = False


class LatestReceive(NamedTuple):
    """A receive that may be open.

    :param ends: when it ends for SQS, at the latest, by ``time.monotonic()``; 0 if it has ended.
    :param is_open: whether its poller waits for it. SQS does not say whether one that a stop has ended goes on there.
    """

    ends: float = 0.0
    is_open: bool = False
