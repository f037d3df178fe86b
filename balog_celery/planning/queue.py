"""A simulated queue of SQS."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import simpy

from .machine import Cores, Steps


@dataclass
class Calls:
    """How many calls were made, and what they had."""

    receives: int = 0
    received: int = 0
    deletes: int = 0
    deleted: int = 0

    def since(self, before: Calls) -> Calls:
        """Return the calls that were made after *before*."""
        return Calls(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))

    def copy(self) -> Calls:
        """Return the numbers of now."""
        return replace(self)


class SimulatedQueue:
    """Messages that wait, and long polls that wait for messages. A message is the time at which it was sent.

    :param env: the simulation.
    :param distance: the round trip to it, in seconds.
    :param cores: where it runs; None: elsewhere.
    :param cpu: what a call takes of these cores, in seconds.
    """

    def __init__(self, env: simpy.Environment, distance: float, cores: Cores | None = None, cpu: float = 0.0) -> None:
        self._env = env
        self.distance, self._way = distance, distance / 2
        self._cores, self._cpu = cores, cpu
        self._waiting: deque[float] = deque()
        self._polls: deque[simpy.Event] = deque()
        self._is_endless = False
        self.calls = Calls()
        #: How many messages are in flight, and the sum of that over time, in message seconds.
        self.in_flight = 0
        self._sum, self._summed = 0.0, 0.0

    def fill(self) -> None:
        """Have messages without end."""
        self._is_endless = True

    def send(self, rate: float, chance: random.Random) -> Steps:
        """Send *rate* messages a second, at random times."""
        while True:
            yield self._env.timeout(chance.expovariate(rate))
            if self._polls:
                self._polls.popleft().succeed()
            self._waiting.append(self._env.now)

    def receive(self, limit: int, wait: float) -> Generator[simpy.Event, Any, list[float]]:
        """Return up to *limit* messages, or none after *wait* seconds."""
        yield from self._travel()
        if not self._waiting and not self._is_endless:
            poll = self._env.event()
            self._polls.append(poll)
            yield poll | self._env.timeout(wait)
            if not poll.triggered:
                self._polls.remove(poll)
        now = self._env.now
        if self._is_endless:
            messages = [now] * limit
        else:
            messages = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._count(len(messages))
        self.calls.receives += 1
        self.calls.received += len(messages)
        yield self._env.timeout(self._way)
        return messages

    def delete(self, count: int) -> Steps:
        """Delete *count* messages."""
        yield from self._travel()
        self._count(-count)
        self.calls.deletes += 1
        self.calls.deleted += count
        yield self._env.timeout(self._way)

    def message_seconds(self) -> float:
        """Return how long all messages together have been in flight until now."""
        self._count(0)
        return self._sum

    def _travel(self) -> Steps:
        yield self._env.timeout(self._way)
        if self._cores is not None:
            yield from self._cores.work(self._cpu)

    def _count(self, change: int) -> None:
        self._sum += self.in_flight * (self._env.now - self._summed)
        self._summed = self._env.now
        self.in_flight += change
