"""A simulated engine that hands events over to its worker."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from ..dispatch.protocol import Open
from ..engine.config import LINGER
from ..engine.poller import MAX_PENDING
from ..sqs.messages import BATCH_SIZE
from .costs import Costs
from .machine import Cores, Inbox, Interpreter, Steps
from .queue import SimulatedQueue
from .worker import Event

#: The duration of a long poll, in seconds.
_WAIT = 20.0


class SimulatedEngine:
    """The pollers, their acknowledgers, and the thread that reads the worker's answers.

    :param env: the simulation.
    :param cores: where it runs.
    :param costs: what it takes.
    :param queue: the topic's queue.
    :param concurrency: the size of the worker's pool.
    :param pollers: how many receives may be under way.
    :param give: passes events on to the worker.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cores: Cores,
        costs: Costs,
        queue: SimulatedQueue,
        concurrency: int,
        pollers: int,
        give: Callable[[list[Event]], None],
    ) -> None:
        self._env, self._costs, self._queue, self._give = env, costs, queue, give
        offer = Open(2 * concurrency + BATCH_SIZE * pollers, (), size=concurrency)
        self._free, self._enough = offer.credit, offer.enough
        #: Woken when the worker, or SQS, has finished something.
        self._changed: list[simpy.Event] = []
        self._answers = Inbox(env)
        self._acknowledgers = [_Acknowledger(env, self, costs, queue) for _ in range(pollers)]
        self.interpreter = Interpreter(env, cores)
        #: For how long pollers had a call under way, or its messages in hand, in seconds.
        self.polling = 0.0

    def start(self) -> None:
        """Start all threads."""
        for number, acknowledger in enumerate(self._acknowledgers):
            self._env.process(self._poll(number))
            self._env.process(acknowledger.run())
        self._env.process(self._read_answers())

    def answer(self, event: Event) -> None:
        """Take the worker's answer that a task has ended."""
        self._answers.put(event)

    def wake(self) -> None:
        """Have pollers see whether they may go on."""
        changed, self._changed = self._changed, []
        for event in changed:
            event.succeed()

    def deleting(self) -> float:
        """Return for how long acknowledgers had a call under way, in seconds."""
        return sum(acknowledger.calling for acknowledger in self._acknowledgers)

    def _poll(self, number: int) -> Steps:
        env, costs = self._env, self._costs
        while True:
            while self._free < self._enough or self._acknowledgers[number].pending > MAX_PENDING:
                yield from self._wait()
            began = env.now
            yield from self.interpreter.work(costs.receive)
            sent = env.now
            messages = yield from self._queue.receive(min(BATCH_SIZE, self._free), _WAIT)
            # The wait of a long poll is no work: a second poller would wait as long.
            idle = env.now - sent - self._queue.distance
            yield from self.interpreter.work(costs.event * len(messages))
            self.polling += env.now - began - idle
            events = [Event(message, number) for message in messages]
            while events:
                while not self._free:
                    yield from self._wait()
                taken, events = events[: self._free], events[self._free :]
                self._free -= len(taken)
                self._give(taken)

    def _wait(self) -> Steps:
        event = self._env.event()
        self._changed.append(event)
        yield event

    def _read_answers(self) -> Steps:
        while True:
            answers = yield from self._answers.take()
            yield from self.interpreter.work(self._costs.wake + self._costs.answer * len(answers))
            self._free += len(answers)
            self.wake()
            for event in answers:
                self._acknowledgers[event.poller].settle()


class _Acknowledger:
    """Deletes ten messages in a call, or as many as there are after a second.

    :param env: the simulation.
    :param engine: the acknowledger's.
    :param costs: what it takes.
    :param queue: the topic's queue.
    """

    def __init__(self, env: simpy.Environment, engine: SimulatedEngine, costs: Costs, queue: SimulatedQueue) -> None:
        self._env, self._engine, self._costs, self._queue = env, engine, costs, queue
        self._waiting = 0
        self._wake: simpy.Event | None = None
        #: How many deletes are pending.
        self.pending = 0
        #: For how long a call was under way, in seconds.
        self.calling = 0.0

    def settle(self) -> None:
        """Delete a message with the next call."""
        self.pending += 1
        self._waiting += 1
        if self._wake is not None and self._waiting in (1, BATCH_SIZE) and not self._wake.triggered:
            self._wake.succeed()

    def run(self) -> Steps:
        """Make the calls."""
        env = self._env
        while True:
            if not self._waiting:
                self._wake = env.event()
                yield self._wake
            if self._waiting < BATCH_SIZE:
                self._wake = env.event()
                yield self._wake | env.timeout(LINGER)
            self._wake = None
            began, count = env.now, min(BATCH_SIZE, self._waiting)
            self._waiting -= count
            yield from self._engine.interpreter.work(self._costs.delete)
            yield from self._queue.delete(count)
            self.pending -= count
            self.calling += env.now - began
            self._engine.wake()
