"""The cores of a simulated machine, and the processes that share them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

import simpy

#: What a simulated process is made of.
Steps = Generator[simpy.Event, Any, None]

#: For how long a process has a core before others have their turn, in seconds; but no less than a tenth of its work.
_SLICE = 0.003


class _Places:
    """A number of places that are taken in the order of asking.

    As simpy.Resource, but taking a free place is no event of the simulation, of which there would be twice as many.

    :param env: the simulation.
    :param count: how many places.
    """

    def __init__(self, env: simpy.Environment, count: int) -> None:
        self._env = env
        self._free = count
        self._waiting: deque[simpy.Event] = deque()

    def take(self) -> Steps:
        """Take a place, after waiting for one."""
        if self._free:
            self._free -= 1
        else:
            mine = self._env.event()
            self._waiting.append(mine)
            yield mine

    def leave(self) -> None:
        """Leave the place to the next one."""
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self._free += 1


class Cores:
    """The cores that processes share.

    :param env: the simulation.
    :param count: how many cores.
    """

    def __init__(self, env: simpy.Environment, count: int) -> None:
        self._env = env
        self._places = _Places(env, count)
        #: For how long they have been busy together, in seconds.
        self.busy = 0.0

    def work(self, seconds: float) -> Steps:
        """Take a core for *seconds* of CPU, and give it up to others now and then."""
        longest = max(_SLICE, seconds / 10)
        while seconds > 1e-9:
            part = min(seconds, longest)
            yield from self._places.take()
            yield self._env.timeout(part)
            self._places.leave()
            self.busy += part
            seconds -= part


class Interpreter:
    """A process whose threads take turns, as Python's do.

    :param env: the simulation.
    :param cores: where it runs.
    """

    def __init__(self, env: simpy.Environment, cores: Cores) -> None:
        self._lock = _Places(env, 1)
        self._cores = cores
        #: How much CPU it has taken, in seconds.
        self.busy = 0.0

    def work(self, seconds: float) -> Steps:
        """Take the interpreter, and a core, for *seconds* of CPU."""
        yield from self._lock.take()
        yield from self._cores.work(seconds)
        self._lock.leave()
        self.busy += seconds


class Waiters:
    """Processes that wait for something to change.

    :param env: the simulation.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._events: list[simpy.Event] = []

    def wait(self) -> Steps:
        """Wait for the next change."""
        event = self._env.event()
        self._events.append(event)
        yield event

    def wake(self) -> None:
        """Have all of them see what has changed."""
        events, self._events = self._events, []
        for event in events:
            event.succeed()


class Inbox:
    """What a process finds each time it wakes up.

    :param env: the simulation.
    :param latency: how long it takes to wake up, in seconds.
    """

    def __init__(self, env: simpy.Environment, latency: float) -> None:
        self._env, self._latency = env, latency
        self._items: list[Any] = []
        self._wake: simpy.Event | None = None

    def put(self, *items: Any) -> None:
        """Add *items*, and wake the process if it sleeps."""
        self._items += items
        if self._wake is not None and not self._wake.triggered:
            self._wake.succeed()

    def take(self) -> Generator[simpy.Event, Any, list[Any]]:
        """Wait until something is there; return all of it."""
        while not self._items:
            self._wake = self._env.event()
            yield self._wake
            if self._latency:
                yield self._env.timeout(self._latency)
        taken, self._items = self._items, []
        return taken
