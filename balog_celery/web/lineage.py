"""The causes and effects of an event, as far as the page has seen them: in tasks and in scanned dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..dead_letters.reader import DeadLetter
from ..producer.lineage import cause_of
from .activity import Activity, SeenEvent
from .dead_letters import Scan

#: The most causes, one of the other, and the most effects that are shown.
_MOST_CAUSES, _MOST_EFFECTS = 20, 100


class Lineage(NamedTuple):
    """Where an event comes from, and what came of it.

    :param causes: the events that led to it, the first one first. The type of one that was not seen is "".
    :param effects: the events that it caused.
    :param is_complete: whether all effects that were seen are among them.
    """

    causes: list[SeenEvent]
    effects: list[SeenEvent]
    is_complete: bool


def lineage_of(event_id: str, activity: Activity, scan: Scan | None) -> Lineage:
    """Return the lineage of an event."""
    dead = {} if scan is None else {seen.id: seen for one in scan.found if (seen := _seen(one)) is not None}

    def find(one: str) -> SeenEvent | None:
        return activity.event(one) or dead.get(one)

    effects = {one.id: one for one in activity.effects(event_id)}
    effects |= {one.id: one for one in dead.values() if one.cause == event_id}
    shown = list(effects.values())[:_MOST_EFFECTS]
    return Lineage(_causes(event_id, find), shown, len(shown) == len(effects))


def _causes(event_id: str, find: Callable[[str], SeenEvent | None]) -> list[SeenEvent]:
    """Follow the causes of an event backwards. Producers choose ids, so they may form a ring."""
    causes: list[SeenEvent] = []
    found, ids = find(event_id), {event_id}
    while found is not None and found.cause and found.cause not in ids and len(causes) < _MOST_CAUSES:
        cause = found.cause
        ids.add(cause)
        found = find(cause)
        causes.insert(0, found or SeenEvent(cause, "", ""))
    return causes


def _seen(letter: DeadLetter) -> SeenEvent | None:
    if letter.event is None:
        return None
    return SeenEvent(letter.event.header.id, letter.event.payload.cls_type, cause_of(letter.event))
