"""The simulated ways from an engine to its worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import simpy

from ..consumers.consumer import BATCH_WAIT, CHUNK_WAIT
from ..dispatch.chunk_sizes import ChunkSizes
from ..dispatch.protocol import Open
from ..dispatch.worker_loop import LINGER
from ..engine.batcher import CHUNK_LINGER
from ..sqs.messages import BATCH_SIZE
from .broker import SimulatedBroker
from .machine import Inbox, Interpreter, Steps, Waiters
from .queue import Event
from .scenario import Scenario
from .worker import Ended, Task

#: The name of the only consumer's task.
_NAME = "function"


class Room(Protocol):
    """What pollers wait for."""

    @property
    def free(self) -> int:
        """How many events may be received."""

    def wait_for_room(self) -> Steps:
        """Wait until there is room for the events of a receive."""


class Dispatch(Room, Protocol):
    """Passes tasks on."""

    def dispatch(self, tasks: Sequence[Task]) -> Steps:
        """Pass *tasks* on."""


class HandedOver:
    """Hands tasks over to the worker, and reads its answers.

    :param env: the simulation.
    :param interpreter: the engine's.
    :param scenario: what is simulated.
    :param give: passes tasks on to the worker.
    :param settle: called with the events whose tasks have ended.
    """

    def __init__(
        self,
        env: simpy.Environment,
        interpreter: Interpreter,
        scenario: Scenario,
        give: Callable[[Sequence[Task]], None],
        settle: Callable[[Sequence[Event]], None],
    ) -> None:
        self._interpreter, self._costs = interpreter, scenario.costs
        self._give, self._settle = give, settle
        offer = Open(2 * scenario.concurrency + BATCH_SIZE * scenario.pollers, (), size=scenario.concurrency)
        self.free, self._enough = offer.credit, offer.enough
        self._changed = Waiters(env)
        self._answers = _Answers(env, scenario.costs.latency)
        #: How long calls of a chunk take.
        self.sizes = ChunkSizes()

    def wait_for_room(self) -> Steps:
        while self.free < self._enough:
            yield from self._changed.wait()

    def dispatch(self, tasks: Sequence[Task]) -> Steps:
        while tasks:
            while not self.free:
                yield from self._changed.wait()
            taken, tasks = tasks[: self.free], tasks[self.free :]
            self.free -= len(taken)
            self._answers.knows_room = False
            self._give(taken)

    def answer(self, ended: Sequence[Ended]) -> None:
        """Take the worker's answers that tasks have ended."""
        self._answers.add(ended, self._enough - self.free)

    def run(self) -> Steps:
        """Read the answers."""
        while True:
            answers: list[Ended] = yield from self._answers.inbox.take()
            yield from self._interpreter.work(self._costs.wake + self._costs.answer * len(answers))
            self.free += len(answers)
            self._changed.wake()
            for task, seconds in answers:
                self.sizes.note(_NAME, len(task), seconds)
                self._settle(task)


class _Answers:
    """The answers of a worker, which sends them as ``dispatch.hand_off_worker`` does.

    :param env: the simulation.
    :param latency: how long the engine takes to wake up, in seconds.
    """

    def __init__(self, env: simpy.Environment, latency: float) -> None:
        self._env = env
        self.inbox = Inbox(env, latency)
        #: Whether the engine has been told of room for a receive, and has handed over nothing since.
        self.knows_room = False
        self._held: list[Ended] = []
        self._lingers = False

    def add(self, ended: Sequence[Ended], enough: int) -> None:
        """Send *ended* with others, at once if there are *enough* for another receive."""
        if not self._lingers:
            self._env.process(self._linger())
        self._held += ended
        if not self.knows_room and len(self._held) >= enough:
            self.knows_room = True
            self._send()

    def _linger(self) -> Steps:
        self._lingers = True
        yield self._env.timeout(LINGER)
        self._lingers = False
        self._send()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held:
            self.inbox.put(*held)


class Published:
    """Publishes tasks to a broker; their events are done then.

    :param broker: the broker.
    :param settle: called with the events whose tasks the broker has.
    """

    def __init__(self, broker: SimulatedBroker[Task], settle: Callable[[Sequence[Event]], None]) -> None:
        self._broker, self._settle = broker, settle
        self.free = BATCH_SIZE

    def wait_for_room(self) -> Steps:
        yield from self._broker.wait_for_room()

    def dispatch(self, tasks: Sequence[Task]) -> Steps:
        yield from self._broker.publish(tasks)
        for task in tasks:
            self._settle(task)


class Gatherer:
    """Collects events for tasks of several, as ``engine.batcher`` does.

    :param env: the simulation.
    :param interpreter: the engine's.
    :param scenario: what is simulated.
    :param dispatch: passes the tasks on.
    :param sizes: how long calls of a chunk take; None: chunks may be full.
    """

    def __init__(
        self,
        env: simpy.Environment,
        interpreter: Interpreter,
        scenario: Scenario,
        dispatch: Dispatch,
        sizes: ChunkSizes | None,
    ) -> None:
        self._env, self._interpreter, self._scenario = env, interpreter, scenario
        self._dispatch, self._sizes = dispatch, sizes
        self._events: list[Event] = []
        #: When to pass on what there is, by the simulation's clock.
        self._due = 0.0
        self._dispatching = 0
        self._collecting, self._changed = Waiters(env), Waiters(env)

    @property
    def free(self) -> int:
        return BATCH_SIZE

    @property
    def is_collecting_chunk(self) -> bool:
        """Whether the next receive is to be no long poll."""
        return bool(self._scenario.way.chunk and self._events)

    def wait_for_room(self) -> Steps:
        while self._dispatching:
            yield from self._changed.wait()
        yield from self._dispatch.wait_for_room()

    def add(self, events: Sequence[Event]) -> Steps:
        """Collect the events of a receive, and pass on the tasks that are complete."""
        way, full = self._scenario.way, list[Task]()
        for event in events:
            if not self._events:
                self._due = self._env.now + (CHUNK_LINGER if way.chunk else BATCH_WAIT)
                self._collecting.wake()
            self._events.append(event)
            if len(self._events) >= self._most():
                full.append(self._taken())
        if way.chunk and len(events) < BATCH_SIZE and self._events:
            full.append(self._taken())
        yield from self._pass_on(full)

    def run(self) -> Steps:
        """Pass on what has waited for long enough."""
        while True:
            if not self._events:
                yield from self._collecting.wait()
            elif self._due > self._env.now:
                yield self._env.timeout(self._due - self._env.now)
            else:
                yield from self._pass_on([self._taken()])

    def _most(self) -> int:
        way = self._scenario.way
        if way.batch or self._sizes is None:
            return way.most
        return self._sizes.size(_NAME, way.most, CHUNK_WAIT)

    def _taken(self) -> Task:
        taken, self._events = self._events, []
        return taken

    def _pass_on(self, tasks: Sequence[Task]) -> Steps:
        self._dispatching += 1
        for task in tasks:
            yield from self._interpreter.work(self._scenario.costs.event)
            yield from self._dispatch.dispatch([task])
        self._dispatching -= 1
        self._changed.wake()
