"""Figure 6: routing among 10,000 consumers against routing among ten."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bench_base import Figure, Options, median, ratios

from balog_celery.consumers import ConsumerHub
from balog_celery.consumers.consumer import Consumer
from balog_celery.events.records import FacilityRecord, decode

_VERSIONS = (None, "<1.0", ">=1.0,<2.0", "~=1.2", "==1.*")
_SCHEMAS = ("0.0.1", "0.9", "1.0", "1.2.7", "2.0rc1")


def _function(event: object) -> None:
    """The function of each consumer."""


def hub_of(count: int, types: int) -> ConsumerHub:
    """Return a hub of *count* consumers of *types* kinds of event, a fifth of them for each version condition."""
    hub = ConsumerHub()
    for number in range(count):
        version = _VERSIONS[number // types % len(_VERSIONS)]
        hub.add_consumer(
            Consumer(_function, f"topic-{number % 7}", f"type-{number % types}", version, f"consumer_{number}")
        )
    return hub


def events_of(types: int, schemas: Sequence[str], count: int) -> list[FacilityRecord]:
    """Return *count* different events of these types and schemas in turn, shuffled."""
    events = []
    for number in range(count):
        cls_type, schema = f"type-{number % types}", schemas[number // types % len(schemas)]
        header = f'{{"id": "e{number}", "channel": "c", "timestamp": "2014-10-07T15:06:51.641083+00:00"}}'
        events.append(
            decode(f'{{"schema": "{schema}", "header": {header}, "payload": {{"cls_type": "{cls_type}", "n": 1}}}}')
        )
    random.Random(4).shuffle(events)
    return events


def _time(hub: ConsumerHub, events: Sequence[FacilityRecord]) -> float:
    """Return the CPU per event, in us."""
    began = time.process_time()
    for event in events:
        hub.route(event)
    return (time.process_time() - began) / len(events) * 1e6


def routing(options: Options) -> Figure:
    """Ten consumers, one for each of ten types, against 10,000 of ten types and 10,000 of 800 types.

    The value is the worse of two, for events of kinds, (cls_type, schema), that have come before: fifty kinds, and
    4,000. The sides tell also what a new kind costs, and what more kinds cost than a router remembers.
    """
    rounds, count = options.pick(15, 5), options.pick(100_000, 20_000)
    kinds = {
        "50_kinds": (hub_of(10, 10), hub_of(10_000, 10), events_of(10, _SCHEMAS, count)),
        "4000_kinds": (hub_of(10, 10), hub_of(10_000, 800), events_of(800, _SCHEMAS, count)),
        # More kinds than a router remembers.
        "8000_kinds": (
            hub_of(10, 10),
            hub_of(10_000, 800),
            events_of(800, [f"1.{minor}" for minor in range(10)], count),
        ),
    }
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, (few, many, events) in kinds.items():
            for size, among in (("10", few), ("10000", many)):
                if number:  # the first time every kind is new
                    times.setdefault(f"among_{size}_{name}", []).append(_time(among, events))
                else:
                    _time(among, events)
    found = {name: median(ratios(times[f"among_10000_{name}"], times[f"among_10_{name}"])) for name in kinds}
    sides = {f"{name}_us": median(values) for name, values in times.items()}
    sides |= {f"ratio_{name}": ratio for name, ratio in found.items()}
    return Figure("routing", max(found["50_kinds"], found["4000_kinds"]), "<= 2", sides | _first_times())


def _first_times() -> dict[str, float]:
    """Return the cost of the first event of a kind, by the number of consumers of its type."""
    sides = {}
    for label, consumers, types in (
        ("10_consumers_1_of_the_type", 10, 10),
        ("10000_consumers_10_of_the_type", 10_000, 1_000),
        ("10000_consumers_1000_of_the_type", 10_000, 10),
    ):
        events = events_of(types, _SCHEMAS, types * len(_SCHEMAS))
        hub = hub_of(consumers, types)
        began = time.process_time()
        hub.route(events_of(1, ["0"], 1)[0])
        sides[f"index_of_{consumers}_{types}_types_ms"] = round((time.process_time() - began) * 1e3, 2)
        sides[f"first_time_{label}_us"] = round(_time(hub, events), 2)
    return sides


FIGURES = {"routing": routing}
