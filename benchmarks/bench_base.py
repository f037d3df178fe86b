"""What the benchmarks have in common: figures, rounds, child processes that tell their CPU time, and the SQS stub."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402

__all__ = ["HERE", "ROOT", "Child", "Figure", "Options", "StubSqs", "base_env", "median", "ratios", "servers"]


@dataclass
class Figure:
    """One figure of the issue: what was measured, what it should be, and from which sides it comes.

    :param name: stable; what ``--only`` takes.
    :param value: the figure itself, usually a ratio; the median of the rounds.
    :param goal: such as ``"<= 1.25"``.
    :param sides: what was measured, by name, with the unit in the name.
    """

    name: str
    value: float
    goal: str
    sides: dict[str, Any] = field(default_factory=dict)
    also: bool = True

    @property
    def holds(self) -> bool:
        """Whether the value reaches the goal, and *also*, whatever else must be true, is."""
        relation, _, bound = self.goal.partition(" ")
        reached = self.value <= float(bound) if relation == "<=" else self.value >= float(bound)
        return reached and self.also

    def as_json(self) -> dict[str, Any]:
        """The figure as it is written with ``--json``."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "goal": self.goal,
            "holds": self.holds,
            "sides": self.sides,
        }


@dataclass(frozen=True)
class Options:
    """How thorough a run is."""

    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """*quick* in a quick run, else *full*."""
        return quick if self.quick else full


def median(values: Iterable[float]) -> float:
    """The median, rounded for people."""
    return round(statistics.median(values), 4)


def ratios(above: Iterable[float], below: Iterable[float]) -> list[float]:
    """The ratio in each round: what disturbs a round disturbs both of its sides."""
    return [over / under for over, under in zip(above, below, strict=True)]


def base_env() -> dict[str, str | None]:
    """The environment of every process: this checkout, and no configuration of this machine's."""
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


class StubSqs(servers.Server):
    """The stub in its own process.

    :param distance: how much later it answers than it could, in seconds.
    """

    def __init__(self, distance: float = 0.0) -> None:
        super().__init__()
        self._distance = distance
        self.port = servers.free_port()

    @property
    def env(self) -> dict[str, str | None]:
        """By which a child's boto3 finds it."""
        return {**base_env(), "AWS_ENDPOINT_URL_SQS": f"http://127.0.0.1:{self.port}"}

    def load(self, queue: str, count: int) -> None:
        """Let *count* more messages of *queue* be received."""
        self._get(f"/load/{queue}/{count}")

    def counts(self, queue: str) -> dict[str, Any]:
        """What has happened to *queue*; ``stub_cpu`` is the CPU time of the stub's whole process."""
        return self._get(f"/counts/{queue}")

    def answers(self) -> bool:
        try:
            self.counts("none")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def _program(self) -> servers.Program:
        return servers.Program(
            [sys.executable, HERE / "stub_sqs.py", str(self.port), str(self._distance)], name="stub_sqs"
        )


class Child:
    """A process of ``bench_child.py`` that works on a queue of its own, and tells its CPU time when it is asked.

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
        """The CPU time of the process so far, in seconds, by ``time.process_time()`` in it."""
        return float(self._ask("cpu"))

    def rss(self) -> float:
        """Its resident memory, in MiB."""
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


def work_off(stub: StubSqs, child: Child, events: int, after: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Give *child* so many events; return its CPU per event in us from the first receive to the last delete.

    :param after: called when it is done, outside of what is measured.
    """
    before, cpu = stub.counts(child.role), child.cpu()
    began = time.monotonic()
    stub.load(child.role, events)
    wanted = before["deleted"] + events
    deadline = began + 600
    while stub.counts(child.role)["deleted"] < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{child.role}: {stub.counts(child.role)}")
        time.sleep(0.05)
    wall = time.monotonic() - began
    spent = child.cpu() - cpu
    counts = stub.counts(child.role)
    after()
    if counts["stale"] or counts["out"]:
        raise RuntimeError(f"{child.role} did not delete each message once: {counts}")
    return {
        "us": spent / events * 1e6,
        "wall_us": wall / events * 1e6,
        "events_per_receive": events / max(1, counts["receives"] - before["receives"]),
        "events_per_delete": events / max(1, counts["deletes"] - before["deletes"]),
    }
