"""``balog plan``."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from balog_celery import install
from balog_celery.cli import balog

DOCS = Path(__file__).parents[3] / "docs"
Run = Callable[[str], Result]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs the command with options."""
    app = Celery("planned", broker="memory://", set_as_current=False)
    install(app)

    def run(options: str) -> Result:
        obj = SimpleNamespace(app=app, no_color=False)
        return CliRunner().invoke(balog, ["plan", *shlex.split(options)], obj=obj)

    yield run
    app.close()


def test_it_explains_itself(run: Run) -> None:
    """It prints the workers, what limits them, how busy they are, latencies, the quota, and calls with their price."""
    result = run("--rate 2000 --seconds 0.05 -c 10 --cores 2 --price 0.5")
    assert result.exit_code == 0, result.output
    first, limit, _, headings, *parts = result.output.splitlines()
    assert re.fullmatch(r"2,000 events/s: 13 workers with -c 10, balog_pollers = 1 and 2 cores each; 130 .*", first)
    assert re.match(r"A worker can do 19\d.* events/s. Its limit: children. First, raise -c", limit)
    assert headings.split() == ["BUSY", "AT", "ITS", "LIMIT", "AT", "THIS", "RATE"]
    assert {line.split("  ")[0] for line in parts[:6]} >= {"children", "engine", "main process", "pollers", "cores"}
    for said in ("p50 ", "p95 ", "p99 ", "SQS allows 120,000 in a queue", " receives, ", "million calls", "at 0.5 a"):
        assert said in result.output


def test_it_is_told_as_json(run: Run) -> None:
    """``--json`` has the same for machines."""
    found = json.loads(run("--rate 50 --seconds 0.2 --distance 20 --json").stdout)
    assert (found["workers"], found["bound"], found["queues"]) == (1, "children", 1)
    assert 0.2 < found["latencies"]["p50"] <= found["latencies"]["p95"] <= found["latencies"]["p99"]
    assert found["calls"]["usd_per_month"] == pytest.approx(found["calls"]["per_month"] / 1e6 * 0.4)


def test_cpu_is_part_of_the_seconds(run: Run) -> None:
    """More CPU than seconds is a wrong command line."""
    result = run("--rate 5 --seconds 0.1 --cpu 0.2")
    assert result.exit_code == 2
    assert "--cpu 0.2 is part of --seconds 0.1" in result.output


def test_simpy_is_needed(tmp_path: Path) -> None:
    """Without simpy, one line says what to install, with exit code 78; the other commands do without."""
    (tmp_path / "simpy.py").write_text("raise ImportError(name='simpy')")
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'memory://'\n")
    command = [sys.executable, "-m", "celery", "-A", "balog_celery", "balog", "plan", "--rate"]
    done = subprocess.run([*command, "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].endswith("the plan needs simpy: pip install 'balog_celery[plan]'")


def test_the_options_on_the_pages_are_options(run: Run) -> None:
    """The commands that the pages show can be parsed."""
    shown = [
        line.strip()
        for page in ("commands-processes.md", "scaling.md")
        for line in (DOCS / page).read_text().splitlines()
        if line.startswith("    celery -A proj balog plan")
    ]
    assert shown
    plan = balog.commands["plan"]
    for line in shown:
        options = shlex.split(line)[5:]
        assert plan.make_context("plan", options, resilient_parsing=False).params["rate"]
