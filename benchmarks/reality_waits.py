"""Workers whose functions wait, in all pools and in chunks of async functions, beside threads of plain boto3."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import NamedTuple

from bench_base import BenchSqs, Child, Options, Part
from bench_worker import Bench, tree_cpu

#: For how many seconds functions wait, and how many may run at a time.
WAITS, SIZES = (0.001, 0.01, 0.1), (2, 8, 100)
#: How many events of a process an async chunk has under way.
_CHUNK = 100
#: More events per second than any side reaches here, and for how many seconds each is measured.
_MOST, _SECONDS = 2500, 2


class Found(NamedTuple):
    """What was measured of one side.

    :param rate: events per second.
    :param cpu: of all its processes, in microseconds per event.
    """

    rate: float
    cpu: float


def _events(wait: float, size: int, options: Options) -> int:
    return max(100, int(min(size / wait, _MOST) * options.pick(_SECONDS, 1)))


def _worker(pool: str, size: int, options: Options) -> dict[float, Found]:
    """Measure a worker of *size*, for each wait in turn; "async" is a pool of processes whose chunks are async."""
    chunk = _CHUNK if pool == "async" else 0
    found = {}
    with Bench("hand-off", 1, chunk=chunk, events=False, pollers=4) as bench:
        bench.env["BENCH_WAITS"] = ",".join(str(wait) for wait in WAITS)
        worker = bench.start(concurrency=size, pool="prefork" if chunk else pool)
        for wait in WAITS:
            events, first = _events(wait, size * (chunk or 1), options), bench.done()
            queue = f"events-waits_{wait * 1000:.0f}"
            bench.sqs.load(queue, events)
            began, seen = bench.wait(first + events // 10), bench.done()
            cpu = tree_cpu(worker.pid)
            seconds = bench.wait(first + events) - began
            left = first + events - seen
            found[wait] = Found(left / seconds, (tree_cpu(worker.pid) - cpu) / left * 1e6)
    return found


def _boto3(size: int, options: Options) -> dict[float, Found]:
    """Measure *size* threads that each receive ten, call the function for each, and delete ten."""
    found = {}
    for wait in WAITS:
        with ExitStack() as stack:
            sqs = stack.enter_context(BenchSqs())
            child = Child("floor_threads", {**sqs.env, "BENCH_SLEEP": str(wait), "BENCH_THREADS": str(size)})
            stack.callback(child.close)
            # Each thread takes ten at a time, so fewer would leave some of them idle.
            events = max(_events(wait, size, options), size * 10)
            cpu, began = child.cpu(), time.monotonic()
            sqs.load(child.role, events)
            while sqs.counts(child.role)["deleted"] < events:
                if time.monotonic() - began > 300:
                    raise TimeoutError(f"{sqs.counts(child.role)} of {events}")
                time.sleep(0.01)
            seconds = time.monotonic() - began
            found[wait] = Found(events / seconds, (child.cpu() - cpu) / events * 1e6)
    return found


def waits(options: Options) -> Part:
    """Measure all pools and sizes."""
    rows, sides = [], {}
    for size in SIZES:
        ours = {pool: _worker(pool, size, options) for pool in ("prefork", "threads", "gevent", "async")}
        everything = {**ours, "boto3": _boto3(size, options)}
        for wait in WAITS:
            shown = [f"{found[wait].rate:,.0f} ({found[wait].cpu:,.0f})" for found in everything.values()]
            rows.append(f"| {wait * 1000:.0f} ms, {size} | {size / wait:,.0f} | {' | '.join(shown)} |")
            print(rows[-1], flush=True)
            for name, found in everything.items():
                sides[f"{wait * 1000:.0f} ms, {size}, {name}"] = found[wait]
    head = "| wait, `-c` | `-c` / wait | prefork | threads | gevent | async chunks | boto3's threads |\n"
    return Part(head + "| --- " * 7 + "|\n" + "\n".join(rows), sides)
