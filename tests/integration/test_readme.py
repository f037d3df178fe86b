"""The README's code and commands work, and do what its text says."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from documents import ROOT, Shell, code_blocks, commands, copy_of_the_repository, flower_env

import servers
from balog_celery.events.decoders import find_decoder, reader_of
from balog_celery.events.records import decode
from balog_celery.testing import ConsumerHarness
from sample_events import event_text

README = (ROOT / "README.md").read_text()
REGION = "eu-west-1"
TOPIC = "myproj-events-prod"

#: Makes seen what the README's consumer, which does nothing, is called with: a module of the scanned package.
WITNESS = """
import os
from celery import signals

@signals.task_success.connect
def note(sender, **_):
    with open("seen", "a") as seen:
        seen.write(f"{sender.name} {sender.request.id}\\n")
"""

#: Executes the README's Python blocks in order, in one module, and uses what they define.
READER = """
import json, logging, sys, types

with open("blocks.json") as file:
    blocks = json.load(file)
module = types.ModuleType("justitia.scripts.process_results")
sys.modules[module.__name__] = module
sys.path.insert(0, ".")
for number, block in enumerate(blocks):
    exec(compile(block, f"README block {number}", "exec"), module.__dict__)
    if "SQSHandler(" in block:
        # What the first block does, now that records are shipped.
        exec(compile(blocks[0], "README block 0, again", "exec"), module.__dict__)
        (handler,) = [one for one in logging.getLogger("justitia").handlers if isinstance(one, module.SQSHandler)]
        assert handler.flush(60), handler.stats()
        print("shipped", json.dumps(handler.stats()), flush=True)
        logging.getLogger("justitia").removeHandler(handler)
        handler.close()

original = module.ConsumerOperator.process_event

def process_event(self, consumer, event):
    print("processed", consumer.func.__name__, event["header"]["id"], flush=True)
    return original(self, consumer, event)

module.ConsumerOperator.process_event = process_event
print("read", flush=True)
module.process_events(
    {
        "api.sqs.queue_env": "prod",
        "api.sqs.region": "eu-west-1",
        "api.sqs.aws_access_key_id": "test",
        "api.sqs.aws_secret_access_key": "test",
    }
)
print("returned", flush=True)
"""


def python(containing: str) -> str:
    """The README's Python block that has this text."""
    (block,) = [block for block in code_blocks(README, "python") if containing in block]
    return block


class Queue:
    """The topic of the README, and its dead-letter queue, which is beside it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._url = client.create_queue(QueueName=TOPIC)["QueueUrl"]
        client.create_queue(QueueName=f"{TOPIC}-dead")

    def send(self, body: str) -> None:
        self._client.send_message(QueueUrl=self._url, MessageBody=body)

    def receive(self) -> list[str]:
        """Receive and delete all messages of the queue."""
        answer = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10)
        return [message["Body"] for message in answer.get("Messages", [])]

    def empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return not any(map(int, attributes.values()))


@pytest.fixture
def queue(sqs: servers.Sqs) -> Iterator[Queue]:
    """The queue that the README's consumer listens to."""
    with closing(boto3.client("sqs", region_name=REGION)) as client:
        yield Queue(client)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the package of the README: its consumer and its operator are the README's own text."""
    package = tmp_path / "yourpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "witness.py").write_text(WITNESS)
    (package / "events.py").write_text(python("def process_metrics(") + python("class ConsumerOperator"))
    return tmp_path


@pytest.fixture
def shell(folder: Path, sqs: servers.Sqs, broker: servers.Valkey, queue: Queue) -> Iterator[Shell]:
    """A shell there, whose environment has the broker and SQS in the place of those that the README names."""
    env = {**sqs.env, "AWS_DEFAULT_REGION": REGION, "CELERY_BROKER_URL": broker.url}
    with Shell(folder, env) as shell:
        yield shell


@pytest.fixture
def configured(shell: Shell) -> Shell:
    """The shell in a folder with the README's configuration and record file."""
    (shell.folder / "celeryconfig.py").write_text(python("balog_packages"))
    (shell.folder / "events.jsonl").write_text(event_text("e1") + "\n" + event_text("e2") + "\n")
    return shell


def seen(shell: Shell) -> list[str]:
    """The tasks that were executed, by name."""
    file = shell.folder / "seen"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def command(containing: str) -> str:
    """The README's command line that ends so."""
    (found,) = [line for line in commands(README) if line.endswith(containing)]
    return found


@pytest.fixture
def await_events(configured: Shell, queue: Queue) -> Callable[[], None]:
    """Waits until the README's consumer has had both events."""

    def wait() -> None:
        servers.wait_until(lambda: len(seen(configured)) == 2, what="the tasks")
        assert seen(configured) == ["yourpackage.events.process_metrics"] * 2
        servers.wait_until(queue.empty, what="the deletes")

    return wait


def test_the_python_blocks_run_in_order(shell: Shell, queue: Queue) -> None:
    """The README's logger logs, its handler ships, and its script processes an event until it is stopped."""
    (shell.folder / "blocks.json").write_text(json.dumps(code_blocks(README, "python")))
    (shell.folder / "reader.py").write_text(READER)
    program = shell.start("python -W error reader.py")
    lines = program.wait_for("read\n").splitlines()

    printed = decode(lines[0])
    (block,) = code_blocks(README, "json")
    shown = decode(block)
    assert printed.header.channel == shown.header.channel == "justitia.scripts.process_results.done"
    assert [value.name for value in printed.payload.values] == ["total", "succeeded", "failed"]

    (statistics,) = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("shipped")]
    assert statistics == {"sent": 1, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}
    # The script takes what was shipped, and then what comes.
    program.wait_for("processed process_metrics LG")
    queue.send(event_text("later"))
    program.wait_for("processed process_metrics later")
    servers.wait_until(queue.empty, what="the deletes")
    program.signal(signal.SIGTERM)
    # A stop waits for the long poll under way, which a message ends.
    queue.send(event_text("last"))
    program.wait_for("returned")
    assert program.wait(60) == 0
    assert "Traceback" not in program.output


def test_the_batch_consumer_has_what_it_names_retried_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's batch consumer has only the named event retried."""
    (folder / "readme_batches").mkdir()
    (folder / "readme_batches" / "__init__.py").write_text(python("BatchFailure(") + python("class ConsumerOperator"))
    monkeypatch.syspath_prepend(folder)
    harness = ConsumerHarness("readme_batches", operator="readme_batches:operator")
    texts = [event_text(f"e{number}", "log", message="m" * number, severity="info") for number in range(3)]
    report = harness.feed(*texts, throw=False)
    assert [len(run.events) for run in report.of("store_logs")] == [3]
    assert len(report["store_logs"].retries) == 3
    assert [letter.body for letter in report.dead_letters] == texts[:1]


def test_the_json_block_is_a_record() -> None:
    """The README's JSON block is a record with the properties that the text gives."""
    (block,) = code_blocks(README, "json")
    record = decode(block)
    assert record.header.id == "LGk37Fo3xLLVx9GrfnyTuvBd"
    assert record.payload.cls_type == "metrics"


def test_the_mapping_maps_plain_json() -> None:
    """The README's mapping decodes a document with its fields."""
    scope: dict[str, Any] = {}
    exec(python("JSONMapping("), scope)
    body = {"kind": "order", "order": {"id": 7}, "created": "2014-10-07"}
    ((record, _),) = reader_of(find_decoder(scope["balog_decoders"]["orders"]))(json.dumps(body))
    assert (record.payload.cls_type, record.header.id, record.header.channel) == ("order", "order 7", "shop")
    assert record.header.timestamp.isoformat() == "2014-10-07T00:00:00+00:00"


def test_no_block_is_in_another_language() -> None:
    """The README has no block in a language that these tests do not run."""
    assert README.count("```") == 2 * (len(code_blocks(README, "python")) + len(code_blocks(README, "json")))


def test_every_command_line_is_run() -> None:
    """Every command line of the README is run by a test of this file."""
    assert [line for line in commands(README) if not line.startswith("python3 -m venv ")] == [
        "celery -A balog_celery worker",
        "celery -A balog_celery worker --no-engine",
        "celery -A balog_celery balog engine",
        "celery -A balog_celery balog consumers",
        "celery -A balog_celery balog send events.jsonl",
        "celery -A balog_celery balog health",
        "celery -A balog_celery flower --tasks_columns=name,uuid,state,args,received,runtime",
    ]


def test_a_worker_reads_sqs_and_runs_every_match(configured: Shell, await_events: Callable[[], None]) -> None:
    """The README's commands start a worker that processes a sent file."""
    sent = configured.run(command("balog send events.jsonl"))
    assert f"sent 2 messages to {TOPIC}" in sent
    worker = configured.start(command("celery worker"))
    await_events()
    assert "Traceback" not in worker.output


def test_an_engine_reads_and_a_worker_executes(configured: Shell, await_events: Callable[[], None]) -> None:
    """The README's commands start an engine and a worker that share the work."""
    configured.run(command("balog send events.jsonl"))
    none = configured.start(command("balog health"))
    assert none.wait(60) == 1
    assert "no engine of this app runs on this machine" in none.output
    engine = configured.start(command("balog engine"), ready="engine started")
    worker = configured.start(command("worker --no-engine"))
    await_events()
    assert f"topic {TOPIC}" in configured.run(command("balog health"))
    assert "Traceback" not in engine.output + worker.output
    assert not [text for text in configured.left_over().values() if "--worker-pid" in text]


def test_the_consumers_are_listed(configured: Shell) -> None:
    """`balog consumers` lists the README's consumers as their decorators declare them."""
    listing = configured.run(command("balog consumers"))
    (line,) = [line for line in listing.splitlines() if line.startswith("yourpackage.events.process_metrics")]
    assert line.split()[1:5] == [TOPIC, "metrics", "<1.0", "celery"]
    assert "max_retries=5" in line
    assert "rate_limit=100/s" in line


def test_flower_shows_the_consumers(configured: Shell, await_events: Callable[[], None]) -> None:
    """The README's command starts Flower, which shows the consumers."""
    port = servers.free_port()
    configured.env |= {"FLOWER_PORT": str(port), **flower_env()}
    configured.start(command("received,runtime"))
    servers.wait_until(lambda: page(port, "/metrics"), 60, "Flower")
    configured.run(command("balog send events.jsonl"))
    configured.start(command("celery worker"))
    await_events()
    servers.wait_until(lambda: "yourpackage.events.process_metrics" in page(port, "/metrics"), 40, "the counters")


def test_an_app_of_ones_own_runs_an_engine(shell: Shell, queue: Queue) -> None:
    """`celery -A proj worker` runs an engine for an app of the user's, as the README says."""
    assert "`celery -A proj worker` now runs an engine as well" in README
    (shell.folder / "proj.py").write_text(python("balog_celery.install(app"))
    queue.send(event_text("e"))
    shell.start("celery -A proj worker")
    servers.wait_until(lambda: seen(shell) == ["yourpackage.events.process_metrics"], what="the task")
    servers.wait_until(queue.empty, what="the deletes")


def test_the_tests_of_ones_own_pass(shell: Shell) -> None:
    """The README's test module passes with the README's consumer and operator."""
    (shell.folder / "test_events.py").write_text(python("ConsumerHarness("))
    assert "3 passed" in shell.run("python -m pytest -p no:cacheprovider test_events.py")


def test_the_two_commands_at_the_top() -> None:
    """The two commands at the top of the README work; CI runs the second."""
    tried, tested = [line for line in commands(README) if line.startswith("python3 -m venv ")]
    assert tried == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[local]' && "
        ".venv/bin/celery -A balog_celery balog up --send examples/metrics/events.jsonl"
    )
    assert tested == "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"
    assert tested in (ROOT / ".ci/run").read_text().splitlines()


def test_trying_it_processes_the_example_and_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    """The README's first command processes the example, and Ctrl-C stops everything."""
    tried, _ = [line for line in commands(README) if line.startswith("python3 -m venv ")]
    last = tried.rpartition("&& ")[2].removeprefix(".venv/bin/")
    flower = servers.free_port()
    with Shell(copy_of_the_repository(tmp_path), {"FLOWER_PORT": str(flower), **flower_env()}) as shell:
        running = shell.start(last)
        for total in (100, 200, 300, 400, 500):
            running.wait_for(f"develop: total = {float(total)}")
        texts = "\n".join(shell.left_over().values())
        for part in ("balog_celery.dev.guardian", "valkey-server", "--worker-pid", " worker "):
            assert part in texts
        assert " flower " in texts
        servers.wait_until(lambda: page(flower, "/"), what="Flower")
        running.signal_group(signal.SIGINT)
        assert running.wait(60) == 130
        servers.wait_until(lambda: not shell.left_over(), what="the end of all of it")
        assert "Traceback" not in running.output


def page(port: int, path: str) -> str:
    """Return the page at the address; empty until it is served."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
def test_left_over_processes_are_seen(tmp_path: Path) -> None:
    """The check for left-over processes finds one."""
    with Shell(tmp_path) as shell:
        shell.start("sh -c 'sleep 60 & echo started; wait'", ready="started")
        assert any("sleep 60" in text for text in shell.left_over().values())
    servers.wait_until(lambda: not shell.left_over(), what="the end of the killed")
