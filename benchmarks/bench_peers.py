"""Figure ``peers``: this package beside what users would pick instead (``peers/``), each with the same function."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bench_base import Figure, Options, Skipped, median, ratios
from peer_sides import SIDES, Running, Side

#: What was measured of each side in each round.
Rounds = Mapping[str, list[dict[str, float]]]

_INSTALL = "`python benchmarks/peers/install.py` installs the peers"


class Goal(NamedTuple):
    """At most how much of something one side may take, compared to the best of others in the same round."""

    ours: str
    theirs: tuple[str, ...]
    what: str
    bound: float

    def ratio(self, rounds: Rounds) -> float | None:
        """Return the median of the rounds' ratios; None if one of the sides was not measured."""
        theirs = [[one[self.what] for one in rounds[name]] for name in self.theirs if name in rounds]
        if not theirs or self.ours not in rounds:
            return None
        best = [min(values) for values in zip(*theirs, strict=True)]
        return median(ratios([one[self.what] for one in rounds[self.ours]], best))


_ISOLATING = tuple(name for name, side in SIDES.items() if side.peer and side.isolates)
GOALS = (
    Goal("hand-off", ("celery-sqs",), "cpu_us", 0.35),
    Goal("hand-off", ("naive",), "cpu_us", 0.17),
    Goal("quiet", ("celery-sqs",), "cpu_us", 0.35),
    Goal("quiet", ("naive",), "cpu_us", 0.17),
    Goal("batches", ("sqs-workers",), "cpu_us", 0.4),
    Goal("script", ("sqs-workers",), "cpu_us", 0.3),
    Goal("hand-off", _ISOLATING, "p50_ms", 1.1),
    Goal("hand-off", _ISOLATING, "p99_ms", 1.1),
)
_UNITS = {"cpu_us": "CPU per event", "p50_ms": "p50", "p99_ms": "p99"}


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile in milliseconds."""
    points = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{percent}_ms": points[percent - 1] * 1e3 for percent in (50, 95, 99)}


def results_table(rounds: Rounds) -> str:
    """Return the medians of all sides as the table of README.md."""
    lines = [
        "| side | what | own task | CPU, us per event | events/s | p50, p95, p99 of single events, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in rounds.items():
        side, mid = SIDES[name], {key: median(one[key] for one in found) for key in found[0]}
        latency = (
            "{p50_ms:.1f}, {p95_ms:.1f}, {p99_ms:.1f}".format_map(mid) if "p50_ms" in mid else "up to `batch_wait`"
        )
        lines.append(
            f"| `{name}` | {side.title} | {'yes' if side.isolates else 'no'} "
            f"| {mid['cpu_us']:,.0f} | {mid['events_per_s']:,.0f} | {latency} |"
        )
    return "\n".join(lines)


def goals_table(rounds: Rounds) -> str:
    """Return the goals that could be judged as the table of README.md."""
    lines = ["| what | of | compared to | ratio | goal | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for goal in GOALS:
        if (ratio := goal.ratio(rounds)) is not None:
            measured = [f"`{name}`" for name in goal.theirs if name in rounds]
            theirs = "the best of " * (len(measured) > 1) + ", ".join(measured)
            holds = "yes" if ratio <= goal.bound else "**no**"
            lines.append(
                f"| {_UNITS[goal.what]} | `{goal.ours}` | {theirs} | {ratio:.2f} | <= {goal.bound:g} | {holds} |"
            )
    return "\n".join(lines)


def _measure(side: Side, options: Options) -> dict[str, float]:
    with Running(side) as running:
        found = running.throughput(options.pick(side.events, side.events // 5))
        if not side.collects:
            found |= percentiles(running.latencies(options.pick(200, 60)))
    return found


def peers(options: Options) -> Figure:
    """Measure all sides that are installed in turn; the value is the ratio that is worst, compared to its goal.

    :raises Skipped: no peer is installed.
    """
    sides = {name: side for name, side in SIDES.items() if side.is_installed}
    for name in SIDES.keys() - sides.keys():
        print(f"peers: {name} is not installed, so it is left out; {_INSTALL}", flush=True)
    if not any(side.peer for side in sides.values()):
        raise Skipped(f"no peer is installed; {_INSTALL}")
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    loads = []
    for number in range(options.pick(3, 1)):
        loads.append(round(os.getloadavg()[0], 1))
        for name in sides if number % 2 == 0 else reversed(sides):
            rounds[name].append(_measure(sides[name], options))
            print(f"peers: round {number + 1}: {name} takes {rounds[name][-1]['cpu_us']:,.0f} us", flush=True)
    judged = {goal: ratio for goal in GOALS if (ratio := goal.ratio(rounds)) is not None}
    shown: dict[str, Any] = {
        "load_before_each_round": loads,
        "goals": f"{sum(ratio <= goal.bound for goal, ratio in judged.items())} of {len(judged)} goals hold",
        **rounds,
    }
    worst = max((ratio / goal.bound for goal, ratio in judged.items()), default=0.0)
    return Figure("peers", worst, "<= 1", shown, table=f"{results_table(rounds)}\n\n{goals_table(rounds)}")


FIGURES = {"peers": peers}
