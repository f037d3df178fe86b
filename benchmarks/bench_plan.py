"""Compares the simulation of ``balog plan`` with real workers on this machine."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from bench_base import Figure, Options, median
from bench_worker import Bench, family, process_cpu, servers, tree_cpu

from balog_celery.planning.costs import COSTS
from balog_celery.planning.scenario import SINGLE, Function, Scenario, Way
from balog_celery.planning.simulation import Outcome, simulate


class Case(NamedTuple):
    """Workers of one size, and their function, which waits; all times in seconds."""

    seconds: float
    concurrency: int
    workers: int = 1
    distance: float = 0.0
    pollers: int = 1
    way: Way = SINGLE

    @property
    def dispatch(self) -> str:
        """Return ``balog_dispatch``."""
        return "publish" if self.way.broker else "hand-off"

    @property
    def what(self) -> str:
        """Return the way of its events."""
        way = self.way
        parts = [f"batches of {way.batch}"] * bool(way.batch) + [f"chunks of {way.chunk}"] * bool(way.chunk)
        parts += [f"{way.groups} message groups"] * bool(way.groups) + [f"publish, {way.broker}"] * bool(way.broker)
        return ", ".join(parts) or "hand-off"

    @property
    def name(self) -> str:
        """Return its name among the sides."""
        away = f"_{self.distance * 1000:.0f}_ms_away_{self.pollers}_pollers" if self.distance else ""
        what = "" if self.way == SINGLE else f"_{self.what.replace(', ', '_').replace(' ', '_')}"
        return f"{self.seconds * 1000:.0f}_ms{what}_c_{self.concurrency}_{self.workers}_workers{away}"

    def bench(self) -> Bench:
        """Return its SQS and its broker, which are not started."""
        way = self.way
        return Bench(
            self.dispatch,
            1,
            self.seconds,
            batch=way.batch,
            chunk=way.chunk,
            distance=self.distance,
            pollers=self.pollers,
            broker="rabbitmq" if way.broker == "rabbitmq" else "valkey",
            groups=way.groups,
        )

    def simulate(self, slowness: float, sqs_cpu: float) -> Outcome:
        """Simulate it on a machine that takes *slowness* times as long as the costs say.

        :param sqs_cpu: the CPU that a call takes of this machine's SQS, in seconds.
        """
        scenario = Scenario(
            Function(self.seconds),
            COSTS[self.way.broker].scaled(slowness),
            workers=self.workers,
            concurrency=self.concurrency,
            pollers=self.pollers,
            cores=os.cpu_count() or 1,
            distance=self.distance,
            way=self.way,
            sqs_cpu=sqs_cpu,
            is_broker_beside=True,
        )
        return simulate(scenario, events=max(4000, 100 * self.way.most))


_BATCH, _CHUNK, _FIFO = Way(batch=100), Way(chunk=100), Way(groups=10)
_BROKERS = ("redis", "rabbitmq") if servers.RabbitMQ.available() else ("redis",)
#: By what is known of it the machine is compared with the one of the costs.
_KNOWN = Case(0.0, 2)
CASES = (
    *(Case(0.0, 2, way=way) for way in (_BATCH, _CHUNK, *(Way(broker=broker) for broker in _BROKERS))),
    *(Case(seconds, size, workers) for seconds, size in ((0.01, 2), (0.05, 8)) for workers in (1, 2, 4)),
    *(Case(0.01, 8, 1, 0.05, pollers) for pollers in (1, 4)),
    *(Case(0.05, 2, workers, way=_BATCH) for workers in (1, 2)),
    *(Case(0.001, 2, workers, way=_CHUNK) for workers in (1, 2)),
    *(Case(0.05, 8, workers, way=_FIFO) for workers in (1, 2)),
    *(Case(0.05, 8, workers, way=Way(broker=broker)) for broker in _BROKERS for workers in (1, 2)),
)


def _measure(case: Case, tasks: int) -> tuple[float, float]:
    """Return the events per second of real workers, and the CPU that a call takes of this machine's SQS, in seconds."""
    with case.bench() as bench:
        for number in range(case.workers):
            bench.start(f"w{number}", case.concurrency)
        before = bench.counts()
        # The last batches wait to be full, and the last message groups have fewer workers: there are more than counted.
        bench.load(tasks * (2 if case.way.batch or case.way.groups else 1))
        # All of what is published: engines are far ahead of workers, and ready when a tenth is done.
        rate = bench.rate(tasks, warm_up=0.0 if case.way.broker else 0.1)
        after = bench.counts()
        calls = sum(after[kind] - before[kind] for kind in ("receives", "deletes"))
        return rate, (after["cpu"] - before["cpu"]) / calls


def _slowness(rate: float, sqs_cpu: float) -> float:
    """Return by how much this machine is slower than the costs say: a simulated worker has *rate*, as the real one."""
    low, high = 0.1, 20.0
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        if _KNOWN.simulate(middle, sqs_cpu).throughput > rate:
            low = middle
        else:
            high = middle
    return low


def plan(options: Options) -> Figure:
    """Compare the throughput of 1, 2 and 4 real workers with that of simulated ones.

    One number is taken from the machine, by a worker whose function does nothing: how slow it is, once in a round, and
    again before each case whose function does nothing. The value is the
    largest difference of the others, as medians of all rounds.
    """
    found: dict[Case, list[tuple[float, float]]] = {}
    slow, loads = [], []
    for _ in range(options.pick(3, 1)):
        for case in CASES:
            # With nothing to wait for, what else the machine does at that moment is all the difference.
            if not case.seconds or case is CASES[0]:
                rate, sqs_cpu = _measure(_KNOWN, options.pick(8000, 4000))
                slow.append(_slowness(rate, sqs_cpu))
            simulated = case.simulate(slow[-1], sqs_cpu).throughput
            real, _ = _measure(case, int(simulated * options.pick(8, 4)))
            found.setdefault(case, []).append((real, simulated))
            loads.append(os.getloadavg()[0])
            print(f"    {case.name}: {real:,.0f} / {simulated:,.0f} = {real / simulated:.2f}", flush=True)
    sides: dict[str, Any] = {"slowness": median(slow), "load": median(loads)}
    rows, differences = [], []
    for case, pairs in found.items():
        real, simulated = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        found_ratios = [pair[0] / pair[1] for pair in pairs]
        differences.append(abs(statistics.median(pair[1] / pair[0] - 1 for pair in pairs)))
        sides[f"{case.name}_events_per_s"], sides[f"{case.name}_simulated"] = real, simulated
        what = f"{case.what}, {case.seconds * 1000:.0f} ms, `-c {case.concurrency}`"
        away = f"{case.distance * 1000:.0f} ms, {case.pollers}" if case.distance else "0, 1"
        ratio = f"{statistics.median(found_ratios):.2f} ({min(found_ratios):.2f} to {max(found_ratios):.2f})"
        rows.append(f"| {what} | {away} | {case.workers} | {real:,.0f} | {simulated:,.0f} | {ratio} |")
    head = "| function | distance, pollers | workers | events/s | simulated | real / simulated |\n"
    head += "| --- " * 6 + "|\n"
    return Figure("plan", max(differences), "<= 0.15", sides, table=head + "\n".join(rows))


#: What the processes take is measured for each way of events: with functions that do nothing, and with ones that wait.
WAYS = (
    *(Case(0.0, size) for size in (2, 8)),
    *(Case(0.01, size) for size in (2, 8)),
    *(Case(0.0, 2, way=Way(batch=size)) for size in (10, 100)),
    *(Case(0.0, 2, way=Way(chunk=size)) for size in (10, 100)),
    Case(0.001, 2, way=_CHUNK),
    *(Case(seconds, size, way=Way(broker=broker)) for broker in _BROKERS for seconds, size in ((0.0, 2), (0.05, 8))),
    *(Case(0.0, 2, way=Way(groups=groups)) for groups in (1, 10)),
    Case(0.01, 8, way=_FIFO),
)
#: About what a call takes of the SQS where nothing is slower than the costs, in seconds.
_SQS_CPU = 170e-6
_PARTS = ("main process", "engine", "children", "broker")


def _spent(bench: Bench, worker: servers.Program) -> dict[str, float]:
    """Return the CPU of each part until now, in seconds."""
    spent = dict.fromkeys(_PARTS, 0.0)
    for pid in family(worker.pid):
        is_engine = b"engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
        part = "main process" if pid == worker.pid else "engine" if is_engine else "children"
        spent[part] += process_cpu(pid)
    return {**spent, "broker": tree_cpu(bench.broker.pid)}


def _cpu_of(case: Case, events: int) -> dict[str, float]:
    """Return the CPU of each part for an event, in microseconds."""
    with case.bench() as bench:
        worker = bench.start(concurrency=case.concurrency)
        bench.load(100)
        bench.wait(100)
        before = _spent(bench, worker)
        bench.load(events)
        bench.wait(100 + events)
        after = _spent(bench, worker)
    return {part: (after[part] - before[part]) / events * 1e6 for part in _PARTS}


def _simulated_cpu(case: Case, slowness: float) -> dict[str, float]:
    sqs_cpu = _SQS_CPU * slowness
    outcome = case.simulate(slowness, sqs_cpu)
    busy = {**outcome.busy, "broker": outcome.busy.get("broker", 0.0)}
    others = sum(busy[part] for part in ("main process", "engine", "broker"))
    others += (outcome.receives + outcome.deletes) * sqs_cpu
    busy["children"] = outcome.busy["cores"] * (os.cpu_count() or 1) - others
    return {part: busy[part] / outcome.throughput * 1e6 for part in _PARTS}


def plan_costs(options: Options) -> Figure:
    """Compare the CPU that an event takes of each process with what the simulation says, for each way of events.

    The costs are those of a machine on which the first of them takes as much as there; so only their ratios count. The
    value is the largest difference of the sums of worker and engine.
    """
    real: dict[Case, list[dict[str, float]]] = {}
    for _ in range(options.pick(5, 1)):
        for case in WAYS:
            rate = min(5000.0, case.simulate(1.0, 0.0).throughput)
            real.setdefault(case, []).append(_cpu_of(case, int(rate * options.pick(4, 2))))
    ours = _PARTS[:-1]
    known = _simulated_cpu(WAYS[0], 1.0)
    slow = [sum(found[part] for part in ours) / sum(known[part] for part in ours) for found in real[WAYS[0]]]
    sides: dict[str, Any] = {"slowness": median(slow), "load": os.getloadavg()[0]}
    rows, differences = [], []
    for case, founds in real.items():
        simulated = _simulated_cpu(case, statistics.median(slow))
        found = {part: statistics.median(one[part] for one in founds) for part in _PARTS}
        ratio = sum(found[part] for part in ours) / sum(simulated[part] for part in ours)
        differences.append(abs(1 / ratio - 1))
        sides[f"{case.name}_ratio"] = round(ratio, 2)
        cells = [f"{found[part]:,.0f} / {simulated[part]:,.0f}" for part in _PARTS]
        what = f"{case.what}, {case.seconds * 1000:.0f} ms, `-c {case.concurrency}`"
        rows.append(f"| {what} | {' | '.join(cells)} | {ratio:.2f} |")
    head = f"| function | {', us | '.join(_PARTS)}, us | real / simulated |\n" + "| --- " * (len(_PARTS) + 2) + "|\n"
    return Figure("plan-costs", max(differences), "<= 0.25", sides, table=head + "\n".join(rows))


FIGURES = {"plan": plan, "plan-costs": plan_costs}
