"""The common parts of the benchmarks: figures, rounds, child processes that report their CPU time, and their SQS."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402
from scripted_sqs.process import ScriptedSqs  # noqa: E402

__all__ = [
    "HERE",
    "ROOT",
    "BenchSqs",
    "Child",
    "Figure",
    "Options",
    "Part",
    "Skipped",
    "base_env",
    "median",
    "ratios",
    "servers",
]


class Skipped(Exception):
    """A figure cannot be measured here, for the reason that it gives."""


@dataclass
class Figure:
    """One figure: a measured value, its goal, and the two sides that it compares.

    :param name: stable; what ``--only`` takes.
    :param value: the figure itself, usually a ratio; the median of the rounds.
    :param goal: such as ``"<= 1.25"``.
    :param sides: what was measured, by name, with the unit in the name.
    :param also: any further condition.
    :param table: tables of its own, for README.md.
    """

    name: str
    value: float
    goal: str
    sides: dict[str, Any] = field(default_factory=dict)
    also: bool = True
    table: str = ""

    @property
    def holds(self) -> bool:
        """Return whether the value reaches the goal and *also*, any further condition, is true."""
        relation, _, bound = self.goal.partition(" ")
        reached = self.value <= float(bound) if relation == "<=" else self.value >= float(bound)
        return reached and self.also

    def as_json(self) -> dict[str, Any]:
        """Return the figure as ``--json`` writes it."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "goal": self.goal,
            "holds": self.holds,
            "sides": self.sides,
        }


class Part(NamedTuple):
    """A part of a figure: its table for README.md, and what was measured, by name."""

    table: str
    sides: dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How thorough a run is.

    :param events: how many events the figures of memory take; None: as many as suit.
    """

    quick: bool = False
    events: int | None = None

    def pick(self, full: int, quick: int) -> int:
        """Return *quick* in a quick run, else *full*."""
        return quick if self.quick else full


def median(values: Iterable[float]) -> float:
    """Return the median, rounded for display."""
    return round(statistics.median(values), 4)


def ratios(above: Iterable[float], below: Iterable[float]) -> list[float]:
    """Return the ratio of each round: a disturbance of a round affects both of its sides."""
    return [over / under for over, under in zip(above, below, strict=True)]


def base_env() -> dict[str, str | None]:
    """Return the environment of every process: this checkout, and no configuration of this machine."""
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), str(ROOT / "tests")]),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": None,
        # What pip installs is compiled; so must be this checkout.
        "PYTHONDONTWRITEBYTECODE": None,
        "CELERY_CONFIG_MODULE": None,
        "CELERY_BROKER_URL": None,
    }


class BenchSqs(ScriptedSqs):
    """A scripted SQS without faults that keeps no deleted messages.

    :param distance: how much later it answers than it could, in seconds.
    """

    def __init__(self, distance: float = 0.0) -> None:
        super().__init__("--bench", "--distance", str(distance))

    @property
    def env(self) -> dict[str, str | None]:
        """By which a child's boto3 finds it."""
        return {**base_env(), "AWS_ENDPOINT_URL_SQS": self.endpoint_url}

    def load(self, queue: str, count: int, padding: int = 0, groups: int = 0) -> None:
        """Add *count* messages to *queue*, all of them *padding* bytes larger than usual; in *groups* if it is FIFO."""
        self.get(f"/load/{queue}/{count}/{padding}/{groups}")

    def counts(self, queue: str) -> dict[str, Any]:
        """Return the counters of *queue*; ``cpu`` is the CPU time of the server's process."""
        counts: dict[str, Any] = self.get(f"/counts/{queue}")
        return counts


class Child:
    """A process of ``bench_child.py`` that works on its own queue, and reports its CPU time on request.

    :param role: what it does: a function of that module.
    :param env: its environment, added to this process's.
    """

    def __init__(self, role: str, env: Mapping[str, str | None], *, fds: Iterable[int] = ()) -> None:
        self.role = role
        merged = {**os.environ, **env, "BENCH_TOPIC": role}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "bench_child.py"), role],
            env={key: value for key, value in merged.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE,
            pass_fds=tuple(fds),
            text=True,
        )
        self._read()

    def cpu(self) -> float:
        """Return the process's CPU time so far, in seconds, by its own ``time.process_time()``."""
        return float(self._ask("cpu"))

    def rss(self) -> float:
        """Return its resident memory, in MiB."""
        listing = subprocess.run(["ps", "-o", "rss=", "-p", str(self._process.pid)], capture_output=True, text=True)
        return int(listing.stdout) / 1024

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child {self.role} ended with {self._process.wait()}")
        return line.strip()


def work_off(sqs: BenchSqs, child: Child, events: int, after: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Give *child* a number of events; return its CPU per event in us from the first receive to the last delete.

    :param after: called when it is done, outside of what is measured.
    """
    before, cpu = sqs.counts(child.role), child.cpu()
    began = time.monotonic()
    sqs.load(child.role, events)
    wanted = before["deleted"] + events
    deadline = began + 600
    while sqs.counts(child.role)["deleted"] < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{child.role}: {sqs.counts(child.role)}")
        time.sleep(0.05)
    wall = time.monotonic() - began
    spent = child.cpu() - cpu
    counts = sqs.counts(child.role)
    after()
    if counts["stale"] or counts["out"]:
        raise RuntimeError(f"{child.role} did not delete each message once: {counts}")
    return {
        "us": spent / events * 1e6,
        "wall_us": wall / events * 1e6,
        "events_per_receive": events / max(1, counts["receives"] - before["receives"]),
        "events_per_delete": events / max(1, counts["deletes"] - before["deletes"]),
    }
