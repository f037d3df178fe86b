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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rate 0", "0.0 is not in the range 0.001<=x<="),
        ("--rate=-5", "-5.0 is not in the range"),
        ("--rate inf", "inf is not in the range"),
        ("--rate nan", "nan is not a finite number"),
        ("--rate 5 --seconds nan", "nan is not a finite number"),
        ("--rate 5 --distance inf", "inf is not in the range"),
        ("--rate 5 --share 1.5", "1.5 is not in the range"),
        ("--rate 5 --batch 0", "0 is not in the range 1<=x<=10000"),
        ("--rate 5 --fifo 0", "0 is not in the range 1<=x<="),
        ("--rate 5 --batch 10 --chunk 10", "a consumer has --batch or --chunk: leave one of them out"),
        ("--rate 5 --fifo 5 --chunk 10", "leave --chunk or --fifo out"),
        ("--rate 5 --fifo 5 --publish redis", "leave --publish or --fifo out"),
        ("--rate 5 --fifo 5 --pollers 2", "leave --pollers 2 out"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, options: str, said: str) -> None:
    """Numbers out of range, and options that exclude one another, are a wrong command line, in one line."""
    result = run(options)
    assert result.exit_code == 2
    assert said in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        "--rate 0.001 --seconds 3600",
        "--rate 1e9 --seconds 3600 --cpu 3600 -c 1",
        "--rate 7 --seconds 1e-9 --distance 0 --share 0.01",
        "--rate 1e9 --batch 10000 --random --seconds 0.5",
        "--rate 0.01 --publish rabbitmq --chunk 100 --seconds 3",
        "--rate 100 --fifo 1000000 --distance 10",
    ],
)
def test_extremes_have_an_answer(run: Run, options: str) -> None:
    """The smallest and the largest numbers have a plan, and its workers can do the rate."""
    result = run(f"{options} --json")
    assert result.exit_code == 0, result.output
    found, rate = json.loads(result.stdout), float(options.split()[1])
    assert found["workers"] * found["capacity"] >= rate
    assert max(share for part, share in found["full"].items()) <= 1.01


def test_the_way_of_events_is_an_option(run: Run) -> None:
    """Chunks need fewer workers than single events, and published tasks more, with the brokers that they need."""
    single, chunk = (json.loads(run(f"--rate 50000 {options} --json").stdout) for options in ("", "--chunk 100"))
    published = run("--rate 50000 --publish redis").output
    assert chunk["workers"] < single["workers"] < int(re.findall(r"(\d+) workers", published)[0])
    assert "Tasks: they need 7 Redis servers with a core each." in published


def test_too_few_message_groups_are_a_wrong_configuration(run: Run) -> None:
    """A rate that the message groups of a FIFO topic cannot do is one line that says how many could, with code 78."""
    result = run("--rate 1000 --seconds 0.1 --fifo 50")
    assert result.exit_code == 78
    assert re.fullmatch(
        r"(?s).*1,000 events/s are too many for 50 message groups, .* use 1\d\d groups or more.*", result.output
    )


def test_a_fifo_queue_has_its_price_and_its_quota(run: Run) -> None:
    """Calls to a FIFO queue cost more, and more than 300 of a kind are told."""
    few, many = run("--rate 50 --fifo 100"), run("--rate 3000 --fifo 3000")
    assert "at 0.5 a million" in few.output
    assert "high throughput" not in few.output
    assert "of a kind exceed a FIFO queue's 300: set it to high throughput" in many.output


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
