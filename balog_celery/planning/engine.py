"""A simulated engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy

from ..engine.config import LINGER
from ..engine.poller import MAX_PENDING
from ..sqs.messages import BATCH_SIZE
from .broker import SimulatedBroker
from .dispatch import Dispatch, Gatherer, HandedOver, Published, Room
from .groups import SimulatedGroups
from .machine import Cores, Interpreter, Steps, Waiters
from .queue import Event, SimulatedQueue
from .scenario import Scenario
from .worker import Ended, Task

#: The duration of a long poll, in seconds.
_WAIT = 20.0


class SimulatedEngine:
    """The pollers, their acknowledgers, and what passes tasks on.

    :param env: the simulation.
    :param cores: where it runs.
    :param scenario: what is simulated.
    :param queue: the topic's queue.
    :param give: passes tasks on to the worker.
    :param broker: where tasks are published; None: they are handed over.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cores: Cores,
        scenario: Scenario,
        queue: SimulatedQueue,
        give: Callable[[Sequence[Task]], None],
        broker: SimulatedBroker[Task] | None,
    ) -> None:
        self._env, self._scenario, self._queue = env, scenario, queue
        self.interpreter = Interpreter(env, cores)
        handed_over = HandedOver(env, self.interpreter, scenario, give, self._settle)
        self.answer: Callable[[Sequence[Ended]], None] = handed_over.answer
        self._dispatch: Dispatch = handed_over if broker is None else Published(broker, self._settle)
        self._gatherer = self._groups = None
        sizes = handed_over.sizes if broker is None else None
        if scenario.way.gathers:
            self._gatherer = Gatherer(env, self.interpreter, scenario, self._dispatch, sizes)
        elif scenario.way.groups:
            self._groups = SimulatedGroups(env, self.interpreter, scenario.costs, handed_over)
        self._parts = [part for part in (handed_over, self._gatherer, self._groups) if part is not None]
        deleted = None if self._groups is None else self._groups.deleted
        self._acknowledgers = [
            _Acknowledger(env, self.interpreter, scenario, queue, deleted) for _ in range(scenario.pollers)
        ]
        #: For how long pollers had a call under way, or its messages in hand, in seconds.
        self.polling = 0.0

    def start(self) -> None:
        """Start all threads."""
        for number, acknowledger in enumerate(self._acknowledgers):
            self._env.process(self._poll(number))
            self._env.process(acknowledger.run())
        for part in self._parts:
            self._env.process(part.run())

    def deleting(self) -> float:
        """Return for how long acknowledgers had a call under way, in seconds."""
        return sum(acknowledger.calling for acknowledger in self._acknowledgers)

    def _poll(self, number: int) -> Steps:
        env, costs = self._env, self._scenario.costs
        room: Room = self._gatherer or self._dispatch
        acknowledger, cost = self._acknowledgers[number], costs.gathered if self._gatherer else costs.event
        while True:
            yield from acknowledger.wait_until_few()
            yield from room.wait_for_room()
            if self._groups is not None:
                yield from self._groups.wait_for_room()
            began = env.now
            yield from self.interpreter.work(costs.receive)
            sent, wait = env.now, 0.0 if self._gatherer and self._gatherer.is_collecting_chunk else _WAIT
            events = yield from self._queue.receive(min(BATCH_SIZE, room.free), wait, number)
            # The wait of a long poll is no work: a second poller would wait as long.
            idle = env.now - sent - self._queue.distance
            if self._groups is not None:
                self._groups.add(events)
            else:
                yield from self.interpreter.work(cost * len(events))
            self.polling += env.now - began - idle
            if self._gatherer is not None:
                yield from self._gatherer.add(events)
            elif self._groups is None:
                yield from self._dispatch.dispatch([(event,) for event in events])

    def _settle(self, events: Sequence[Event]) -> None:
        for event in events:
            self._acknowledgers[event.poller].settle(event)


class _Acknowledger:
    """Deletes ten messages in a call, or as many as there are after a second; those of a FIFO topic at once.

    :param env: the simulation.
    :param interpreter: the engine's.
    :param scenario: what is simulated.
    :param queue: the topic's queue.
    :param deleted: called with the events whose messages were deleted, if their order matters.
    """

    def __init__(
        self,
        env: simpy.Environment,
        interpreter: Interpreter,
        scenario: Scenario,
        queue: SimulatedQueue,
        deleted: Callable[[Sequence[Event]], None] | None,
    ) -> None:
        self._env, self._interpreter, self._queue = env, interpreter, queue
        self._deleted = deleted
        self._cost = scenario.costs.delete + (scenario.costs.wake if deleted else 0.0)
        self._waiting: list[Event] = []
        self._wake: simpy.Event | None = None
        self._done = Waiters(env)
        #: How many deletes are pending.
        self._pending = 0
        #: For how long a call was under way, in seconds.
        self.calling = 0.0

    def settle(self, event: Event) -> None:
        """Delete a message with the next call."""
        self._pending += 1
        self._waiting.append(event)
        if self._wake is not None and len(self._waiting) in (1, BATCH_SIZE) and not self._wake.triggered:
            self._wake.succeed()

    def wait_until_few(self) -> Steps:
        """Wait while too many deletes are pending."""
        while self._pending > MAX_PENDING:
            yield from self._done.wait()

    def run(self) -> Steps:
        """Make the calls."""
        env = self._env
        while True:
            if not self._waiting:
                self._wake = env.event()
                yield self._wake
            if len(self._waiting) < BATCH_SIZE and self._deleted is None:
                self._wake = env.event()
                yield self._wake | env.timeout(LINGER)
            self._wake = None
            began, events = env.now, self._waiting[:BATCH_SIZE]
            del self._waiting[:BATCH_SIZE]
            yield from self._interpreter.work(self._cost)
            yield from self._queue.delete(events)
            self._pending -= len(events)
            self.calling += env.now - began
            self._done.wake()
            if self._deleted is not None:
                self._deleted(events)
