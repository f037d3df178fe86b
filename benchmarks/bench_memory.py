"""Figure ``memory-workers``: what workers with their engines grow over many events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_base import Figure, Options
from bench_worker import Bench, family

#: After how many parts of the events memory is read; the first is not counted, as caches fill meanwhile.
_PARTS = 10


def _mib(pid: int) -> float:
    """Return the memory of a process and its children, what they share counted once, in MiB. Linux only."""
    rollups = (Path(f"/proc/{member}/smaps_rollup").read_text() for member in family(pid))
    lines = (line for rollup in rollups for line in rollup.splitlines() if line.startswith("Pss:"))
    return sum(int(line.split()[1]) for line in lines) / 1024


def memory_workers(options: Options) -> Figure:
    """Measure how much a worker, its children and its engine grow together after the first tenth of the events."""
    events = options.events or options.pick(1_000_000, 50_000)
    sides: dict[str, Any] = {"events": events}
    growths = []
    for way in ("single", "chunk", "batch"):
        sizes = []
        with Bench("hand-off", 1, **({} if way == "single" else {way: 100})) as bench:
            worker = bench.start()
            for part in range(1, _PARTS + 1):
                bench.sqs.load("events", events // _PARTS)
                bench.wait(events // _PARTS * part, timeout=3600)
                sizes.append(_mib(worker.pid))
        growths.append(max(sizes[1:]) - sizes[0])
        sides[f"{way}_mib"] = round(growths[-1], 2)
        sides[f"{way}_mib_after_each_tenth"] = [round(size, 2) for size in sizes]
        print(f"memory-workers: {way} grows by {growths[-1]:.2f} MiB", flush=True)
    return Figure("memory-workers", max(growths), "<= 5", sides)


FIGURES = {"memory-workers": memory_workers}
