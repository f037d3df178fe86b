"""Kills and freezes processes, one after the other, and sees that what ended is started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_brokers import servers

#: Seconds between two actions.
GAP = (2.0, 4.5)
#: Seconds for which a broker stays dead or frozen.
DOWN = (0.5, 4.0)


class Worker:
    """A Celery worker that can be started again and again; what former ones left behind ends with the block.

    :param folder: the project's folder.
    :param env: what it needs in its environment.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._programs: list[servers.Program] = []

    @property
    def program(self) -> servers.Program:
        """The one that was started last."""
        return self._programs[-1]

    def start(self) -> None:
        """Start another one."""
        number = len(self._programs) + 1
        argv = [sys.executable, "-m", "celery", "-A", "balog_celery", "worker", "-c", "2", "-l", "INFO"]
        program = servers.Program([*argv, "-n", f"w{number}@faults"], env=self._env, cwd=self._folder)
        self._programs.append(program.start())

    def processes(self, *, engine: bool) -> list[int]:
        """The ids of its engine, or those of its pool's children."""
        command = ["ps", "-wweo", "pid=,ppid=,args="]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()]
        return [
            int(pid)
            for pid, parent, args in rows
            if int(parent) == self.program.pid
            and ("--worker-pid" in args) == engine
            and " worker " in f"{args} worker "
        ]

    def log(self) -> str:
        """What all of them wrote."""
        return "\n".join(f"--- worker {number}\n{one.output}" for number, one in enumerate(self._programs, 1))

    def kill_all(self) -> None:
        """End it, and everything that it or its predecessors started."""
        for program in self._programs:
            program.kill_group()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for program in self._programs:
            program.__exit__(None, None, None)


class Director:
    """Carries out one fault after the other, each kind once in a round, in an order drawn anew for each round.

    Call :meth:`tick` often: it never blocks for long.

    :param seed: of the order and of every pause.
    """

    def __init__(self, worker: Worker, broker: servers.Server, seed: int, gap: float = 1.0) -> None:
        self.counts: Counter[str] = Counter()
        #: How many actions were carried out.
        self.done = 0
        self._worker = worker
        self._broker = broker
        self._random = random.Random(seed)
        self._actions: dict[str, Callable[[], None]] = {
            "child_killed": self._kill_child,
            "engine_killed": self._kill_engine,
            "worker_killed": lambda: self._worker.program.signal(signal.SIGKILL),
            "group_killed": lambda: self._worker.program.signal_group(signal.SIGKILL),
            "worker_terminated": lambda: self._worker.program.signal(signal.SIGTERM),
            "broker_killed": self._kill_broker,
            "broker_frozen": self._freeze_broker,
            # Two at once: the engine then holds what it could not publish.
            "broker_frozen+engine_killed": lambda: self._with_broker_frozen(self._kill_engine),
            "broker_frozen+group_killed": lambda: self._with_broker_frozen(self._kill_group),
            "broker_killed+group_killed": self._kill_broker_and_group,
        }
        self._round: Iterator[str] = iter(())
        self._gap = gap
        self._next_at = time.monotonic() + 1.0
        #: What is to be done later, with its time: the second half of an action.
        self._later: list[tuple[float, Callable[[], None]]] = []

    @property
    def round_length(self) -> int:
        """How many actions a round has."""
        return len(self._actions)

    def tick(self, *, act: bool) -> None:
        """Do what is due; with *act* false only what ends a fault, and restarting."""
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        for entry in due:
            self._later.remove(entry)
            entry[1]()
        if not self._worker.program.running:
            self.counts[f"worker_ended_{self._worker.program.returncode}"] += 1
            self._worker.start()
        if act and not self._later and now >= self._next_at:
            self._act(self._next_name())
            self._next_at = time.monotonic() + self._gap * self._random.uniform(*GAP)

    @property
    def busy(self) -> bool:
        """Whether a fault is still to be ended."""
        return bool(self._later)

    def _next_name(self) -> str:
        name = next(self._round, None)
        if name is None:
            names = list(self._actions)
            self._random.shuffle(names)
            self._round = iter(names)
            name = next(self._round)
        return name

    def _act(self, name: str) -> None:
        self._actions[name]()
        self.done += 1
        for part in name.split("+"):
            self.counts[part] += 1

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _kill_child(self) -> None:
        children = self._worker.processes(engine=False)
        if children:
            _kill(self._random.choice(children))
        else:
            self.counts["child_killed"] -= 1

    def _kill_engine(self) -> None:
        engines = self._worker.processes(engine=True)
        for pid in engines:
            _kill(pid)
        if not engines:
            self.counts["engine_killed"] -= 1

    def _kill_group(self) -> None:
        self._worker.program.signal_group(signal.SIGKILL)

    def _kill_broker(self) -> None:
        self._broker.kill()
        self._in(self._random.uniform(*DOWN), lambda: self._broker.start() and None)

    def _kill_broker_and_group(self) -> None:
        self._kill_broker()
        self._in(self._random.uniform(*DOWN), self._kill_group)

    def _freeze_broker(self) -> None:
        self._broker.freeze()
        self._in(self._random.uniform(*DOWN), self._broker.thaw)

    def _with_broker_frozen(self, act: Callable[[], None]) -> None:
        self._broker.freeze()
        self._in(DOWN[1], self._broker.thaw)
        # Late enough for the engine to wait for the broker with what it has received.
        self._in(self._random.uniform(1.0, DOWN[1]), act)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
