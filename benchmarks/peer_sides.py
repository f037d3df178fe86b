"""The sides of figure ``peers``: this package and what users would pick instead, and one of them at work."""

from __future__ import annotations

import base64
import fcntl
import http.client
import json
import os
import select
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench_base import HERE, BenchSqs, servers
from celery import Celery
from peers.install import HOME, is_installed

from scripted_sqs.control import record

#: What each line of the ledger takes.
LINE = 32
QUEUE = "events"
_PEERS = HERE / "peers"
_feeder = Celery("feeder", broker="memory://", set_as_current=False)
#: Seconds for which messages are hidden until all of them are there.
_HIDDEN = 900
#: Seconds between single events, in which a side returns to waiting.
_PAUSE = 0.02


def celery_message(event: str) -> str:
    """Return the body that Celery's producer would send to SQS for the task of an event."""
    task = _feeder.amqp.create_task_message(str(uuid.uuid4()), "note", (json.loads(event),), {})
    properties = {
        **task.properties,
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "delivery_mode": 2,
        "delivery_tag": str(uuid.uuid4()),
        "priority": 0,
    }
    envelope = {
        "body": _base64(task.body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": task.headers,
        "properties": properties,
    }
    return _base64(envelope)


def pyqs_message(event: str) -> str:
    """Return the body that PyQS's producer would send for the task of an event."""
    return json.dumps({"task": "pyqs_tasks.consume", "args": [json.loads(event)], "kwargs": {}})


def _base64(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@dataclass(frozen=True)
class Side:
    """One way to run a function for each event of a queue.

    :param title: what it is.
    :param programs: the command lines of its processes.
    :param events: how many a round takes.
    :param peer: whose environment it needs; "" for this checkout's.
    :param body: makes the message's body of an event.
    :param env: environment variables of its own.
    :param isolates: whether each event is a task with its own retries and limits.
    :param collects: whether an event waits for others, so that a single one has no latency to compare.
    """

    title: str
    programs: tuple[tuple[str, ...], ...]
    events: int
    peer: str = ""
    body: Callable[[str], str] = str
    env: Mapping[str, str] = field(default_factory=dict)
    isolates: bool = False
    collects: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether it can run here."""
        return not self.peer or is_installed(self.peer)


def _python(peer: str = "") -> str:
    return str(HOME / peer / "bin" / "python") if peer else sys.executable


def _worker(app: str, peer: str = "", *more: str) -> tuple[str, ...]:
    return (_python(peer), "-m", "celery", "-A", app, "worker", "-c", "2", *more)


_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
_OURS = _worker("bench_project")

SIDES = {
    "hand-off": Side("a worker with its engine", (_OURS,), 4000, env={"BENCH_DISPATCH": "hand-off"}, isolates=True),
    "quiet": Side(
        "the same, set up as `celery-sqs`: no task events, gossip, mingle or heartbeats",
        (_worker("bench_project", "", *_QUIET),),
        4000,
        env={"BENCH_DISPATCH": "hand-off", "BENCH_EVENTS": "0"},
        isolates=True,
    ),
    "publish": Side("`hand-off`, but over Valkey", (_OURS,), 2000, env={"BENCH_DISPATCH": "publish"}, isolates=True),
    "batches": Side(
        "the worker, 100 events at once",
        (_OURS,),
        15_000,
        env={"BENCH_DISPATCH": "hand-off", "BENCH_BATCH": "100"},
        collects=True,
    ),
    "script": Side("`SQSEngine.run()`", ((_python(), "script.py"),), 15_000),
    "naive": Side(
        "boto3's receive and delete, `send_task()`, a Celery worker on Valkey",
        (_worker("naive", "naive"), (_python("naive"), "naive.py")),
        1500,
        peer="naive",
        isolates=True,
    ),
    "celery-sqs": Side(
        "Celery with SQS as its broker",
        (_worker("celery_sqs", "celery-sqs", *_QUIET),),
        2000,
        peer="celery-sqs",
        body=celery_message,
        isolates=True,
    ),
    "pyqs": Side(
        "PyQS", ((str(HOME / "pyqs/bin/pyqs"), "-c", "2", QUEUE),), 600, peer="pyqs", body=pyqs_message, isolates=True
    ),
    "sqs-consumer": Side("sqs-consumer on Node", (("node", "sqs_consumer.cjs"),), 3000, peer="sqs-consumer"),
    "sqs-workers": Side(
        "sqs-workers, two processes", ((_python("sqs-workers"), "sqs_workers_loop.py"),) * 2, 8000, peer="sqs-workers"
    ),
}


class Running:
    """A side at work on an SQS and a broker of its own. Its functions write into a pipe that this process reads."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._stack = ExitStack()
        self._written = bytearray()
        self._sent = 0

    def __enter__(self) -> Running:
        with ExitStack() as stack:
            self._sqs = stack.enter_context(BenchSqs())
            broker = stack.enter_context(servers.Valkey())
            ledger = Path(self._sqs.dir) / "ledger"
            os.mkfifo(ledger)
            self._ledger = os.open(ledger, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, self._ledger)
            fcntl.fcntl(self._ledger, fcntl.F_SETPIPE_SZ, 1_048_576)
            connection = http.client.HTTPConnection(urlsplit(self._sqs.endpoint_url).netloc, timeout=60)
            self._connection = stack.enter_context(closing(connection))
            self._send(200)  # so that connections are open, and caches filled, before anything is measured
            self._programs = [
                stack.enter_context(servers.Program(argv, env=self._env(broker.url, ledger), cwd=_PEERS))
                for argv in self._side.programs
            ]
            self._pids = [broker.pid, *(program.pid for program in self._programs)]
            self._wait(self._sent)
            self._wait_for_deletes()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def throughput(self, events: int) -> dict[str, float]:
        """Work a backlog off. Return the CPU per event of all processes but SQS's, events per second, and per call."""
        before = self._sent
        self._send(events, _HIDDEN)
        counts, cpu = self._sqs.counts(QUEUE), cpu_of(self._pids)
        self._sqs.get(f"/advance/{_HIDDEN}")
        began, first = self._wait(before + events // 10), self._done
        rate = (self._sent - first) / (self._wait(self._sent) - began)
        self._wait_for_deletes()
        calls = self._sqs.counts(QUEUE)
        return {
            "cpu_us": (cpu_of(self._pids) - cpu) / events * 1e6,
            "events_per_s": rate,
            **{
                f"events_per_{call}": events / (calls[f"{call}s"] - counts[f"{call}s"])
                for call in ("receive", "delete")
            },
        }

    def latencies(self, events: int) -> list[float]:
        """Send single events; return the seconds from the call of ``SendMessage`` to the end of each function."""
        found = []
        for _ in range(events):
            time.sleep(_PAUSE)
            body = self._body()
            began = time.perf_counter()
            self._call("SendMessage", {"MessageBody": body})
            while self._done < self._sent:
                if not select.select([self._ledger], [], [], 60)[0]:
                    raise TimeoutError("a single event took a minute")
                self._read()
            found.append(time.perf_counter() - began)
        return found

    @property
    def _done(self) -> int:
        return len(self._written) // LINE

    def _env(self, broker: str, ledger: Path) -> dict[str, str | None]:
        env: dict[str, str | None] = {
            **self._sqs.env,
            "BENCH_BROKER": broker,
            "BENCH_LEDGER": str(ledger),
            "BENCH_STATUS_DIR": str(self._sqs.dir),
            "BENCH_TOPIC": QUEUE,
            **self._side.env,
        }
        if self._side.peer:
            home = HOME / self._side.peer
            env |= {"PYTHONPATH": str(_PEERS), "NODE_PATH": str(home / "node_modules")}
        return env

    def _body(self) -> str:
        self._sent += 1
        return self._side.body(record(f"LG{self._sent:022d}"))

    def _send(self, events: int, delay: int = 0) -> None:
        for first in range(0, events, 10):
            entries = [
                {"Id": str(number), "MessageBody": self._body(), "DelaySeconds": delay}
                for number in range(min(10, events - first))
            ]
            self._call("SendMessageBatch", {"Entries": entries})

    def _call(self, action: str, asked: Mapping[str, object]) -> None:
        body = json.dumps({"QueueUrl": f"{self._sqs.endpoint_url}/000000000000/{QUEUE}", **asked})
        self._connection.request("POST", "/", body, {"X-Amz-Target": f"AmazonSQS.{action}"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200 or b'"Failed":[{' in content:
            raise RuntimeError(f"{action}: {answer.status} {content!r}")

    def _read(self) -> None:
        try:
            self._written += os.read(self._ledger, 1_048_576)
        except BlockingIOError:
            return

    def _wait(self, events: int) -> float:
        """Wait until the functions of *events* have run; return the time."""
        deadline = time.monotonic() + 300
        while self._done < events:
            for program in self._programs:
                if not program.running:
                    raise RuntimeError(f"{program.name} ended:\n{program.output[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._done} of {events} events:\n{self._programs[0].output[-2000:]}")
            time.sleep(0.005)
            self._read()
        return time.monotonic()

    def _wait_for_deletes(self) -> None:
        servers.wait_until(lambda: self._sqs.counts(QUEUE)["deleted"] == self._sent, 60, "the deletes")
        lines = bytes(self._written).splitlines()
        if len(set(lines)) != len(lines):
            raise RuntimeError(f"{len(lines) - len(set(lines))} functions ran twice for an event")


def cpu_of(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes and of all that they have started (Linux only)."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            times[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with its children that have ended
    return sum(times[pid] for pid in _with_descendants(pids, parents) if pid in times)


def _with_descendants(pids: Iterable[int], parents: Mapping[int, int]) -> Iterator[int]:
    for pid in pids:
        yield pid
        yield from _with_descendants([child for child, parent in parents.items() if parent == pid], parents)
