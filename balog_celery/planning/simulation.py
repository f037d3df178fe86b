"""Runs workers on one machine, reading one queue, until their averages are those of a long time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import simpy

from .costs import Costs
from .engine import SimulatedEngine
from .machine import Cores
from .queue import SimulatedQueue
from .worker import Event, Function, SimulatedWorker

#: Which part of the events is not counted, as queues and pools fill up meanwhile.
_WARM_UP = 0.2


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    :param function: the consumer's.
    :param costs: what an event takes.
    :param rate: how many events arrive in a second, at random times; None: there are always more.
    :param workers: how many workers share the machine, each with its engine.
    :param concurrency: the size of each worker's pool.
    :param pollers: how many receives each engine may have under way.
    :param cores: how many cores the machine has.
    :param distance: the round trip to SQS, in seconds.
    :param sqs_cpu: what a call takes of these cores where SQS is an emulator beside the workers, in seconds.
    """

    function: Function
    costs: Costs
    rate: float | None = None
    workers: int = 1
    concurrency: int = 2
    pollers: int = 1
    cores: int = 2
    distance: float = 0.0
    sqs_cpu: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a simulation has found, of all its workers together.

    :param throughput: events per second whose functions have ended.
    :param receives: receives per second.
    :param deletes: calls that delete, per second.
    :param in_flight: how many messages were in flight, on average.
    :param busy: the share of its time that each part was busy: ``children``, ``engine``, ``main process``,
        ``pollers``, ``acknowledgers``, ``cores``.
    :param latencies: sorted, of all events from their sending to the end of their functions, in seconds.
    """

    throughput: float
    receives: float
    deletes: float
    in_flight: float
    busy: dict[str, float]
    latencies: list[float]

    def percentile(self, percent: float) -> float:
        """Return the latency that *percent* of the events had at most, in seconds."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


def simulate(scenario: Scenario, *, events: int = 20_000, seed: int = 1) -> Outcome:
    """Simulate *scenario*.

    :param events: how many events to simulate.
    :param seed: draws the same numbers each time.
    """
    return _Run(scenario, random.Random(seed)).outcome(events)


class _Run:
    """One simulation.

    :param scenario: what is simulated.
    :param chance: draws numbers.
    """

    def __init__(self, scenario: Scenario, chance: random.Random) -> None:
        self._scenario = scenario
        self._env = env = simpy.Environment()
        self._cores = cores = Cores(env, scenario.cores)
        self._queue = SimulatedQueue(env, scenario.distance, cores, scenario.sqs_cpu)
        self._latencies: list[float] = []
        self._milestone = (0, env.event())
        self._pairs: list[tuple[SimulatedEngine, SimulatedWorker]] = []
        for _ in range(scenario.workers):
            size = scenario.concurrency
            worker = SimulatedWorker(env, cores, scenario.costs, scenario.function, size, chance, self._ended)
            engine = SimulatedEngine(env, cores, scenario.costs, self._queue, size, scenario.pollers, worker.give)
            env.process(worker.run(engine.answer))
            engine.start()
            self._pairs.append((engine, worker))
        if scenario.rate is None:
            self._queue.fill()
        else:
            env.process(self._queue.send(scenario.rate, chance))

    def outcome(self, events: int) -> Outcome:
        """Run until *events* have ended; return what was found after the warm-up."""
        first = int(events * _WARM_UP)
        self._run_until(first)
        began, calls, before = self._env.now, self._queue.calls.copy(), self._seconds()
        self._run_until(events)
        seconds, after = self._env.now - began, self._seconds()
        spent = {part: (after[part] - before[part]) / seconds for part in after}
        done = self._queue.calls.since(calls)
        scenario = self._scenario
        sizes = {
            "children": scenario.workers * scenario.concurrency,
            "engine": scenario.workers,
            "main process": scenario.workers,
            "pollers": scenario.workers * scenario.pollers,
            "acknowledgers": scenario.workers * scenario.pollers,
            "cores": scenario.cores,
        }
        return Outcome(
            throughput=(events - first) / seconds,
            receives=done.receives / seconds,
            deletes=done.deletes / seconds,
            in_flight=spent["messages"],
            busy={part: spent[part] / size for part, size in sizes.items()},
            latencies=sorted(self._latencies[first:]),
        )

    def _run_until(self, events: int) -> None:
        reached: Any = self._env.event()
        self._milestone = (events, reached)
        self._env.run(reached)

    def _ended(self, event: Event) -> None:
        self._latencies.append(self._env.now - event.sent)
        if len(self._latencies) == self._milestone[0]:
            self._milestone[1].succeed()

    def _seconds(self) -> dict[str, float]:
        """Return how long each part was busy until now, and messages in flight."""
        return {
            "children": sum(worker.busy for _, worker in self._pairs),
            "engine": sum(engine.interpreter.busy for engine, _ in self._pairs),
            "main process": sum(worker.main.busy for _, worker in self._pairs),
            "pollers": sum(engine.polling for engine, _ in self._pairs),
            "acknowledgers": sum(engine.deleting() for engine, _ in self._pairs),
            "cores": self._cores.busy,
            "messages": self._queue.message_seconds(),
        }
