"""Runs the fault benchmark, and reads its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import servers

FAULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "faults.py"


def run(folder: Path, *options: str, seconds: int) -> tuple[int, dict[str, Any]]:
    """Run the benchmark; return its exit code and its figures. All of its processes end with it."""
    figures = folder / "figures.json"
    argv = [sys.executable, FAULTS, "--json", figures, "--seconds", str(seconds), *options]
    with servers.Program(argv, env={"PYTHONPATH": None}, cwd=folder, name="faults") as program:
        code = program.wait(seconds + 30)
        print(program.output)  # shown if the test failed
    return code, json.loads(figures.read_text())


def kinds(figures: dict[str, Any]) -> set[str]:
    """The kinds of fault that there were."""
    return {
        kind.removesuffix("_ignored").removesuffix("_refused") for kind, count in figures["faults"].items() if count
    }


def right(figures: dict[str, Any]) -> bool:
    """Whether every duplicate has a cause, and every group was served in order."""
    return "unexplained" not in figures["duplicates_by_cause"] and figures["disordered"] == 0


def ended(figures: dict[str, Any]) -> int:
    """How many pairs of event and consumer have ended; in one of two ways."""
    return sum(figures["finished"].values()) + figures["dead"]
