"""Simulated queues of SQS."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import simpy

from .machine import Cores, Steps


class Event(NamedTuple):
    """An event on its way: when it was sent, the poller that has received it, and its message group."""

    sent: float
    poller: int = 0
    group: int = 0


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
    """A standard queue: messages that wait, and long polls that wait for messages.

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
            self._wake()
            self._arrive(chance)

    def receive(self, limit: int, wait: float, poller: int) -> Generator[simpy.Event, Any, list[Event]]:
        """Return up to *limit* events for *poller*; none only without *wait*.

        Receives that return nothing after *wait* seconds are counted, but not simulated: at a low rate there would be
        nothing else.
        """
        yield from self._travel()
        if wait:
            began = self._env.now
            while not self._has_some():
                poll = self._env.event()
                self._polls.append(poll)
                yield poll
            self.calls.receives += int((self._env.now - began) / (wait + self.distance))
        events = self._take(limit, poller)
        self._count(len(events))
        self.calls.receives += 1
        self.calls.received += len(events)
        yield self._env.timeout(self._way)
        return events

    def delete(self, events: Sequence[Event]) -> Steps:
        """Delete the messages of *events*."""
        yield from self._travel()
        self._deleted(events)
        self._count(-len(events))
        self.calls.deletes += 1
        self.calls.deleted += len(events)
        yield self._env.timeout(self._way)

    def message_seconds(self) -> float:
        """Return how long all messages together have been in flight until now."""
        self._count(0)
        return self._sum

    def _has_some(self) -> bool:
        return self._is_endless or bool(self._waiting)

    def _arrive(self, _chance: random.Random) -> None:
        self._waiting.append(self._env.now)

    def _take(self, limit: int, poller: int) -> list[Event]:
        if self._is_endless:
            return [Event(self._env.now, poller)] * limit
        return [Event(self._waiting.popleft(), poller) for _ in range(min(limit, len(self._waiting)))]

    def _deleted(self, events: Sequence[Event]) -> None:
        """Do nothing: no other message waits for these."""

    def _wake(self) -> None:
        if self._polls:
            self._polls.popleft().succeed()

    def _travel(self) -> Steps:
        yield self._env.timeout(self._way)
        if self._cores is not None:
            yield from self._cores.work(self._cpu)

    def _count(self, change: int) -> None:
        self._sum += self.in_flight * (self._env.now - self._summed)
        self._summed = self._env.now
        self.in_flight += change


class SimulatedFifoQueue(SimulatedQueue):
    """A FIFO queue: it returns all messages of a group that it can, and no more while some of them are in flight.

    :param groups: how many message groups there are; each message has a random one.
    """

    def __init__(self, env: simpy.Environment, distance: float, cores: Cores | None, cpu: float, groups: int) -> None:
        super().__init__(env, distance, cores, cpu)
        self._count_of_groups = groups
        self._groups: defaultdict[int, deque[float]] = defaultdict(deque)
        self._flying: defaultdict[int, int] = defaultdict(int)
        #: The groups that have messages, none of which is in flight.
        self._ready: deque[int] = deque()

    def fill(self) -> None:
        super().fill()
        self._ready.extend(range(self._count_of_groups))

    def _has_some(self) -> bool:
        return bool(self._ready)

    def _arrive(self, chance: random.Random) -> None:
        number = chance.randrange(self._count_of_groups)
        group = self._groups[number]
        group.append(self._env.now)
        if len(group) == 1 and not self._flying[number]:
            self._ready.append(number)

    def _take(self, limit: int, poller: int) -> list[Event]:
        taken: list[Event] = []
        while self._ready and len(taken) < limit:
            number = self._ready.popleft()
            group, left = self._groups[number], limit - len(taken)
            sent = (
                [self._env.now] * left if self._is_endless else [group.popleft() for _ in range(min(left, len(group)))]
            )
            self._flying[number] += len(sent)
            taken += [Event(when, poller, number) for when in sent]
        return taken

    def _deleted(self, events: Sequence[Event]) -> None:
        for event in events:
            self._flying[event.group] -= 1
            if not self._flying[event.group] and (self._is_endless or self._groups[event.group]):
                self._ready.append(event.group)
                self._wake()
