"""The figures of "fast": what this package costs beside boto3, kombu, Celery and structlog themselves.

    python benchmarks/run.py                        # all of it: the better part of an hour
    python benchmarks/run.py --quick                # fewer rounds and events
    python benchmarks/run.py --only engine-hand-off --only logger-record
    python benchmarks/run.py --json figures.json

Both sides of a figure take turns in one run, and CPU time is that of the process concerned. It never fails because of a
figure that does not hold: machines differ, and so do their neighbours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.pop("PYTHONPATH", None)

from bench_base import Figure, Options

_MODULES = ("bench_engine", "bench_routing", "bench_logger", "bench_start", "bench_worker")


def all_figures() -> dict[str, Callable[[Options], Figure]]:
    """What measures each figure, by its name."""
    found: dict[str, Callable[[Options], Figure]] = {}
    for module in _MODULES:
        found.update(importlib.import_module(module).FIGURES)
    return found


def table(figures: list[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| figure | value | goal | holds |", "| --- | --- | --- | --- |"]
    for figure in figures:
        lines.append(f"| {figure.name} | {figure.value:.2f} | {figure.goal} | {'yes' if figure.holds else 'no'} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, and write what was measured; 1 if a figure could not be measured."""
    known = all_figures()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(known), help="this figure; may be given several times")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into FILE")
    given = parser.parse_args()
    options = Options(quick=given.quick)
    figures: list[Figure] = []
    failed = 0
    for name in given.only or known:
        began = time.monotonic()
        try:
            figure = known[name](options)
        except Exception:
            traceback.print_exc()
            failed = 1
            continue
        figures.append(figure)
        print(
            f"{figure.name}: {figure.value:.3f} (goal {figure.goal}{'' if figure.holds else ', MISSED'}; "
            f"{time.monotonic() - began:.0f} s)",
            flush=True,
        )
        for side, value in figure.sides.items():
            print(f"    {side}: {value}", flush=True)
        if given.json:
            given.json.write_text(json.dumps({"figures": [figure.as_json() for figure in figures]}, indent=1) + "\n")
    print(table(figures))
    return failed


if __name__ == "__main__":
    sys.exit(main())
