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

from bench_base import HERE, BenchSqs, Child, Figure, Options, median, ratios, servers
from bench_engine import hand_off_engine

#: What each line of a consumer's ledger takes.
LINE = 32
_PUT = """
import sys, bench_project
from scripted_sqs.control import record
bench_project.app.loader.import_default_modules()
names = sorted(name for name in bench_project.app.tasks if name.startswith("bench_project."))
with bench_project.app.connection_for_write() as connection:
    for number in range(int(sys.argv[1])):
        for name in names:
            bench_project.app.tasks[name].delay(record("LG%022d" % number))
"""


class Bench:
    """An SQS, a broker and a ledger for the workers of one measurement.

    :param dispatch: how the engines dispatch; "" for workers without one.
    :param consumers: how many consumers each event has.
    :param sleep: for how many seconds each function waits.
    :param batch: how many events the first consumer gets at once; 0: one, by itself.
    :param chunk: how many events the first consumer gets in one task, in a call each; 0: a task for each.
    :param distance: how far away SQS is, in seconds.
    :param pollers: how many receives each engine may have under way.
    :param events: whether workers send Celery's task events.
    :param broker: ``valkey`` or ``rabbitmq``.
    :param groups: how many message groups the topic has, which is then FIFO; 0: a standard queue.
    """

    def __init__(
        self,
        dispatch: str,
        consumers: int,
        sleep: float = 0.0,
        batch: int = 0,
        chunk: int = 0,
        distance: float = 0.0,
        pollers: int = 1,
        events: bool = True,
        broker: str = "valkey",
        groups: int = 0,
    ) -> None:
        self.dispatch = dispatch
        self.consumers = consumers
        self._sleep = sleep
        self._batch = batch
        self._chunk = chunk
        self._distance = distance
        self._pollers = pollers
        self._events = events
        self._groups = groups
        self.topic = "events.fifo" if groups else "events"
        self.broker: servers.Server = servers.RabbitMQ() if broker == "rabbitmq" else servers.Valkey()
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.sqs = self._stack.enter_context(BenchSqs(self._distance))
        self._stack.enter_context(self.broker)
        self.ledger = Path(self.sqs.dir) / "ledger"
        self.ledger.touch()
        self.env = {
            **self.sqs.env,
            "BENCH_BROKER": self.broker.url,
            "BENCH_LEDGER": str(self.ledger),
            "BENCH_TOPIC": self.topic,
            "BENCH_CONSUMERS": str(self.consumers),
            "BENCH_DISPATCH": self.dispatch or "publish",
            "BENCH_SLEEP": str(self._sleep),
            "BENCH_BATCH": str(self._batch),
            "BENCH_CHUNK": str(self._chunk),
            "BENCH_POLLERS": str(self._pollers),
            "BENCH_EVENTS": str(int(self._events)),
            "BENCH_STATUS_DIR": str(self.sqs.dir),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str = "w1", concurrency: int = 2, pool: str = "prefork") -> servers.Program:
        """Start a worker, with its engine if it has one, and wait until it is ready."""
        argv = [sys.executable, "-m", "celery", "-A", "bench_project", "worker", "-c", str(concurrency), "-P", pool]
        argv += ["-l", "INFO", "-n", f"{name}@bench", *([] if self.dispatch else ["--no-engine"])]
        program = servers.Program(argv, env=self.env, cwd=HERE)
        self._stack.enter_context(program)
        program.wait_for(" ready.", 180)  # a hundred children take long on a busy machine
        if self.dispatch:
            program.wait_for("engine started", 180)
        return program

    def put(self, events: int) -> None:
        """Put the tasks of *count* events on the broker, by ``delay()``."""
        env = {key: value for key, value in {**os.environ, **self.env}.items() if value is not None}
        subprocess.run([sys.executable, "-c", _PUT, str(events)], env=env, cwd=HERE, check=True)

    def load(self, events: int) -> None:
        """Put this many events more into the queue."""
        self.sqs.load(self.topic, events, groups=self._groups)

    def counts(self) -> dict[str, Any]:
        """Return what has happened to the queue."""
        return self.sqs.counts(self.topic)

    def done(self) -> int:
        """Return how many functions have run."""
        return self.ledger.stat().st_size // LINE

    def wait(self, tasks: int, timeout: float = 300.0) -> float:
        """Wait until *tasks* functions have run; return the time."""
        deadline = time.monotonic() + timeout
        while self.done() < tasks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.done()} of {tasks} tasks in {timeout:.0f} s")
            time.sleep(0.005)
        return time.monotonic()

    def rate(self, tasks: int, warm_up: float = 0.1) -> float:
        """Return the tasks per second, from when a part of them is done, a tenth if nothing else is said."""
        first = int(tasks * warm_up)
        began, seen = self.wait(first), self.done()
        return (tasks - seen) / (self.wait(tasks) - began)

    def repeated(self) -> int:
        """Return how many functions ran again for the same event."""
        with self.ledger.open() as lines:
            return sum(count - 1 for count in Counter(lines).values())


def _rate(dispatch: str, consumers: int, tasks: int, **setup: Any) -> float:
    with Bench(dispatch, consumers, **setup) as bench:
        if not dispatch:
            bench.put(tasks // consumers)
        bench.start()
        if dispatch:
            bench.sqs.load("events", tasks // consumers)
        rate = bench.rate(tasks)
        if bench.repeated():
            raise RuntimeError(f"{bench.repeated()} functions ran twice for an event")
        return rate


_rates: dict[tuple[Options, str, int], list[float]] = {}


def _all_rates(options: Options) -> dict[tuple[Options, str, int], list[float]]:
    """Return the tasks per second of each way; the ways take turns, and are measured once."""
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
    """Compare the way from SQS over the broker to the function with draining ready tasks in the same worker."""
    return _end_to_end(options, "publish", ">= 0.9")


def end_to_end_hand_off(options: Options) -> Figure:
    """Compare the way from SQS by hand-off to the function with draining ready tasks in the same worker."""
    return _end_to_end(options, "hand-off", ">= 2")


def memory(options: Options) -> Figure:
    """Measure how much an engine's resident memory grows during hand-off, after the first tenth of the events."""
    events = options.events or options.pick(1_000_000, 50_000)
    with BenchSqs() as sqs:
        env = {**sqs.env, "BENCH_BROKER": "memory://", "BENCH_STATUS_DIR": str(sqs.dir)}
        with hand_off_engine(env, limit=100) as engine:
            sizes = [_size_after(sqs, engine, events // 10 * part) for part in range(1, 11)]
    sides = {"events": events, "mib_after_each_tenth": [round(size, 2) for size in sizes]}
    return Figure("memory", max(sizes[1:]) - sizes[0], "<= 5", sides)


def _size_after(sqs: BenchSqs, engine: Child, events: int) -> float:
    sqs.load(engine.role, events - sqs.counts(engine.role)["received"])
    deadline = time.monotonic() + 3600
    while sqs.counts(engine.role)["deleted"] < events:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{sqs.counts(engine.role)} after an hour")
        time.sleep(0.1)
    return engine.rss()


def idle(options: Options) -> Figure:
    """Measure an idle worker with its engine: the share of a core of all its processes, in percent."""
    seconds = options.pick(120, 60)
    sides: dict[str, Any] = {"seconds": seconds}
    shares, polls = [], []
    with ExitStack() as stack:
        benches = {way: stack.enter_context(Bench(way, 1)) for way in ("hand-off", "publish", "")}
        pids = {way: bench.start().pid for way, bench in benches.items()}
        for bench in benches.values():
            if bench.dispatch:
                bench.sqs.load("events", 10)
                bench.wait(10)
        time.sleep(5)
        before = {way: (tree_cpu(pids[way]), bench.sqs.counts("events")) for way, bench in benches.items()}
        time.sleep(seconds)
        for way, bench in benches.items():
            cpu, counts = before[way]
            share = (tree_cpu(pids[way]) - cpu) / seconds * 100
            sides[f"{way or 'without_engine'}_percent"] = round(share, 3)
            if way:
                shares.append(share)
                polls.append((bench.sqs.counts("events")["receives"] - counts["receives"]) / seconds * 60)
                sides[f"{way}_receives_per_minute"] = round(polls[-1], 2)
    return Figure("idle", max(shares), "<= 1", sides, also=max(polls) <= 3.5)


def tree_cpu(pid: int) -> float:
    """Return the CPU time of a process and its children, in seconds. Linux only."""
    return sum(process_cpu(member) for member in family(pid))


def family(pid: int) -> set[int]:
    """Return the ids of a process and its children."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()]
    return {pid, *(child for child, parent in parents if parent == pid)}


def process_cpu(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _workers(count: int, sleep: float) -> Iterator[Bench]:
    with Bench("hand-off", 1, sleep) as bench:
        for number in range(count):
            bench.start(f"w{number}")
        yield bench


def scale(options: Options) -> Figure:
    """Measure 1, 2 and 4 workers with engines on one queue: events per second, and functions that ran twice.

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
                    bench.sqs.load("events", tasks)
                    rates.setdefault((sleep, count), []).append(bench.rate(tasks))
                    time.sleep(1.5)
                    repeated += bench.repeated()
                    left = bench.sqs.counts("events")["out"]
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
    """Compare batches of 100 events with single events, for a consumer that does nothing.

    The worse dispatch mode counts.
    """
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


def chunk_throughput(options: Options) -> Figure:
    """Compare chunks of up to 100 events with single events and with batches, for a consumer that does nothing.

    All by hand-off. The CPU is that of the worker, its children and its engine.
    """
    rates: dict[str, list[float]] = {}
    cpus: dict[str, list[float]] = {}
    sizes: list[float] = []
    for _ in range(options.pick(5, 2)):
        for way in ("single", "batch", "chunk"):
            events = options.pick(6000, 1500) * (1 if way == "single" else 5)
            with Bench("hand-off", 1, **({} if way == "single" else {way: 100})) as bench:
                worker = bench.start()
                bench.sqs.load("events", events)
                bench.wait(events // 10)
                before, seen = tree_cpu(worker.pid), bench.done()
                rates.setdefault(way, []).append(bench.rate(events))
                cpus.setdefault(way, []).append((tree_cpu(worker.pid) - before) / (events - seen) * 1e6)
                if way == "chunk":
                    sizes.append(events / max(1, worker.output.count("succeeded in")))
    sides: dict[str, Any] = {"events_per_chunk": median(sizes)}
    for way in rates:
        sides[f"{way}_events_per_s"], sides[f"{way}_us"] = median(rates[way]), median(cpus[way])
    sides["cpu_of_single"] = median(ratios(cpus["chunk"], cpus["single"]))
    sides["cpu_of_batch"] = median(ratios(cpus["chunk"], cpus["batch"]))
    return Figure("chunk-throughput", median(ratios(rates["chunk"], rates["single"])), ">= 5", sides)


#: How far away SQS is where pollers are compared, in seconds, and how many they are.
_DISTANCE, _POLLERS = 0.01, 4


def pollers(options: Options) -> Figure:
    """Compare several receives at a time with one, for a distant SQS."""
    rates: dict[int, list[float]] = {1: [], _POLLERS: []}
    for _ in range(options.pick(5, 2)):
        for count, values in rates.items():
            values.append(_rate("hand-off", 1, options.pick(6000, 2000), distance=_DISTANCE, pollers=count))
    sides = {f"{count}_pollers_events_per_s": median(values) for count, values in rates.items()}
    return Figure("pollers", median(ratios(rates[_POLLERS], rates[1])), ">= 2", sides)


#: For how long a function waits where pools are compared, in seconds, and how many run at a time.
_WAIT, _CONCURRENCY = 0.1, 100


def pools(options: Options) -> Figure:
    """Events per second of functions that wait, in pools of threads and greenlets, against concurrency / wait.

    Without Celery's task events: a worker of gevent or eventlet sends each one by itself. With several receives at a
    time, so that the pool is the limit. The CPU is that of the worker's process, which all of them run in.
    """
    limit = _CONCURRENCY / _WAIT
    sides: dict[str, Any] = {"limit_events_per_s": limit}
    found = []
    for pool in ("gevent", "eventlet", "threads"):
        values, cpus = [], []
        for _ in range(options.pick(5, 2)):
            with Bench("hand-off", 1, _WAIT, events=False, pollers=_POLLERS) as bench:
                worker = bench.start(concurrency=_CONCURRENCY, pool=pool)
                tasks = options.pick(10_000, 3000)
                bench.sqs.load("events", tasks)
                bench.wait(tasks // 10)
                before, seen = process_cpu(worker.pid), bench.done()
                values.append(bench.rate(tasks))
                cpus.append((process_cpu(worker.pid) - before) / (tasks - seen) * 1e6)
        sides[f"{pool}_events_per_s"], sides[f"{pool}_us"] = median(values), median(cpus)
        found.append(median(values) / limit)
    return Figure("pools", min(found), ">= 0.9", sides)


FIGURES = {
    "pools": pools,
    "end-to-end-publish": end_to_end_publish,
    "end-to-end-hand-off": end_to_end_hand_off,
    "memory": memory,
    "idle": idle,
    "scale": scale,
    "batch-throughput": batch_throughput,
    "chunk-throughput": chunk_throughput,
    "pollers": pollers,
}
