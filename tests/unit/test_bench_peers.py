"""The benchmark of peers: its place on the command line, and what it makes of measurements."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which is found from its own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_peers")


def one(cpu: float, p50: float = 1.0, p99: float = 1.0) -> dict[str, float]:
    """What a round found of a side."""
    return {"cpu_us": cpu, "events_per_s": 1000.0, "p50_ms": p50, "p95_ms": p50, "p99_ms": p99}


def test_the_command_line_knows_the_figures() -> None:
    """``run.py --only`` takes ``peers`` and ``reality``."""
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert {"peers", "reality"} <= set(shown.partition("--only {")[2].partition("}")[0].replace(" ", "").split(","))


def test_percentiles_are_of_all_events(bench: Any) -> None:
    """Seconds become milliseconds, and each percentile has that share of the events below it."""
    seconds = [number / 1000 for number in reversed(range(101))]
    assert bench.percentiles(seconds) == pytest.approx({"p50_ms": 50, "p95_ms": 95, "p99_ms": 99})


def test_a_goal_compares_with_the_best_of_the_same_round(bench: Any) -> None:
    """The ratio is the median of the rounds', in each of which another peer may be the best."""
    goal = bench.Goal("hand-off", ("naive", "pyqs"), "p50_ms", 1.1)
    rounds = {
        "hand-off": [one(1, p50=2.0), one(1, p50=6.0), one(1, p50=9.0)],
        "naive": [one(1, p50=1.0), one(1, p50=8.0), one(1, p50=3.0)],
        "pyqs": [one(1, p50=4.0), one(1, p50=2.4), one(1, p50=9.0)],
    }
    assert goal.ratio(rounds) == 2.5


def test_a_peer_that_is_not_installed_is_left_out(bench: Any) -> None:
    """A goal is judged against the peers that were measured, and not at all without one."""
    rounds = {"hand-off": [one(30)], "celery-sqs": [one(100)], "batches": [{"cpu_us": 9.0, "events_per_s": 9000.0}]}
    goals, results = bench.goals_table(rounds), bench.results_table(rounds)
    assert "| CPU per event | `hand-off` | `celery-sqs` | 0.30 | <= 0.35 | yes |" in goals
    assert "| p50 | `hand-off` | `celery-sqs` | 1.00 | <= 1.1 | yes |" in goals
    assert not [name for name in ("naive", "pyqs", "sqs-workers") if f"`{name}`" in goals + results]
    assert "| no | 9 | 9,000 | up to `batch_wait` |" in results


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_cpu_of_a_side_is_that_of_all_its_processes(bench: Any) -> None:
    """What a child of a process has spent counts, also when the child has ended."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(flush=True); input()"
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent = importlib.import_module("peer_sides").cpu_of([process.pid])
        process.communicate("\n", timeout=60)
    assert spent >= 0.29
