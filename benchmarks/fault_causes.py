"""Why pairs of event and consumer ended more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from fault_account import Account, Pair
from fault_project import event_id_of

#: Seconds in which the effects of a fault may still come: the longest visibility, and a restart.
AFTERMATH = 30.0
UNEXPLAINED = "unexplained"
#: What has no message come again, and so explains nothing: changes that a worker carries out, and ends of faults.
HARMLESS = ("pool_grow", "autoscale", "rate_limit", "cancel_consumer", "add_consumer", "broker_emptied")

#: Words in the names of those that surely have messages come again; they come before the others.
LIKELY = ("killed", "stopped", "ended", "terminated", "replaced", "release", "frozen", "jumped")


class Disturbance(NamedTuple):
    """An action of the director, at a Unix time."""

    name: str
    at: float


def duplicates_by_cause(
    account: Account, messages: Iterable[Any], redelivered: Collection[Pair], disturbances: Iterable[Disturbance]
) -> dict[str, int]:
    """Count by cause how often a pair ended once more than it should.

    A message that SQS delivered again says why; a visibility that lapsed is put down to what was killed, stopped or
    moved on before, if anything was. A pair that ended twice without any of that is not explained.

    :param messages: all messages that SQS has had, with the causes that it knows.
    :param redelivered: the pairs whose tasks the broker has delivered again.
    """
    known: dict[str, set[str]] = {}
    for message in messages:
        known.setdefault(event_id_of(message["body"]), set()).update(message["causes"])
    counts: Counter[str] = Counter()
    happened = sorted(disturbances, key=lambda one: one.at)
    for pair in account.ended:
        extra = account.finished[pair] + account.dead[pair] - 1
        if extra > 0:
            by_broker = {"a task that the broker delivered again"} if pair in redelivered else set()
            counts[_cause(account, pair, known.get(pair[1], set()) | by_broker, happened)] += extra
    return dict(sorted(counts.items()))


def _cause(account: Account, pair: tuple[str, str], causes: set[str], happened: list[Disturbance]) -> str:
    certain = causes - {"a lapsed or released visibility"}
    if certain:
        return sorted(certain)[0]
    first, last = account.times.get(pair, (0.0, 0.0))
    before = [one.name for one in happened if first - AFTERMATH < one.at < last or (not last)]
    before = [name for name in before if name not in HARMLESS and not name.endswith(("_went_on", "_has_room"))]
    likely = [name for name in before if any(word in name for word in LIKELY)] or before
    if likely:
        return likely[-1]
    return sorted(causes)[0] if causes else UNEXPLAINED
