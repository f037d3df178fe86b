"""A simulated worker's main process with its pool."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import simpy

from .broker import SimulatedBroker
from .machine import Cores, Inbox, Interpreter, Steps, Waiters
from .queue import Event
from .scenario import Scenario

#: By how much the duration of a call varies. If it did not, children would run in step, and queue for cores together.
_VARIES = 0.1
#: How many tasks for each child a worker takes from a broker: Celery's ``worker_prefetch_multiplier``.
_PREFETCHED = 4

#: The events that share a task.
Task = Sequence[Event]


class Ended(NamedTuple):
    """A task that has ended, and how long its calls took, in seconds."""

    task: Task
    seconds: float


class SimulatedWorker:
    """The main process, which gives a task to a child as soon as one is free, and the children.

    :param env: the simulation.
    :param cores: where they run.
    :param scenario: the pool, the function, and what they take.
    :param chance: draws the durations of calls.
    :param ended: called with each event at the end of its function.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cores: Cores,
        scenario: Scenario,
        chance: random.Random,
        ended: Callable[[Event], None],
    ) -> None:
        self._env, self._cores = env, cores
        self._scenario, self._chance, self._ended = scenario, chance, ended
        self._idle = scenario.concurrency
        self._pending: deque[Task] = deque()
        self._inbox = Inbox(env, scenario.costs.latency)
        self._changed = Waiters(env)
        #: How many children have not been called: their first calls are cut, so that they do not end all at once.
        self._fresh = scenario.concurrency
        self.main = Interpreter(env, cores)
        #: For how long children have been busy together, in seconds.
        self.busy = 0.0

    def give(self, tasks: Sequence[Task]) -> None:
        """Take tasks from the engine."""
        self._inbox.put(*((task, self._take) for task in tasks))

    def fetch(self, broker: SimulatedBroker[Task]) -> Steps:
        """Take tasks from *broker*, one after the other, and as many as Celery prefetches."""
        most = _PREFETCHED * self._scenario.concurrency
        while True:
            while len(self._pending) + self._scenario.concurrency - self._idle >= most:
                yield from self._changed.wait()
            task = yield from broker.take()
            taken = self._env.event()
            self._inbox.put((task, partial(self._fetched, taken)))
            yield taken

    def run(self, answer: Callable[[Sequence[Ended]], None]) -> Steps:
        """Run the loop of the main process.

        :param answer: called in each turn with the tasks that have ended.
        """
        costs, gathers = self._scenario.costs, self._scenario.way.gathers
        while True:
            arrived = yield from self._inbox.take()
            ready = bool(self._idle and self._pending)
            yield from self.main.work(costs.turn)
            if ready:
                self._start()
            answers: list[Ended] = []
            for task, step in arrived:
                if step is None:  # a child has accepted its task, or may be given one
                    continue
                more = len(task) * costs.carried / 2 if gathers else 0.0
                yield from self.main.work(costs.task / 2 + more)
                if costs.broker_wait:
                    yield self._env.timeout(costs.broker_wait / 2)
                if (seconds := step(task)) is not None:
                    answers.append(Ended(task, seconds))
                self._changed.wake()
            if answers:
                answer(answers)

    def _take(self, task: Task) -> None:
        self._pending.append(task)
        self._inbox.put((task, None))

    def _fetched(self, taken: simpy.Event, task: Task) -> None:
        taken.succeed()
        self._take(task)

    def _start(self) -> None:
        while self._idle and self._pending:
            self._idle -= 1
            self._env.process(self._execute(self._pending.popleft()))

    def _execute(self, task: Task) -> Steps:
        costs, way, began = self._scenario.costs, self._scenario.way, self._env.now
        yield self._env.timeout(costs.latency)
        yield from self._cores.work(costs.child + (costs.read * len(task) if way.gathers else 0.0))
        self._inbox.put((task, None))
        called = self._env.now
        if way.chunk:
            yield from self._call_each(task)
        else:
            yield from self._call(costs.woken)
            for event in task:
                self._ended(event)
        seconds = self._env.now - called

        def free(_: Task) -> float:
            self._idle += 1
            if self._pending:
                self._inbox.put((task, None))
            return seconds

        self.busy += self._env.now - began
        self._inbox.put((task, free))

    def _call_each(self, task: Task) -> Steps:
        function = self._scenario.function
        if function.seconds > function.cpu:
            for event in task:
                yield from self._call(self._scenario.costs.read)
                self._ended(event)
        else:  # as one, as nothing happens between the calls
            yield from self._cores.work(function.cpu * len(task))
            for event in task:
                self._ended(event)

    def _call(self, waking: float) -> Steps:
        """Call the function.

        :param waking: what it takes to go on after a wait, in seconds.
        """
        function = self._scenario.function
        waits = function.seconds - function.cpu
        if waits > 0:
            yield self._env.timeout(self._duration(waits) + self._scenario.costs.latency)
            yield from self._cores.work(waking)
        yield from self._cores.work(function.cpu)

    def _duration(self, mean: float) -> float:
        if self._fresh:
            self._fresh -= 1
            return mean * self._chance.random()
        if self._scenario.function.is_random:
            return self._chance.expovariate(1 / mean)
        return mean * self._chance.uniform(1 - _VARIES, 1 + _VARIES)
