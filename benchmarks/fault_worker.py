"""The Celery worker of a fault run, which is killed and restarted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fault_brokers import servers


class Worker:
    """A Celery worker that can be restarted; everything that earlier ones left behind ends with the block.

    :param folder: the project's folder.
    :param env: what it needs in its environment.
    :param pool: the kind of its pool, as ``celery worker -P`` names it.
    :param scales: whether the pool of every other worker scales by itself.
    """

    def __init__(self, folder: Path, env: Mapping[str, str | None], pool: str, *, scales: bool) -> None:
        self._folder = folder
        self._env = env
        self.pool = pool
        self._scales = scales
        #: Whether the pool of the program that was started last scales by itself.
        self.scales_itself = False
        #: Whether that of the next one is to, if that matters.
        self.next_scales_itself: bool | None = None
        self._programs: list[servers.Program] = []

    @property
    def program(self) -> servers.Program:
        """The program that was started last."""
        return self._programs[-1]

    def start(self) -> None:
        """Start another worker."""
        number = len(self._programs) + 1
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "balog_celery",
            "worker",
            "-c",
            "2",
            "-l",
            "INFO",
            "-P",
            self.pool,
        ]
        wanted, self.next_scales_itself = self.next_scales_itself, None
        self.scales_itself = self._scales and (number % 2 == 0 if wanted is None else wanted)
        if self.scales_itself:
            argv += ["--autoscale", "3,1"]
        program = servers.Program([*argv, "-n", f"w{number}@faults"], env=self._env, cwd=self._folder)
        self._programs.append(program.start())

    def processes(self, *, engine: bool) -> list[int]:
        """Return the process ids of its engine, or of its pool's children."""
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
        """Return the output of all workers."""
        return "\n".join(f"--- worker {number}\n{one.output}" for number, one in enumerate(self._programs, 1))

    def kill_all(self) -> None:
        """Kill all processes that workers have started."""
        for program in self._programs:
            program.kill_group()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for program in self._programs:
            program.__exit__(None, None, None)
