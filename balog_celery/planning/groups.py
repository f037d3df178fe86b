"""Simulated message groups of a FIFO topic."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import simpy

from ..engine.message_groups import MAX_HELD
from ..sqs.messages import BATCH_SIZE
from .costs import Costs
from .dispatch import HandedOver
from .machine import Interpreter, Steps, Waiters
from .queue import Event


class SimulatedGroups:
    """Passes on one event of each group at a time: the next one when the former is deleted.

    :param env: the simulation.
    :param interpreter: the engine's.
    :param costs: what it takes.
    :param dispatch: passes the events on.
    """

    def __init__(self, env: simpy.Environment, interpreter: Interpreter, costs: Costs, dispatch: HandedOver) -> None:
        self._interpreter, self._costs, self._dispatch = interpreter, costs, dispatch
        self._groups: defaultdict[int, deque[Event]] = defaultdict(deque)
        self._ready: deque[Event] = deque()
        self._held = 0
        self._changed = Waiters(env)

    def wait_for_room(self) -> Steps:
        """Wait until fewer events are held than may be."""
        while self._held >= MAX_HELD:
            yield from self._changed.wait()

    def add(self, events: Sequence[Event]) -> None:
        """Hold the events of a receive until it is their turn."""
        self._held += len(events)
        for event in events:
            group = self._groups[event.group]
            group.append(event)
            if len(group) == 1:
                self._ready.append(event)
        self._changed.wake()

    def deleted(self, events: Sequence[Event]) -> None:
        """Let the events behind those that are deleted have their turn."""
        self._held -= len(events)
        for event in events:
            group = self._groups[event.group]
            group.popleft()
            if group:
                self._ready.append(group[0])
        self._changed.wake()

    def run(self) -> Steps:
        """Pass on the events whose turn it is."""
        while True:
            while not self._ready:
                yield from self._changed.wait()
            turn = [self._ready.popleft() for _ in range(min(BATCH_SIZE, len(self._ready)))]
            yield from self._dispatch.wait_for_room()
            yield from self._interpreter.work(self._costs.wake + self._costs.event * len(turn))
            yield from self._dispatch.dispatch([(event,) for event in turn])
