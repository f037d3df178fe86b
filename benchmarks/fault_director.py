"""Kills and freezes processes and deletes queues, one after the other, and restarts what has ended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from fault_brokers import Broker, servers
from fault_causes import Disturbance
from fault_control import Commands
from fault_machine import Machine, MachineFaults
from fault_sqs import FaultySqs
from fault_worker import Worker

#: Seconds between two actions.
GAP = (2.0, 4.5)
#: Seconds for which a broker or a backend stays dead or frozen.
DOWN = (0.5, 4.0)
#: Seconds for which a queue stays deleted, unless a worker declares it.
DELETED = 2.0
#: For how many seconds events may be kept back until the broker holds none.
REST = 40.0
#: For how many seconds to wait for the process to kill, which may be starting.
STARTED = 15.0
#: Seconds in which every visibility ends.
LAPSE = 10.0
#: The least number of actions, if there are any.
FEWEST = 3

#: Something to do. If it has a second half, yields for how many seconds to wait before that.
Action = Callable[[], Iterator[float] | None]


class Director:
    """Carries out the actions one by one: each kind once per round, in a new random order.

    Call :meth:`tick` often: it never blocks for long.

    :param backend: the result backend, if there is one.
    :param machine: on which the worker runs.
    :param kinds: the kinds of fault to bring about (as ``faults.py --faults`` names them).
    :param seed: of the order and of every pause.
    :param gap: how many times longer than usual the pauses are.
    """

    def __init__(
        self,
        worker: Worker,
        broker: Broker,
        backend: servers.Server | None,
        sqs: FaultySqs,
        machine: Machine,
        kinds: Collection[str],
        seed: int,
        gap: float = 1.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        #: How many actions were begun.
        self.begun = 0
        #: Whether events are to be kept back until all that were sent are off the broker.
        self.wants_rest = False
        #: Says whether they are, as far as SQS and the consumers show.
        self.at_rest: Callable[[], bool] = lambda: False
        self._worker = worker
        self._broker = broker
        self._sqs = sqs
        #: What was done, and when.
        self.disturbances: list[Disturbance] = []
        self._random = random.Random(seed)
        self._commands = Commands(broker, self._random, self._did)
        self._on_machine = MachineFaults(machine, worker, sqs, self._random, self._did)
        self._actions: list[Action] = []
        for needed, actions in self._actions_by_kind(broker, backend).items():
            if set(needed.split("+")) <= set(kinds):
                self._actions += actions
        self._round: list[Action] = []
        self._gap = gap
        self._next_at = time.monotonic() + 1.0
        self._under_way: Iterator[float] | None = None

    def _actions_by_kind(self, broker: Broker, backend: servers.Server | None) -> dict[str, list[Action]]:
        """Return the actions with the kinds of fault that each needs."""
        actions: dict[str, list[Action]] = {
            "processes": [
                lambda: self._kill_one("child_killed", engine=False),
                lambda: self._kill_one("engine_killed", engine=True),
                lambda: self._signal_worker("worker_killed", signal.SIGKILL),
                lambda: self._signal_worker("worker_terminated", signal.SIGTERM),
                self._kill_group,
            ],
            "broker": [lambda: self._kill("broker", broker), lambda: self._freeze("broker", broker)],
            # Two at once: the engine then holds what it could not publish.
            "broker+processes": [
                lambda: self._freeze("broker", broker, lambda: self._kill_one("engine_killed", engine=True)),
                lambda: self._freeze("broker", broker, self._kill_group),
                lambda: self._kill("broker", broker, self._kill_group),
            ],
            "queue-deleted": [self._delete_queues],
            "stopped": [
                lambda: self._stop_for(LAPSE, "engine_stopped", engine=True),
                lambda: self._stop_for(self._random.uniform(*DOWN), "engine_stopped_briefly", engine=True),
                lambda: self._stop_for(LAPSE, "worker_stopped", engine=None),
            ],
            "replaced": [self._replace] * 3,
            "autoscale": [lambda: self._scale(by_itself=False), lambda: self._scale(by_itself=True)],
            "pauses": [self._commands.limit_rate, self._commands.pause],
            "dns": [self._on_machine.fail_names],
            "dns+processes": [
                lambda: self._on_machine.fail_names(
                    lambda: self._kill_one("engine_killed_without_names", engine=True),
                )
            ],
            "disk": [self._on_machine.fill_disk],
            "versions": [self._on_machine.roll],
            "clock": [self._jump],
            "broker-emptied": [self._empty],
        }
        if self._worker.pool != "prefork":
            del actions["autoscale"]
            # There is no child to kill.
            actions["processes"] = actions["processes"][1:]
        if backend is not None:
            actions["backend"] = [lambda: self._kill("backend", backend), lambda: self._freeze("backend", backend)]
        return actions

    @property
    def wanted(self) -> int:
        """Return how many actions a run must have: a round, or a few in a short run."""
        return max(FEWEST, len(self._actions)) if self._actions else 0

    def tick(self, *, act: bool) -> None:
        """Do what is due; with *act* false only end faults and restart processes."""
        if not self._worker.program.running:
            self._did(f"worker_ended_{self._worker.program.returncode}")
            self._worker.start()
        if time.monotonic() < self._next_at:
            return
        if self._under_way is None and act and self._actions:
            self.begun += 1
            self._under_way = self._next_action()() or iter(())
        if self._under_way is not None:
            wait = next(self._under_way, None)
            if wait is None:
                self._under_way = None
                wait = self._gap * self._random.uniform(*GAP)
            self._next_at = time.monotonic() + wait

    @property
    def busy(self) -> bool:
        """Return whether a fault has not ended yet."""
        return self._under_way is not None

    def _next_action(self) -> Action:
        if not self._round:
            self._round = list(self._actions)
            self._random.shuffle(self._round)
        return self._round.pop()

    def _kill_one(self, name: str, *, engine: bool) -> Iterator[float]:
        """Kill an engine or a pool child as soon as the worker has one."""
        give_up_at = time.monotonic() + STARTED
        while time.monotonic() < give_up_at:
            if processes := self._worker.processes(engine=engine):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(processes), signal.SIGKILL)
                    self._did(name)
                    return
            yield 0.1

    def _did(self, name: str) -> None:
        self.counts[name] += 1
        self.disturbances.append(Disturbance(name, time.time()))

    def _stop_for(self, seconds: float, name: str, *, engine: bool | None) -> Iterator[float]:
        """Suspend an engine, or all processes of the worker, for longer than their messages are invisible."""
        pids = [self._worker.program.pid]
        if engine:
            give_up_at = time.monotonic() + STARTED
            while not (pids := self._worker.processes(engine=True)) and time.monotonic() < give_up_at:
                yield 0.1
        for number, wait in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number) if engine else os.killpg(pid, number)
                    self._did(name if wait else f"{name}_went_on")
            yield wait

    def _replace(self) -> Iterator[float]:
        """Start the next worker, and end the former one when the next may work."""
        former = self._worker.program
        self._worker.start()
        self._did("worker_replaced")
        yield STARTED / 3
        former.signal(signal.SIGTERM)
        yield STARTED / 3

    def _scale(self, *, by_itself: bool) -> Iterator[float]:
        """Scale the pool of a worker that scales by itself, or of one that does not: each refuses other commands."""
        former, give_up_at = self._worker.program, time.monotonic() + REST
        if self._worker.scales_itself != by_itself:
            self._worker.next_scales_itself = by_itself
            self._signal_worker("worker_terminated", signal.SIGTERM)
            while self._worker.program is former and time.monotonic() < give_up_at:
                yield 0.5
        yield from self._commands.scale()

    def _jump(self) -> None:
        """Move SQS's clock on, so that every visibility timeout ends at once."""
        self._sqs.get(f"/advance/{LAPSE}")
        self._did("clock_jumped")

    def _empty(self) -> Iterator[float]:
        """Remove all data of the broker as soon as it holds no task: an event may depend on a published retry."""
        give_up_at = time.monotonic() + REST
        while not self._broker.empty():
            if time.monotonic() > give_up_at:
                self.counts["broker_not_emptied"] += 1
                return
            yield 0.1
        self._did("broker_emptied")

    def _kill_group(self) -> None:
        self._worker.program.signal_group(signal.SIGKILL)
        self._did("group_killed")

    def _signal_worker(self, name: str, number: signal.Signals) -> None:
        self._worker.program.signal(number)
        self._did(name)

    def _kill(self, name: str, server: servers.Server, meanwhile: Action | None = None) -> Iterator[float]:
        server.kill()
        self._did(f"{name}_killed")
        yield self._random.uniform(*DOWN)
        if meanwhile is not None:
            yield from meanwhile() or ()
        server.start()

    def _freeze(self, name: str, server: servers.Server, meanwhile: Action | None = None) -> Iterator[float]:
        server.freeze()
        self._did(f"{name}_frozen")
        if meanwhile is None:
            yield self._random.uniform(*DOWN)
        else:
            # Late enough for the engine to wait for the broker with what it has received.
            first = self._random.uniform(1.0, DOWN[1])
            yield first
            yield from meanwhile() or ()
            yield DOWN[1] - first
        server.thaw()

    def _delete_queues(self) -> Iterator[float]:
        """Delete the queues of tasks while they are empty, and send events meanwhile."""
        if self._broker.queues_hold_tasks:
            self.wants_rest = True
            give_up_at = time.monotonic() + REST
            while not (self.at_rest() and not any(self._broker.depths().values())):
                if time.monotonic() > give_up_at:
                    self.wants_rest = False
                    self.counts["queue_not_deleted"] += 1
                    return
                yield 0.5
        deleted = self._broker.delete_queues()
        self.wants_rest = False
        self._did("queue_deleted" if deleted else "queue_not_deleted")
        yield DELETED
        self._broker.restore_queues()
