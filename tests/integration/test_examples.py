"""The examples work step by step, with the command lines of their README files."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import Shell, commands, copy_of_the_repository

import servers


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository, to work in."""
    return copy_of_the_repository(tmp_path)


@pytest.fixture
def bare(clone: Path) -> Iterator[Shell]:
    """A shell at the top of it, with neither a broker nor an SQS."""
    with Shell(clone) as shell:
        yield shell


@pytest.fixture
def served(clone: Path, sqs: servers.Sqs, broker: servers.Valkey) -> Iterator[Shell]:
    """A shell at the top of it, with both."""
    with Shell(clone, {**sqs.env, "BROKER_URL": broker.url}) as shell:
        yield shell


def test_the_metrics_consumer(bare: Shell, clone: Path) -> None:
    """The five steps of the metrics example work; the last is Ctrl-C."""
    text = (clone / "examples/metrics/README.md").read_text()
    consumers, worker, produce, send = commands(text)

    listing = bare.run(consumers)
    assert re.search(r"^examples\.metrics\.consumers\.process_metrics +myproj-events-develop +metrics ", listing, re.M)

    # Sending needs the queue's server, not the queue: it is created by either.
    running = bare.start(worker, ready=" ready.")
    bare.run(produce)
    assert len((clone / "events.jsonl").read_text().splitlines()) == 3
    assert "sent 3 messages to myproj-events-develop" in bare.run(send)
    for run in (1, 2, 3):
        running.wait_for(f"develop: total = {100.0 * run}")
        running.wait_for(f"develop: failed = {float(run)}")
    assert "`develop: total = 100.0`" in text

    running.signal_group(signal.SIGINT)
    assert running.wait(60) in (0, 1)
    servers.wait_until(lambda: not bare.left_over(), what="the end of broker and SQS")
    assert "Traceback" not in running.output


def test_the_files_of_the_examples_are_sent_as_they_are(bare: Shell, clone: Path) -> None:
    """The events that come with the metrics example are for the first of its topics."""
    running = bare.start("celery -A balog_celery worker -l INFO -c 1", ready=" ready.")
    bare.run("celery -A balog_celery balog send examples/metrics/events.jsonl")
    running.wait_for("develop: total = 500.0")


def test_the_existing_app(served: Shell, clone: Path) -> None:
    """The four steps of the existing app work, and its own task still runs."""
    text = (clone / "examples/existing_app/README.md").read_text()
    queues, consumers, worker, send = commands(text)

    served.run(queues)
    listing = served.run(consumers)
    assert re.search(
        r"^examples\.existing_app\.events\.book_order +shop-orders +order-placed +\* +shop ", listing, re.M
    )

    running = served.start(worker, ready=" ready.")
    served.run(send)
    running.wait_for("order 1: 9.90")
    assert "`order 1: 9.90`" in text

    registered = served.ask("celery -A examples.existing_app.app inspect registered")
    assert "examples.existing_app.app.add" in registered
    assert "examples.existing_app.events.book_order" in registered
    served.run("python -c 'from examples.existing_app.app import add; add.delay(2, 3)'")
    servers.wait_until(lambda: re.search(r"app\.add\[\S+\] succeeded in \S+: 5", running.output), what="the sum")
    assert "Traceback" not in running.output
