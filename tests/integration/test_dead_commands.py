"""The dead letters that commands select, including malformed ones, through the command line on a real SQS."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

import servers
from balog_celery import install
from balog_celery.cli import balog as group
from balog_celery.consumers import Consumer, consumer_config
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.events.mark import read_mark
from balog_celery.sqs.messages import Message
from balog_celery.sqs.queues import SQSQueue
from balog_celery.tasks.naming import task_id
from sample_events import event_text

Balog = Callable[..., Result]


@consumer_config("first-{id}", "metrics")
def archive(event: Any) -> None: ...


@consumer_config("second-{id}", "metrics", name="bill")
def account(event: Any) -> None: ...


ARCHIVE, BILL = (f"{__name__}.{name}" for name in ("archive", "bill"))
CLOUDEVENT = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order.placed"}
#: What makes trouble for who reads it, or prints it.
ODD = {
    "a schema of many digits": event_text("odd", "metrics", "1" * 5000),
    "deep": "[" * 5000 + "]" * 5000,
    "deep, and never closed": "[" * 5000,
    "deeper than allowed": "[" * 150 + "]" * 150,
    "a long number": "1" * 5000,
    "not json": "\x9b31m not json",
    "several events": json.dumps([CLOUDEVENT, {**CLOUDEVENT, "id": "2"}]),
    "a pointer that nobody follows": '["software.amazon.payloadoffloading.PayloadS3Pointer",'
    '{"s3BucketName":"b","s3Key":"\\ud800"}]',
    "surrogates": '"\\ud800"',
}


@pytest.fixture(autouse=True)
def _walks_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan without waiting: this SQS is one server, so an empty receive means that the queue is empty."""
    monkeypatch.setattr("balog_celery.dead_letters.scan._WAIT", 0.0)


class Letters:
    """A client of SQS, and the names of this test's topics and of their dead-letter queues."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.id = uuid.uuid4().hex[:12]
        self.first, self.second = f"first-{self.id}", f"second-{self.id}"
        self.common = f"dead-{self.id}"
        self.topics = "{topic}"
        for name in (self.first, self.second, f"{self.first}-dead", f"{self.second}-dead", self.common):
            client.create_queue(QueueName=name)

    def get_topic(self, consumer: Consumer) -> str:
        """Fill in the topic."""
        return self.topics.format(topic=consumer.topic).format(id=self.id)

    def process_event(self, consumer: Consumer, event: Any) -> None:
        """Call the function with the event."""

    def put(self, queue: str, body: str, **known: str) -> None:
        """A dead letter of an earlier release, with what is known of it; with nothing known, SQS moved it."""
        if "reason" in known:
            known.setdefault("topic", queue.removesuffix("-dead"))
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in known.items()}
        self.client.send_message(QueueUrl=self.url(queue), MessageBody=body, MessageAttributes=attributes)

    def nobodys(self, queue: str) -> None:
        """Put three letters without a consumer: from a redrive policy, and undecodable."""
        self.put(queue, event_text("redriven"))
        self.put(queue, "not json", reason="undecodable")
        self.put(queue, event_text("unwanted"), reason="default_event_handler")

    def count(self, queue: str) -> int:
        """Return how many letters the queue holds, none of which may be invisible."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client.get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)["Attributes"]
        assert answer[names[1]] == "0"
        return int(answer[names[0]])

    def url(self, queue: str) -> str:
        return str(self.client.get_queue_url(QueueName=queue)["QueueUrl"])


@pytest.fixture
def letters(sqs: servers.Sqs) -> Iterator[Letters]:
    """Queues of this test only."""
    with closing(sqs.client()) as client:
        yield Letters(client)


def app_of(letters: Letters, tmp_path: Path, **settings: Any) -> Celery:
    app = Celery("dead", broker="memory://", set_as_current=False)
    app.conf.balog_status_dir = str(tmp_path / "status")
    install(app, packages=[__name__], operator=letters, **settings)
    return app


def runner(app: Celery) -> Balog:
    def run(*arguments: str) -> Result:
        done = CliRunner().invoke(group, arguments, obj=SimpleNamespace(app=app, no_color=False))
        print(arguments, done.exit_code, done.stdout, done.stderr)  # shown if the test failed
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


@pytest.fixture
def balog(letters: Letters, tmp_path: Path) -> Iterator[Balog]:
    """Runs a command of an app that has a dead-letter queue for each topic."""
    with closing(app_of(letters, tmp_path)) as app:
        yield runner(app)


@pytest.fixture
def shared(letters: Letters, tmp_path: Path) -> Iterator[Balog]:
    """Runs a command of an app whose topics have one dead-letter queue."""
    with closing(app_of(letters, tmp_path, dead_letter=letters.common)) as app:
        yield runner(app)


def ids(done: Result) -> list[str]:
    """The ids of the letters that a command lists."""
    return sorted(one["id"] for one in json.loads(done.stdout))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--consumer", "nope"], "there is no consumer nope: the known ones are "),
        (["--consumer", "archiv"], f"there is no consumer archiv: did you mean {ARCHIVE}?"),
        (["--consumer", "bil"], f"did you mean {BILL}?"),
        (["--consumer", ""], "it is empty: give a value"),
        (["--topic", "nope"], "no consumer listens to nope: the known ones are first-"),
        (["--topic", ""], "it is empty: give a value"),
        (["--since", "1d", "--until", "2d"], "no event is of 1d or later and before 2d"),
        (["--since", ""], "it is empty: give a value"),
        (["--version", ""], "it is empty: give a value"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["drop", "--yes"], ["drop", "--dry-run"], ["replay"]])
def test_what_nothing_can_be_is_refused(
    balog: Balog, letters: Letters, command: list[str], options: list[str], said: str
) -> None:
    """Each command refuses impossible options with exit code 2 and one line, and changes nothing."""
    queue = f"{letters.first}-dead"
    letters.nobodys(queue)
    done = balog("dead", *command, *options)
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]
    assert letters.count(queue) == 3
    assert letters.count(letters.first) == 0


def test_letters_that_are_nobodys_are_not_a_consumers(balog: Balog, letters: Letters) -> None:
    """``--consumer`` never selects letters that name no consumer; without it they are listed, replayed and dropped."""
    queue = f"{letters.first}-dead"
    letters.nobodys(queue)
    for event, consumer in (("mine", ARCHIVE), ("other", "proj.gone")):
        letters.put(queue, event_text(event), reason="failed", consumer=consumer, topic=letters.first)
    for name in (ARCHIVE, "archive"):
        assert ids(balog("dead", "list", "--json", "--consumer", name)) == ["mine"]
        assert (
            "would drop 1 dead letter; 4 others are not selected"
            in balog("dead", "drop", "--consumer", name, "--dry-run").stdout
        )
        dry = balog("dead", "replay", "--consumer", name, "--dry-run")
        assert f"would replay 1, leave 4\n  1 to {ARCHIVE}\n" in dry.stdout
        assert "3 of these failed for no consumer: without --consumer they go to their topic" in dry.stdout
    assert ids(balog("dead", "list", "--json", "--consumer", "bill")) == []
    assert json.loads(balog("dead", "drop", "--consumer", "archive", "--yes", "--json").stdout) == {
        "dry_run": False,
        "dropped": 1,
        "not_meant": 4,
        "groups": [{"consumer": ARCHIVE, "reason": "failed", "count": 1}],
    }
    assert letters.count(queue) == 4
    assert "0 dead letters; 4 others are not selected" in balog("dead", "list", "--cls-type", "x").stderr


def test_a_queue_that_is_read_by_name_is_for_the_consumer_that_is_said(balog: Balog, letters: Letters) -> None:
    """Replaying a redrive policy's queue to one consumer leaves the letters that failed for other consumers."""
    queue = f"{letters.first}-dead"
    letters.put(queue, event_text("redriven"))
    letters.put(queue, event_text("other"), reason="failed", consumer=BILL, topic=letters.second)
    done = balog("replay", queue, "--consumer", "archive", "--dry-run", "--json")
    assert json.loads(done.stdout)["replayed"] == {ARCHIVE: 1}
    assert json.loads(done.stdout)["not_meant"] == 1
    assert balog("replay", queue, "--topic", "nope").exit_code == 2


def test_letters_of_which_nobody_knows_the_topic_are_not_of_one(shared: Balog, letters: Letters) -> None:
    """``--topic`` does not select a letter of unknown topic in a dead-letter queue that several topics share."""
    letters.put(letters.common, event_text("silent"))
    for event, topic in (("one", letters.first), ("two", letters.second), ("foreign", "third")):
        letters.put(letters.common, event_text(event), reason="default_event_handler", topic=topic)
    assert ids(shared("dead", "list", "--json", "--topic", letters.first)) == ["one"]
    assert ids(shared("dead", "list", "--json")) == ["one", "silent", "two"]
    assert shared("dead", "show", "silent", "--topic", letters.first).exit_code == 1
    replay = shared("dead", "replay", "--topic", letters.second, "--dry-run", "--json")
    assert json.loads(replay.stdout)["replayed"] == {f"topic {letters.second}": 1}
    # A URL that no consumer has may be that of another account.
    assert shared("dead", "drop", "--topic", letters.url(letters.second), "--yes").exit_code == 2
    assert letters.count(letters.common) == 4
    assert "dropped 1 dead letter; 3 others" in shared("dead", "drop", "--topic", letters.second, "--yes").stdout
    assert letters.count(letters.common) == 3


def test_a_queue_that_is_named_without_its_topic_may_have_letters_of_any(letters: Letters, tmp_path: Path) -> None:
    """A dead-letter queue that is not named for a topic may hold letters of any topic, also of other apps."""
    letters.topics = "first-{{id}}"
    letters.put(letters.common, event_text("silent"))
    with closing(app_of(letters, tmp_path, dead_letter=letters.common)) as app:
        balog = runner(app)
        assert ids(balog("dead", "list", "--json")) == ["silent"]
        assert ids(balog("dead", "list", "--json", "--topic", letters.first)) == []


def test_where_a_queue_is_for_one_topic_its_letters_are_of_that(balog: Balog, letters: Letters) -> None:
    """In the dead-letter queue of one topic, letters belong to that topic, whatever they say."""
    letters.put(f"{letters.first}-dead", event_text("silent"))
    letters.put(f"{letters.first}-dead", event_text("foreign"), topic="third")
    assert ids(balog("dead", "list", "--json", "--topic", letters.first)) == ["foreign", "silent"]
    assert ids(balog("dead", "list", "--json", "--topic", letters.second)) == []


@pytest.mark.parametrize("options", [["--cls-type", "metrics"], ["--version", ">=0"], ["--since", "2000-01-01"]])
def test_what_holds_no_event_or_several_is_meant_by_its_message_alone(
    balog: Balog, letters: Letters, options: list[str]
) -> None:
    """A letter with no event, or with several, is selected by its message id only, not by event conditions."""
    queue = f"{letters.first}-dead"
    for body in ("not json", ODD["several events"], event_text("m", "metrics")):
        letters.put(queue, body)
    assert ids(balog("dead", "list", "--json", *options)) == ["m"]
    assert json.loads(balog("dead", "drop", "--yes", "--json", *options).stdout)["dropped"] == 1
    one, two = ids(balog("dead", "list", "--json"))
    assert json.loads(balog("dead", "drop", "--yes", "--json", "--id", one, *options).stdout)["dropped"] == 0
    assert json.loads(balog("dead", "drop", "--yes", "--json", "--id", one).stdout)["dropped"] == 1
    assert ids(balog("dead", "list", "--json")) == [two]


def test_odd_letters_do_not_hide_the_others(balog: Balog, letters: Letters) -> None:
    """Each command handles the other letters as usual, and shows the odd ones as well as it can."""
    queue = f"{letters.first}-dead"
    for body in ODD.values():
        letters.put(queue, body, reason="undecodable", error="\nforged row \x9b31m\x1b[31m")
    good = ["good0", "good1", "good2"]
    for name in good:
        letters.put(queue, event_text(name, schema="1.0"))
    table = balog("dead", "list").stdout
    assert len(table.splitlines()) == 1 + len(ODD) + len(good)
    assert r"\nforged row \x9b31m\x1b[31m" in table
    assert not {"\x9b", "\x1b"}.intersection(table)
    listed = ids(balog("dead", "list", "--json"))
    shown = [balog("dead", "show", one) for one in listed]
    assert all(one.exit_code == 0 and not {"\x9b", "\x1b"}.intersection(one.stdout) for one in shown)
    assert json.loads(balog("dead", "show", listed[0], "--json").stdout)[0]["body"]
    assert ids(balog("dead", "list", "--json", "--version", "<2")) == good
    replay = json.loads(balog("dead", "replay", "--version", "<2", "--json").stdout)
    assert (replay["replayed"], replay["not_meant"]) == ({f"topic {letters.first}": 3}, len(ODD))
    assert letters.count(queue) == len(ODD)
    assert balog("dead", "replay").exit_code == 0
    assert (letters.count(queue), letters.count(letters.first)) == (0, len(ODD) + len(good))


def test_what_was_dropped_can_be_replayed_from_its_export(balog: Balog, letters: Letters, tmp_path: Path) -> None:
    """Dropped letters are replayed from their export, each to its consumer or topic."""
    queue, export = f"{letters.first}-dead", tmp_path / "letters.jsonl"
    letters.nobodys(queue)
    letters.put(queue, event_text("mine"), reason="failed", consumer=ARCHIVE, topic=letters.first)
    letters.put(queue, ODD["surrogates"], reason="undecodable", topic=letters.first)
    dropped = balog("dead", "drop", "--yes", "--export", str(export))
    assert "dropped 5 dead letters" in dropped.stdout
    assert f"1 dead letter of {ARCHIVE}: failed" in dropped.stderr
    assert "2 dead letters of no consumer: undecodable" in dropped.stderr
    assert letters.count(queue) == 0
    assert export.stat().st_mode & 0o077 == 0
    replayed = json.loads(balog("replay", str(export), "--json").stdout)
    assert replayed["replayed"] == {ARCHIVE: 1, f"topic {letters.first}": 4}
    assert replayed["left"] == {}
    assert letters.count(letters.first) == 4
    only = json.loads(balog("replay", str(export), "--consumer", "archive", "--dry-run", "--json").stdout)
    assert only["replayed"] == {ARCHIVE: 1}


def test_an_export_overwrites_no_file(balog: Balog, letters: Letters, tmp_path: Path) -> None:
    """An export never overwrites a file, and nothing is deleted if the export cannot be written."""
    queue = f"{letters.first}-dead"
    letters.nobodys(queue)
    (tmp_path / "mine").write_text("precious")
    for path in (tmp_path / "mine", tmp_path / "missing" / "x"):
        done = balog("dead", "drop", "--yes", "--export", str(path))
        assert done.exit_code == 2
        assert str(path) in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"
    assert letters.count(queue) == 3


def test_every_id_of_a_letter_finds_it(balog: Balog, letters: Letters) -> None:
    """A letter is found by the id of its event, its task, its message in the topic, or its own message."""
    queue = f"{letters.first}-dead"
    letters.put(queue, event_text("mine"), reason="failed", consumer=ARCHIVE, topic=letters.first)
    letters.put(queue, "not json", reason="undecodable", topic=letters.first, message_id="1484e73f-original")
    (mine, other) = sorted(
        json.loads(balog("dead", "list", "--json").stdout), key=lambda one: one["reason"] != "failed"
    )
    for known in ("mine", mine["message_id"], task_id("mine", ARCHIVE)):
        assert ids(balog("dead", "show", known, "--json")) == ["mine"]
        assert "would drop 1 dead letter;" in balog("dead", "drop", "--dry-run", "--id", known).stdout
    for known in ("1484e73f-original", other["message_id"]):
        assert ids(balog("dead", "show", known, "--json")) == [other["id"]]
    assert balog("dead", "show", task_id("mine", BILL)).exit_code == 1


def test_a_message_that_became_a_letter_keeps_its_id(letters: Letters) -> None:
    """A dead letter keeps the id of its message, which log lines name."""
    queue = SQSQueue(f"{letters.first}-dead")
    writer = DeadLetters(SQSQueue, "{topic}-dead")
    assert writer.send_received(Message("not json", "h", "original", 0.0), "not json", letters.first, "undecodable")
    (letter,) = queue.read(10, 0, 30)
    assert read_mark(letter.attributes)["message_id"] == "original"


def test_letters_are_counted_by_error(balog: Balog, letters: Letters) -> None:
    """Letters with the same error but other values count as one error, for each consumer separately."""
    queue = f"{letters.first}-dead"
    for number, (consumer, error) in enumerate(
        [
            (ARCHIVE, "KeyError('order 1')"),
            (ARCHIVE, "KeyError('order 22')"),
            (ARCHIVE, "ValueError('no')"),
            (BILL, "KeyError('order 1')"),
        ]
    ):
        letters.put(queue, event_text(f"e{number}"), reason="failed", consumer=consumer, error=error)
    groups = json.loads(balog("dead", "list", "--group-by", "error", "--json").stdout)
    assert (groups[0]["count"], groups[0]["consumer"], groups[0]["error"]) == (2, ARCHIVE, "KeyError: order …")
    assert sorted(one["count"] for one in groups) == [1, 1, 2]
    assert all(one["first"] <= one["last"] for one in groups)
    (billed,) = json.loads(balog("dead", "list", "--group-by", "error", "--consumer", "bill", "--json").stdout)
    assert billed["example"] == "e3"


def test_a_cls_type_that_no_consumer_asks_for_is_noted(balog: Balog, letters: Letters) -> None:
    """Each command that selects events prints a hint for a ``--cls-type`` that no consumer asks for."""
    letters.nobodys(f"{letters.first}-dead")
    for command in (["dead", "list"], ["dead", "drop", "--dry-run"], ["dead", "replay", "--dry-run"]):
        noted = balog(*command, "--cls-type", "metrcs").stderr
        assert "no consumer asks for cls_type metrcs: did you mean metrics?" in noted
        assert "note:" not in balog(*command, "--cls-type", "metrics").stderr
