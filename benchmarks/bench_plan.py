"""Compares the simulation of ``balog plan`` with real workers on this machine."""

from __future__ import annotations

import os
import statistics
from typing import Any, NamedTuple

from bench_base import Figure, Options, median
from bench_worker import Bench

from balog_celery.planning.costs import HAND_OFF, Costs
from balog_celery.planning.simulation import Scenario, simulate
from balog_celery.planning.worker import Function


class Case(NamedTuple):
    """Workers of one size, and their function, which waits; all times in seconds."""

    seconds: float
    concurrency: int
    workers: int = 1
    distance: float = 0.0
    pollers: int = 1

    @property
    def name(self) -> str:
        """Return its name among the sides."""
        away = f"_{self.distance * 1000:.0f}_ms_away_{self.pollers}_pollers" if self.distance else ""
        return f"{self.seconds * 1000:.0f}_ms_{self.workers}_workers{away}"


#: By what is known of it the machine is compared with the one of the costs.
_KNOWN = Case(0.0, 2)
_CASES = (
    *(Case(seconds, size, workers) for seconds, size in ((0.01, 2), (0.05, 8)) for workers in (1, 2, 4)),
    *(Case(0.01, 8, 1, 0.05, pollers) for pollers in (1, 4)),
)


def _measure(case: Case, tasks: int) -> tuple[float, float]:
    """Return the events per second of real workers, and the CPU that a call takes of this machine's SQS, in seconds."""
    with Bench("hand-off", 1, case.seconds, distance=case.distance, pollers=case.pollers) as bench:
        for number in range(case.workers):
            bench.start(f"w{number}", case.concurrency)
        before = bench.sqs.counts("events")
        bench.sqs.load("events", tasks)
        rate = bench.rate(tasks)
        after = bench.sqs.counts("events")
        # There is a backlog, so nearly all deletes are of ten.
        calls = after["receives"] - before["receives"] + (after["deleted"] - before["deleted"]) / 10
        return rate, (after["cpu"] - before["cpu"]) / calls


def _simulate(case: Case, costs: Costs, sqs_cpu: float) -> float:
    scenario = Scenario(
        Function(case.seconds),
        costs,
        workers=case.workers,
        concurrency=case.concurrency,
        pollers=case.pollers,
        cores=os.cpu_count() or 1,
        distance=case.distance,
        sqs_cpu=sqs_cpu,
    )
    return simulate(scenario, events=4000).throughput


def _slowness(rate: float, sqs_cpu: float) -> float:
    """Return by how much this machine is slower than the costs say: a simulated worker has *rate*, as the real one."""
    low, high = 0.1, 20.0
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        if _simulate(_KNOWN, HAND_OFF.scaled(middle), sqs_cpu) > rate:
            low = middle
        else:
            high = middle
    return low


def plan(options: Options) -> Figure:
    """Compare the throughput of 1, 2 and 4 real workers with that of simulated ones.

    One number is taken from the machine, by a worker whose function does nothing: how slow it is. The value is the
    largest difference of the others, as medians of all rounds.
    """
    found: dict[Case, list[tuple[float, float]]] = {}
    slow, loads = [], []
    for _ in range(options.pick(3, 1)):
        rate, sqs_cpu = _measure(_KNOWN, options.pick(8000, 3000))
        slow.append(_slowness(rate, sqs_cpu))
        costs = HAND_OFF.scaled(slow[-1])
        for case in _CASES:
            simulated = _simulate(case, costs, sqs_cpu)
            real, _ = _measure(case, int(simulated * options.pick(8, 4)))
            found.setdefault(case, []).append((real, simulated))
            loads.append(os.getloadavg()[0])
    sides: dict[str, Any] = {"slowness": median(slow), "load": median(loads)}
    rows, differences = [], []
    for case, pairs in found.items():
        real, simulated = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        difference = statistics.median(pair[1] / pair[0] - 1 for pair in pairs)
        differences.append(abs(difference))
        sides[f"{case.name}_events_per_s"], sides[f"{case.name}_simulated"] = real, simulated
        what = f"{case.seconds * 1000:.0f} ms, `-c {case.concurrency}`"
        away = f"{case.distance * 1000:.0f} ms, {case.pollers}" if case.distance else "0, 1"
        rows.append(f"| {what} | {away} | {case.workers} | {real:,.0f} | {simulated:,.0f} | {difference:+.0%} |")
    head = "| function | distance, pollers | workers | events/s | simulated | difference |\n" + "| --- " * 6 + "|\n"
    return Figure("plan", max(differences), "<= 0.15", sides, table=head + "\n".join(rows))


FIGURES = {"plan": plan}
