"""A simulated broker, which all workers share."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar

import simpy

from .costs import Costs
from .machine import Cores, Interpreter, Steps, Waiters

T = TypeVar("T")

#: With more tasks than this, engines receive nothing. A real one stops at ``balog_high_water``, so later; but what is
#: asked for is what comes after that.
_HIGH_WATER = 200


class SimulatedBroker(Generic[T]):
    """Tasks that wait, and the workers that wait for tasks. It uses one core, as Redis does, of which a worker
    needs a part.

    :param env: the simulation.
    :param cores: where it runs.
    :param costs: what it takes.
    """

    def __init__(self, env: simpy.Environment, cores: Cores, costs: Costs) -> None:
        self._waiting: deque[T] = deque()
        self._changed = Waiters(env)
        self._cost = costs.broker
        self.interpreter = Interpreter(env, cores)

    def wait_for_room(self) -> Steps:
        """Wait while there are too many tasks."""
        while len(self._waiting) > _HIGH_WATER:
            yield from self._changed.wait()

    def publish(self, tasks: Sequence[T]) -> Steps:
        """Keep *tasks*."""
        yield from self.interpreter.work(self._cost / 2 * len(tasks))
        self._waiting.extend(tasks)
        self._changed.wake()

    def take(self) -> Generator[simpy.Event, Any, T]:
        """Return the next task, when there is one."""
        while not self._waiting:
            yield from self._changed.wait()
        task = self._waiting.popleft()
        if len(self._waiting) == _HIGH_WATER:
            self._changed.wake()
        yield from self.interpreter.work(self._cost / 2)
        return task
