"""Engines far from SQS, with large events, and with many topics, beside plain boto3: a thread for each topic."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from bench_base import BenchSqs, Child, Options, Part, median, ratios
from bench_engine import hand_off_engine


class Case(NamedTuple):
    """Topics with events.

    :param name: what is special.
    :param events: how many events each round has.
    :param topics: how many topics there are.
    :param busy: how many of them have events.
    :param distance: how far away SQS is, in seconds.
    :param pollers: how many receives of each topic are under way at a time, by either side.
    :param padding: by how much events are larger than 0.6 kB, in bytes.
    """

    name: str
    events: int
    topics: int = 1
    busy: int = 1
    distance: float = 0.0
    pollers: int = 1
    padding: int = 0


CASES = (
    Case("near, 1 topic", 3000),
    Case("10 ms away", 600, distance=0.01),
    Case("10 ms away, 4 pollers", 2400, distance=0.01, pollers=4),
    Case("50 ms away", 200, distance=0.05),
    Case("50 ms away, 4 pollers", 800, distance=0.05, pollers=4),
    Case("events of 256 kB", 300, padding=255_000),
    Case("10 topics", 3000, 10, 10),
    Case("200 topics", 2000, 200, 200),
    Case("200 topics, 10 busy", 2000, 200, 10),
)
_SIDES = ("engine_hand_off", "floor_threads")


def _work_off(sqs: BenchSqs, child: Child, case: Case, events: int) -> dict[str, float]:
    """Give *child* a number of events, evenly to the busy topics; return its CPU per event in us, and events/s."""
    queues = [child.role, *(f"{child.role}-topic_{number}" for number in range(1, case.busy))]
    wanted = {name: sqs.counts(name)["deleted"] + events // case.busy for name in queues}
    cpu, began = child.cpu(), time.monotonic()
    for name in queues:
        sqs.load(name, events // case.busy, case.padding)
    for name, deleted in wanted.items():
        while sqs.counts(name)["deleted"] < deleted:
            if time.monotonic() - began > 300:
                raise TimeoutError(f"{case.name}: {name} has {sqs.counts(name)}")
            time.sleep(0.02)
    done, seconds = events // case.busy * case.busy, time.monotonic() - began
    return {"us": (child.cpu() - cpu) / done * 1e6, "events_per_s": done / seconds}


def _measure(case: Case, options: Options) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {side: [] for side in _SIDES}
    with ExitStack() as stack:
        sqs = stack.enter_context(BenchSqs(case.distance))
        env = {
            **sqs.env,
            "BENCH_TOPICS": str(case.topics),
            "BENCH_POLLERS": str(case.pollers),
            "BENCH_THREADS": str(case.pollers),
            "BENCH_DISPATCH": "hand-off",
            "BENCH_STATUS_DIR": str(sqs.dir),
        }
        floor = Child("floor_threads", env)
        stack.callback(floor.close)
        children = {"engine_hand_off": stack.enter_context(hand_off_engine(env)), "floor_threads": floor}
        for child in children.values():  # the first calls open connections and fill caches
            _work_off(sqs, child, case, case.busy * 10)
        for number in range(options.pick(3, 2)):
            for side in _SIDES if number % 2 == 0 else reversed(_SIDES):
                found[side].append(_work_off(sqs, children[side], case, case.events))
    return found


def engines(options: Options) -> Part:
    """Compare the CPU per event of engines with that of plain boto3."""
    rows, sides = [], {}
    for case in CASES:
        found = _measure(case, options)
        mid: dict[str, Any] = {
            side: {key: median(one[key] for one in rounds) for key in rounds[0]} for side, rounds in found.items()
        }
        ratio = median(ratios(*([one["us"] for one in found[side]] for side in _SIDES)))
        sides[case.name] = ratio
        ours, theirs = (mid[side] for side in _SIDES)
        rows.append(
            f"| {case.name} | {ours['us']:,.0f} | {theirs['us']:,.0f} | {ratio:.2f} "
            f"| {ours['events_per_s']:,.0f} | {theirs['events_per_s']:,.0f} |"
        )
        print(rows[-1], flush=True)
    head = "| SQS | engine, us per event | boto3, us per event | ratio | engine, events/s | boto3, events/s |\n"
    return Part(head + "| --- " * 6 + "|\n" + "\n".join(rows), sides)
