"""Figures 5, 8 and 10: real workers from SQS to function done, idle workers, memory, scale, and batches."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench_base import HERE, Child, Figure, Options, StubSqs, median, ratios, servers
from bench_engine import hand_off_engine

#: What each line of a consumer's ledger takes.
LINE = 32
_PUT = """
import sys, bench_project
from stub_sqs import record
bench_project.app.loader.import_default_modules()
names = sorted(name for name in bench_project.app.tasks if name.startswith("bench_project."))
with bench_project.app.connection_for_write() as connection:
    for number in range(int(sys.argv[1])):
        for name in names:
            bench_project.app.tasks[name].delay(record("LG%022d" % number))
"""


class Bench:
    """A stub, a broker and a ledger for the workers of one measurement.

    :param dispatch: how the engines dispatch; "" for workers without one.
    :param consumers: how many consumers each event has.
    :param sleep: for how many seconds each function waits.
    :param batch: how many events the first consumer gets at once; 0: one, by itself.
    :param distance: how far away SQS is, in seconds.
    :param pollers: how many receives each engine may have under way.
    """

    def __init__(
        self,
        dispatch: str,
        consumers: int,
        sleep: float = 0.0,
        batch: int = 0,
        distance: float = 0.0,
        pollers: int = 1,
    ) -> None:
        self.dispatch = dispatch
        self.consumers = consumers
        self._sleep = sleep
        self._batch = batch
        self._distance = distance
        self._pollers = pollers
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.stub = self._stack.enter_context(StubSqs(self._distance))
        self.valkey = self._stack.enter_context(servers.Valkey())
        self.ledger = Path(self.stub.dir) / "ledger"
        self.ledger.touch()
        self.env = {
            **self.stub.env,
            "BENCH_BROKER": self.valkey.url,
            "BENCH_LEDGER": str(self.ledger),
            "BENCH_TOPIC": "events",
            "BENCH_CONSUMERS": str(self.consumers),
            "BENCH_DISPATCH": self.dispatch or "publish",
            "BENCH_SLEEP": str(self._sleep),
            "BENCH_BATCH": str(self._batch),
            "BENCH_POLLERS": str(self._pollers),
            "BENCH_STATUS_DIR": str(self.stub.dir),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str = "w1", concurrency: int = 2) -> servers.Program:
        """Start a worker, with its engine if it has one, and wait until it is ready."""
        argv = [sys.executable, "-m", "celery", "-A", "bench_project", "worker", "-c", str(concurrency)]
        argv += ["-l", "INFO", "-n", f"{name}@bench", *([] if self.dispatch else ["--no-engine"])]
        program = servers.Program(argv, env=self.env, cwd=HERE)
        self._stack.enter_context(program)
        program.wait_for(" ready.", 60)
        if self.dispatch:
            program.wait_for("engine started", 60)
        return program

    def put(self, events: int) -> None:
        """Put the tasks of so many events on the broker, by ``delay()``."""
        env = {key: value for key, value in {**os.environ, **self.env}.items() if value is not None}
        subprocess.run([sys.executable, "-c", _PUT, str(events)], env=env, cwd=HERE, check=True)

    def done(self) -> int:
        """How many functions have run."""
        return self.ledger.stat().st_size // LINE

    def wait(self, tasks: int, timeout: float = 300.0) -> float:
        """Wait until so many functions have run; return the moment."""
        deadline = time.monotonic() + timeout
        while self.done() < tasks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.done()} of {tasks} tasks in {timeout:.0f} s")
            time.sleep(0.005)
        return time.monotonic()

    def rate(self, tasks: int) -> float:
        """Tasks per second, from when a tenth is done."""
        first = tasks // 10
        began, seen = self.wait(first), self.done()
        return (tasks - seen) / (self.wait(tasks) - began)

    def repeated(self) -> int:
        """How many functions ran again for an event that they had run for."""
        with self.ledger.open() as lines:
            return sum(count - 1 for count in Counter(lines).values())


def _rate(dispatch: str, consumers: int, tasks: int, **setup: Any) -> float:
    with Bench(dispatch, consumers, **setup) as bench:
        if not dispatch:
            bench.put(tasks // consumers)
        bench.start()
        if dispatch:
            bench.stub.load("events", tasks // consumers)
        rate = bench.rate(tasks)
        if bench.repeated():
            raise RuntimeError(f"{bench.repeated()} functions ran twice for an event")
        return rate


_rates: dict[tuple[Options, str, int], list[float]] = {}


def _all_rates(options: Options) -> dict[tuple[Options, str, int], list[float]]:
    """Tasks per second of every way, the ways taking turns; measured once."""
    ways = [(dispatch, consumers) for consumers in (1, 2) for dispatch in ("", "publish", "hand-off")]
    if not _rates:
        for _ in range(options.pick(5, 2)):
            for dispatch, consumers in ways:
                rate = _rate(dispatch, consumers, options.pick(6000, 1500))
                _rates.setdefault((options, dispatch, consumers), []).append(rate)
    return _rates


def _end_to_end(options: Options, dispatch: str, goal: str) -> Figure:
    rates = _all_rates(options)
    sides: dict[str, Any] = {}
    found = []
    for consumers in (1, 2):
        ours, drained = rates[options, dispatch, consumers], rates[options, "", consumers]
        found.append(median(ratios(ours, drained)))
        sides[f"ratio_{consumers}_consumers"] = found[-1]
        sides[f"{dispatch}_{consumers}_consumers_tasks_per_s"] = median(ours)
        sides[f"drained_{consumers}_consumers_tasks_per_s"] = median(drained)
    return Figure(f"end-to-end-{dispatch}", min(found), goal, sides)


def end_to_end_publish(options: Options) -> Figure:
    """From SQS over the broker to the function, against the same worker draining tasks that lie ready."""
    return _end_to_end(options, "publish", ">= 0.9")


def end_to_end_hand_off(options: Options) -> Figure:
    """From SQS to the function past the broker, against the same worker draining tasks that lie ready."""
    return _end_to_end(options, "hand-off", ">= 2")


def memory(options: Options) -> Figure:
    """How much an engine's resident memory grows while it hands over events, after the first tenth of them."""
    events = options.pick(1_000_000, 50_000)
    with StubSqs() as stub:
        env = {**stub.env, "BENCH_BROKER": "memory://", "BENCH_STATUS_DIR": str(stub.dir)}
        with hand_off_engine(env, limit=100) as engine:
            sizes = [_size_after(stub, engine, events // 10 * part) for part in range(1, 11)]
    sides = {"events": events, "mib_after_each_tenth": [round(size, 2) for size in sizes]}
    return Figure("memory", max(sizes[1:]) - sizes[0], "<= 5", sides)


def _size_after(stub: StubSqs, engine: Child, events: int) -> float:
    stub.load(engine.role, events - stub.counts(engine.role)["received"])
    deadline = time.monotonic() + 3600
    while stub.counts(engine.role)["deleted"] < events:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stub.counts(engine.role)} after an hour")
        time.sleep(0.1)
    return engine.rss()


def idle(options: Options) -> Figure:
    """A worker with its engine and nothing to do: the share of a core of all its processes, in percent."""
    seconds = options.pick(120, 60)
    sides: dict[str, Any] = {"seconds": seconds}
    shares, polls = [], []
    with ExitStack() as stack:
        benches = {way: stack.enter_context(Bench(way, 1)) for way in ("hand-off", "publish", "")}
        pids = {way: bench.start().pid for way, bench in benches.items()}
        for bench in benches.values():
            if bench.dispatch:
                bench.stub.load("events", 10)
                bench.wait(10)
        time.sleep(5)
        before = {way: (_tree_cpu(pids[way]), bench.stub.counts("events")) for way, bench in benches.items()}
        time.sleep(seconds)
        for way, bench in benches.items():
            cpu, counts = before[way]
            share = (_tree_cpu(pids[way]) - cpu) / seconds * 100
            sides[f"{way or 'without_engine'}_percent"] = round(share, 3)
            if way:
                shares.append(share)
                polls.append((bench.stub.counts("events")["receives"] - counts["receives"]) / seconds * 60)
                sides[f"{way}_receives_per_minute"] = round(polls[-1], 2)
    return Figure("idle", max(shares), "<= 1", sides, also=max(polls) <= 3.5)


def _tree_cpu(pid: int) -> float:
    """The CPU time of a process and its children, in seconds. Linux only."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()]
    family = {pid, *(child for child, parent in parents if parent == pid)}
    return sum(_cpu(member) for member in family)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _workers(count: int, sleep: float) -> Iterator[Bench]:
    with Bench("hand-off", 1, sleep) as bench:
        for number in range(count):
            bench.start(f"w{number}")
        yield bench


def scale(options: Options) -> Figure:
    """1, 2 and 4 workers with engines on one queue: events per second, and functions that ran twice for an event.

    The value is how much faster four are than one, where the functions wait (10 ms) and do not compete for the cores.
    """
    counts = (1, 2, 4)
    rates: dict[tuple[float, int], list[float]] = {}
    repeated = 0
    for _ in range(options.pick(3, 1)):
        for sleep in (0.01, 0.0):
            for count in counts:
                tasks = options.pick(4000, 1500)
                with _workers(count, sleep) as bench:
                    bench.stub.load("events", tasks)
                    rates.setdefault((sleep, count), []).append(bench.rate(tasks))
                    time.sleep(1.5)
                    repeated += bench.repeated()
                    left = bench.stub.counts("events")["out"]
                    if left:
                        raise RuntimeError(f"{left} messages were not deleted")
    sides: dict[str, Any] = {"repeated": repeated, "cores": os.cpu_count()}
    for (sleep, count), values in rates.items():
        what = "waiting" if sleep else "no_op"
        sides[f"{what}_{count}_workers_events_per_s"] = median(values)
    value = median(ratios(rates[0.01, 4], rates[0.01, 1]))
    grows = median(rates[0.01, 2]) > median(rates[0.01, 1])
    return Figure("scale", value, ">= 1.5", sides, also=grows and repeated == 0)


def batch_throughput(options: Options) -> Figure:
    """Events per second of a consumer that does nothing, 100 events at once, against one by one; the worse way."""
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.pick(5, 2)):
        for dispatch in ("hand-off", "publish"):
            for batch in (0, 100):
                events = options.pick(6000, 1500) * (5 if batch else 1)
                rates.setdefault((dispatch, batch), []).append(_rate(dispatch, 1, events, batch=batch))
    sides: dict[str, Any] = {}
    for (dispatch, batch), values in rates.items():
        sides[f"{dispatch}_{'batches' if batch else 'single'}_events_per_s"] = median(values)
    found = [median(ratios(rates[dispatch, 100], rates[dispatch, 0])) for dispatch in ("hand-off", "publish")]
    sides["ratio_hand-off"], sides["ratio_publish"] = found
    return Figure("batch-throughput", min(found), ">= 5", sides)


#: How far away SQS is where pollers are compared, in seconds, and how many they are.
_DISTANCE, _POLLERS = 0.01, 4


def pollers(options: Options) -> Figure:
    """Several receives at a time where SQS is far away, against one."""
    rates: dict[int, list[float]] = {1: [], _POLLERS: []}
    for _ in range(options.pick(5, 2)):
        for count, values in rates.items():
            values.append(_rate("hand-off", 1, options.pick(6000, 2000), distance=_DISTANCE, pollers=count))
    sides = {f"{count}_pollers_events_per_s": median(values) for count, values in rates.items()}
    return Figure("pollers", median(ratios(rates[_POLLERS], rates[1])), ">= 2", sides)


FIGURES = {
    "end-to-end-publish": end_to_end_publish,
    "end-to-end-hand-off": end_to_end_hand_off,
    "memory": memory,
    "idle": idle,
    "scale": scale,
    "batch-throughput": batch_throughput,
    "pollers": pollers,
}
