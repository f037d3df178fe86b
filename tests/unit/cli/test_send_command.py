"""``send`` and ``replay FILE`` take what the topic's decoder reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from balog_celery import install
from balog_celery.cli import balog as group
from balog_celery.consumers import consumer_config
from balog_celery.decoders import At, Attribute, JSONMapping
from balog_celery.testing import ConsumerHarness
from engines import sample
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

DECODERS = {
    "auto": "auto",
    "const": JSONMapping(cls_type="thing", id=At("id")),
    "webhook": JSONMapping(cls_type=Attribute("X-GitHub-Event")),
    "s3only": "s3",
}


@consumer_config("auto", name="of_auto")
def of_auto(event: Any) -> None: ...


@consumer_config("const", name="of_const")
def of_const(event: Any) -> None: ...


@consumer_config("webhook", name="of_webhook")
def of_webhook(event: Any) -> None: ...


@consumer_config("s3only", name="of_s3")
def of_s3(event: Any) -> None: ...


Run = Callable[..., Result]


@pytest.fixture
def queues() -> dict[str, ObservedQueue]:
    """The queues of the topics."""
    return {topic: ObservedQueue(f"{topic}.fifo") for topic in DECODERS}


@pytest.fixture
def run(queues: dict[str, ObservedQueue], tmp_path: Path) -> Iterator[Run]:
    """Runs a command with some text on its standard input."""
    app = Celery("send", broker="memory://", set_as_current=False)
    app.conf.balog_status_dir = str(tmp_path)
    install(app, packages=[__name__], decoders=DECODERS)
    app.balog.connect = queues.__getitem__

    def invoke(*arguments: str, text: str) -> Result:
        done = CliRunner().invoke(group, arguments, obj=SimpleNamespace(app=app, no_color=False), input=text)
        print(arguments, done.exit_code, done.stdout, done.stderr)  # shown if the test failed
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    yield invoke
    app.close()


READ = [
    ("auto", event_text(), {}),
    ("auto", json.dumps(json.loads(sample("cloudevent"))), {}),
    ("auto", json.dumps(json.loads(sample("s3"))), {}),
    ("auto", "{}", {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "s", "ce-id": "1"}),
    ("const", '{"id": 1}', {}),
    ("webhook", '{"n": 1}', {"X-GitHub-Event": "push"}),
    ("s3only", json.dumps(json.loads(sample("s3"))), {}),
]


@pytest.mark.parametrize(("topic", "body", "attributes"), READ)
def test_what_the_decoder_reads_is_sent(
    run: Run, queues: dict[str, ObservedQueue], topic: str, body: str, attributes: dict[str, str]
) -> None:
    """As it is, with the attributes and the message group of the options."""
    options = [part for name, value in attributes.items() for part in ("--attribute", f"{name}={value}")]
    assert run("send", "-", "--topic", topic, *options, "--group", "g", text=body).exit_code == 0
    (message,) = queues[topic].sent
    assert (message.body, message.attributes, message.group) == (body, attributes, "g")
    assert f"of_{topic.removesuffix('only')}" in "".join(
        run_.consumer
        for run_ in ConsumerHarness(__name__, decoders=DECODERS).feed(body, topic=topic, attributes=attributes).runs
    )


@pytest.mark.parametrize(
    ("topic", "body", "reason"),
    [
        ("auto", "{}", "cannot be decoded by the decoder of auto: it is of no kind"),
        ("const", event_text(), "is a record of balog, which the decoder of const takes for a plain document"),
        ("s3only", event_text(), "cannot be decoded by the decoder of s3only: it is not an S3 notification"),
        ("webhook", '{"n": 1}', "it has no cls_type for its JSONMapping in the message attribute X-GitHub-Event"),
    ],
)
@pytest.mark.parametrize("command", ["send", "replay"])
def test_what_the_decoder_does_not_read_is_refused(
    run: Run, queues: dict[str, ObservedQueue], command: str, topic: str, body: str, reason: str
) -> None:
    """In a line that names the line, and nothing is sent; --raw sends it."""
    done = run(command, "-", "--topic", topic, text=body)
    assert done.exit_code == 1
    assert f"line 1 of <stdin> {reason}" in done.stderr or reason in done.stderr
    assert queues[topic].sent == []
    assert run("send", "-", "--topic", topic, "--raw", text=body).exit_code == 0
    assert [message.body for message in queues[topic].sent] == [body]


def test_raw_text_is_one_body(run: Run, queues: dict[str, ObservedQueue]) -> None:
    """Whatever it is, with its line ends."""
    text = "not json\n\n<x/>\n"
    assert run("send", "-", "--topic", "auto", "--raw", text=text).stdout == "sent 1 message to auto.fifo\n"
    assert [message.body for message in queues["auto"].sent] == [text]


@pytest.mark.parametrize("option", ["name", "=value", "name="])
def test_an_attribute_has_a_name_and_a_value(run: Run, option: str) -> None:
    """SQS refuses empty ones."""
    done = run("send", "-", "--topic", "auto", "--attribute", option, text=event_text())
    assert done.exit_code == 2
    assert f"'{option}' is not NAME=VALUE" in done.stderr


def test_a_file_of_any_kind_is_replayed(run: Run, queues: dict[str, ObservedQueue]) -> None:
    """Several events of a body: each for a consumer by itself, or the body for its topic."""
    body = json.dumps(json.loads(sample("cloudevents-batch")))
    one = run("replay", "-", "--consumer", "of_auto", "--dry-run", "--json", text=body)
    assert json.loads(one.stdout)["replayed"] == {f"{__name__}.of_auto": len(json.loads(body))}
    assert run("replay", "-", "--topic", "auto", text=body).exit_code == 0
    assert [message.body for message in queues["auto"].sent] == [body]


def test_the_limit_of_the_queue_counts(run: Run, queues: dict[str, ObservedQueue]) -> None:
    """262,144 bytes are common. Nothing is sent if one is too large."""
    queues["auto"].configure(MaximumMessageSize="262144")
    large = event_text("large", "order", text="x" * 300_000)
    done = run("send", "-", "--topic", "auto", text=event_text() + "\n" + large)
    assert done.exit_code == 1
    assert "line 2 of <stdin> is larger than a message to auto.fifo may be, 262144 bytes: set balog_" in done.stderr
    assert queues["auto"].sent == []
