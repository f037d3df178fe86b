"""Dead letters: what they hold, and what happens where they cannot be put."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from balog_celery import dead_letters
from balog_celery.dead_letters import DeadLetters, Outcome
from balog_celery.errors import AccessDenied, QueueError, QueueNotFound
from balog_celery.queues import MAX_MESSAGE_BYTES, EntryFailure, OutgoingMessage
from fakes import FakeQueue, event_text


class Connected:
    """Gives one queue, whatever is asked for, and remembers what was."""

    def __init__(self, queue: FakeQueue) -> None:
        self.queue = queue
        self.names: list[str] = []

    def __call__(self, name: str) -> FakeQueue:
        self.names.append(name)
        return self.queue


@pytest.fixture
def queue() -> FakeQueue:
    """The dead-letter queue."""
    return FakeQueue("events-dead")


@pytest.fixture
def connect(queue: FakeQueue) -> Connected:
    """How it is found."""
    return Connected(queue)


@pytest.fixture
def letters(connect: Connected) -> DeadLetters:
    """Dead letters of the default name."""
    return DeadLetters(connect, "{topic}-dead")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that dead letters see; the one entry can be set."""
    now = [1000.0]
    monkeypatch.setattr(dead_letters.time, "monotonic", lambda: now[0])
    return now


def test_a_letter_holds_the_body_unchanged_and_what_is_known_of_the_failure(
    letters: DeadLetters, queue: FakeQueue
) -> None:
    """The attributes are texts, the time in ISO 8601."""
    body = " " + event_text() + "\n"
    assert letters.put(
        body,
        "events",
        "failed",
        consumer="proj.consumers.f",
        error="ValueError('no')",
        first_received=1_412_694_411_641,
        receive_count=3,
    )
    assert queue.sent == [
        OutgoingMessage(
            body,
            {
                "reason": "failed",
                "topic": "events",
                "consumer": "proj.consumers.f",
                "error": "ValueError('no')",
                "first_received": "2014-10-07T15:06:51.641000+00:00",
                "receive_count": "3",
            },
        )
    ]


def test_what_is_not_known_is_left_out(letters: DeadLetters, queue: FakeQueue) -> None:
    """SQS refuses attributes that are empty."""
    assert letters.put("not json", "events", "undecodable")
    assert queue.sent == [OutgoingMessage("not json", {"reason": "undecodable", "topic": "events"})]


def test_an_error_is_cut_and_made_one_line(letters: DeadLetters, queue: FakeQueue) -> None:
    """Some errors hold all of what they did not like, and SQS refuses control characters."""
    assert letters.put("x", "events", "failed", error="first\nsecond\x00" + "x" * 5000)
    error = queue.sent[0].attributes["error"]
    assert error.startswith("first\\nsecond\\x00xxx")
    assert error.isprintable()
    assert len(error) < 1100


@pytest.mark.parametrize("spare", [0, 20])
def test_a_body_of_the_largest_size_is_kept_without_attributes(
    letters: DeadLetters, queue: FakeQueue, spare: int
) -> None:
    """They count towards the 1 MiB, and are worth less than it is; characters count as their bytes."""
    body = "é" * ((MAX_MESSAGE_BYTES - spare) // 2)
    assert letters.put(body, "events", "failed", consumer="c", error="e" * 100)
    assert queue.sent == [OutgoingMessage(body)]


def test_a_body_that_leaves_room_has_its_attributes(letters: DeadLetters, queue: FakeQueue) -> None:
    """They are left out only where they must be."""
    assert letters.put("x" * (MAX_MESSAGE_BYTES - 1000), "events", "failed", consumer="c")
    assert queue.sent[0].attributes["consumer"] == "c"
    assert queue.sent[0].size() <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("events", "events-dead"),
        ("events.fifo", "events-dead.fifo"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/events", "events-dead"),
        ("http://localhost:4566/000000000000/events/", "events-dead"),
    ],
)
def test_the_queue_is_named_after_the_topic(
    letters: DeadLetters, connect: Connected, queue: FakeQueue, topic: str, name: str
) -> None:
    """Whether the topic is a name or a URL; it is connected to once."""
    assert letters.name(topic) == name
    assert letters.put("x", topic, "failed")
    assert letters.put("y", topic, "failed")
    assert connect.names == [name]


def test_none_may_be_wanted(connect: Connected) -> None:
    """Then nothing is asked, and the caller keeps the event."""
    letters = DeadLetters(connect, None)
    assert letters.name("events") is None
    assert not letters.exists("events")
    assert not letters.put("x", "events", "failed")
    assert connect.names == []


def test_a_missing_queue_is_looked_for_again_only_after_a_while(
    letters: DeadLetters, connect: Connected, queue: FakeQueue, clock: list[float]
) -> None:
    """A failing consumer must not mean an API call for each event; a queue made meanwhile is found in time."""
    queue.present = False
    assert not letters.exists("events")
    assert not letters.put("x", "events", "failed")
    assert len(connect.names) == 1
    queue.present = True
    clock[0] += 30
    assert not letters.put("x", "events", "failed")
    assert len(connect.names) == 1
    clock[0] += 31
    assert letters.put("x", "events", "failed")
    assert len(connect.names) == 2
    assert len(queue.sent) == 1


def test_topics_do_not_share_what_is_missing(queue: FakeQueue) -> None:
    """Each has a queue of its own."""
    absent = FakeQueue("a-dead")
    absent.present = False
    letters = DeadLetters(lambda name: absent if name == "a-dead" else queue, "{topic}-dead")
    assert not letters.exists("a")
    assert letters.exists("b")


@pytest.mark.parametrize("error", [QueueError("down"), AccessDenied("no"), QueueNotFound("gone")])
def test_a_queue_that_fails_is_told_and_the_caller_keeps_the_event(
    letters: DeadLetters, queue: FakeQueue, caplog: pytest.LogCaptureFixture, error: QueueError
) -> None:
    """It never raises: it is called where an event is about to be lost."""

    def fail(_: Any) -> None:
        raise error

    queue.on["send"] = fail
    assert not letters.put("x", "events", "failed")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(error) in record.getMessage()
    del queue.on["send"]
    assert letters.put("x", "events", "failed")


def test_a_queue_that_was_deleted_is_forgotten(letters: DeadLetters, connect: Connected, queue: FakeQueue) -> None:
    """It is looked for again, for it may have been made anew elsewhere."""
    assert letters.put("x", "events", "failed")

    def gone(_: Any) -> None:
        queue.present = False
        raise QueueNotFound("gone")

    queue.on["send"] = gone
    assert not letters.put("y", "events", "failed")
    assert not letters.exists("events")
    assert len(connect.names) == 2


def test_a_queue_that_cannot_be_looked_for_is_told_and_asked_again(
    letters: DeadLetters, queue: FakeQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not knowing is not the same as knowing that there is none."""

    def unknown() -> bool:
        raise QueueError("down")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "exists", unknown)
        assert not letters.put("x", "events", "failed")
        with pytest.raises(QueueError, match="down"):
            letters.exists("events")
    assert "down" in caplog.text
    assert letters.put("x", "events", "failed")


def test_a_refused_letter_is_told(letters: DeadLetters, queue: FakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    """SQS answers 200, and says inside of it that it did not take the one."""
    queue.on["send"] = lambda _: [EntryFailure(0, "InternalError", "try\nlater", False)]
    assert not letters.put("x", "events\n", "failed")
    (message,) = caplog.messages
    assert "InternalError" in message
    assert "try\\nlater" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("AWS.SimpleQueueService.BatchRequestTooLong", Outcome.REFUSED),
        ("InvalidParameterValue", Outcome.REFUSED),
        ("ServiceUnavailable", Outcome.NOT_NOW),
    ],
)
def test_a_letter_that_is_itself_at_fault_is_not_tried_for_ever(
    letters: DeadLetters, queue: FakeQueue, code: str, outcome: Outcome
) -> None:
    """As a record that has outgrown SQS, and has no bucket: the caller logs it whole."""

    def fail(_: Any) -> None:
        raise QueueError("no", code)

    queue.on["send"] = fail
    assert letters.put("x", "events", "failed") is outcome
