"""A simulated worker's main process with its pool."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import simpy

from .costs import Costs
from .machine import Cores, Inbox, Interpreter, Steps

#: By how much the duration of a call varies. If it did not, children would run in step, and queue for cores together.
_VARIES = 0.1


class Event(NamedTuple):
    """An event on its way: when it was sent, and the poller that has received it."""

    sent: float
    poller: int


@dataclass(frozen=True)
class Function:
    """What the consumer's function does.

    :param seconds: how long a call takes, in seconds.
    :param cpu: how much of that is CPU, in seconds.
    :param is_random: whether the rest is exponentially distributed, with this mean; else it varies by a tenth.
    """

    seconds: float
    cpu: float = 0.0
    is_random: bool = False


class SimulatedWorker:
    """The main process, which gives a task to a child as soon as one is free, and the children.

    :param env: the simulation.
    :param cores: where they run.
    :param costs: what they take.
    :param function: the consumer's.
    :param concurrency: how many children.
    :param chance: draws the durations of calls.
    :param ended: called with each event at the end of its function.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cores: Cores,
        costs: Costs,
        function: Function,
        concurrency: int,
        chance: random.Random,
        ended: Callable[[Event], None],
    ) -> None:
        self._env, self._cores, self._costs = env, cores, costs
        self._function, self._chance, self._ended = function, chance, ended
        self._idle = concurrency
        self._pending: deque[Event] = deque()
        self._inbox = Inbox(env)
        self.main = Interpreter(env, cores)
        #: For how long children have been busy together, in seconds.
        self.busy = 0.0

    def give(self, events: list[Event]) -> None:
        """Take tasks from the engine."""
        self._inbox.put(*((event, self._take) for event in events))

    def run(self, answer: Callable[[Event], None]) -> Steps:
        """Run the loop of the main process.

        :param answer: called with each event whose task has ended.
        """
        while True:
            arrived = yield from self._inbox.take()
            yield from self.main.work(self._costs.turn)
            for event, step in arrived:
                if step is None:  # a child has accepted its task
                    continue
                yield from self.main.work(self._costs.task / 2)
                if step(event):
                    answer(event)

    def _take(self, event: Event) -> bool:
        self._pending.append(event)
        self._start()
        return False

    def _free(self, event: Event) -> bool:
        self._idle += 1
        self._start()
        return True

    def _start(self) -> None:
        while self._idle and self._pending:
            self._idle -= 1
            self._env.process(self._call(self._pending.popleft()))

    def _call(self, event: Event) -> Steps:
        function, began = self._function, self._env.now
        yield from self._cores.work(self._costs.child)
        self._inbox.put((event, None))
        waits = function.seconds - function.cpu
        if waits > 0:
            yield self._env.timeout(self._duration(waits))
            yield from self._cores.work(self._costs.child)
        yield from self._cores.work(function.cpu)
        self._ended(event)
        self.busy += self._env.now - began
        self._inbox.put((event, self._free))

    def _duration(self, mean: float) -> float:
        if self._function.is_random:
            return self._chance.expovariate(1 / mean)
        return mean * self._chance.uniform(1 - _VARIES, 1 + _VARIES)
