"""The contents of dead letters, and the outcome if they cannot be sent."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from balog_celery.dead_letters.writer import DeadLetters, Outcome
from balog_celery.errors import AccessDenied, QueueError, QueueNotFound
from balog_celery.events.mark import MARK
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, EntryFailure, OutgoingMessage
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

AWS = "https://sqs.eu-west-1.amazonaws.com/123456789012"


class Connected:
    """Returns the same queue for each name, and records the names."""

    def __init__(self, queue: ObservedQueue) -> None:
        self.queue = queue
        self.names: list[str] = []

    def __call__(self, name: str) -> ObservedQueue:
        self.names.append(name)
        return self.queue


@pytest.fixture
def queue() -> ObservedQueue:
    """The dead-letter queue."""
    return ObservedQueue("events-dead")


@pytest.fixture
def connect(queue: ObservedQueue) -> Connected:
    """The function that finds the queue."""
    return Connected(queue)


@pytest.fixture
def dead_letters(connect: Connected) -> DeadLetters:
    """Dead letters in queues of the default name."""
    return DeadLetters(connect, "{topic}-dead")


def test_a_dead_letter_holds_the_body_unchanged_and_describes_the_failure(
    dead_letters: DeadLetters, queue: ObservedQueue
) -> None:
    """A dead letter has the unchanged body and text attributes about the failure, with an ISO 8601 time."""
    body = " " + event_text() + "\n"
    assert dead_letters.send(
        body,
        "events",
        "failed",
        consumer="proj.consumers.f",
        error="ValueError('no')",
        first_received=1_412_694_411_641,
        receive_count=3,
    )
    (letter,) = queue.sent
    assert (letter.body, letter.attributes.keys()) == (body, {MARK})
    assert mark_of(letter) == {
        "reason": "failed",
        "topic": "events",
        "consumer": "proj.consumers.f",
        "error": "ValueError('no')",
        "first_received": "2014-10-07T15:06:51.641000+00:00",
        "receive_count": 3,
    }


def test_unknown_members_are_omitted(dead_letters: DeadLetters, queue: ObservedQueue) -> None:
    """The mark holds no more than is known."""
    assert dead_letters.send("not json", "events", "undecodable")
    (letter,) = queue.sent
    assert mark_of(letter) == {"reason": "undecodable", "topic": "events"}


def test_an_error_is_cut_and_made_one_line(dead_letters: DeadLetters, queue: ObservedQueue) -> None:
    """A long or multi-line error is shortened to one line that SQS accepts."""
    assert dead_letters.send("x", "events", "failed", error="first\nsecond\x00" + "x" * 5000)
    error = mark_of(queue.sent[0])["error"]
    assert error.startswith("first\\nsecond\\x00xxx")
    assert error.isprintable()
    assert len(error) < 1100


@pytest.mark.parametrize("spare", [0, 20])
def test_a_body_of_the_largest_size_is_kept_without_attributes(
    dead_letters: DeadLetters, queue: ObservedQueue, spare: int
) -> None:
    """A body of 1 MiB is kept without attributes, which count towards SQS's limit."""
    body = "é" * ((MAX_MESSAGE_BYTES - spare) // 2)
    assert dead_letters.send(body, "events", "failed", consumer="c", error="e" * 100)
    assert [(message.body, message.attributes) for message in queue.sent] == [(body, {})]


def test_a_body_that_leaves_room_has_its_attributes(dead_letters: DeadLetters, queue: ObservedQueue) -> None:
    """A body with room for its attributes keeps them."""
    assert dead_letters.send("x" * (MAX_MESSAGE_BYTES - 1000), "events", "failed", consumer="c")
    assert mark_of(queue.sent[0])["consumer"] == "c"
    assert queue.sent[0].size() <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("events", "events-dead"),
        ("events.fifo", "events-dead.fifo"),
        (f"{AWS}/events", f"{AWS}/events-dead"),
        ("http://localhost:4566/000000000000/events/", "http://localhost:4566/000000000000/events-dead"),
    ],
)
def test_the_queue_is_named_after_the_topic(
    dead_letters: DeadLetters, connect: Connected, queue: ObservedQueue, topic: str, name: str
) -> None:
    """The dead-letter queue is beside its topic, in a URL's region and account, and is connected to once."""
    assert dead_letters.name(topic) == name
    assert dead_letters.send("x", topic, "failed")
    assert dead_letters.send("y", topic, "failed")
    assert connect.names == [name]


def test_none_may_be_wanted(connect: Connected) -> None:
    """Without a dead-letter queue SQS is not called, and the caller keeps the event."""
    dead_letters = DeadLetters(connect, None)
    assert dead_letters.name("events") is None
    assert not dead_letters.exists("events")
    assert not dead_letters.send("x", "events", "failed")
    assert connect.names == []


def test_a_queue_that_never_was_is_looked_for_with_each_event(dead_letters: DeadLetters, queue: ObservedQueue) -> None:
    """An event is given up only if its queue is missing at that time, and never has been there."""
    queue.drop()
    assert not dead_letters.exists("events")
    assert dead_letters.send("x", "events", "failed") is Outcome.NO_QUEUE
    queue.create()
    assert dead_letters.send("x", "events", "failed")
    assert len(queue.sent) == 1


def test_a_queue_that_is_being_replaced_costs_no_event(dead_letters: DeadLetters, queue: ObservedQueue) -> None:
    """Given a queue that existed, then the caller keeps each event until it exists again."""
    assert dead_letters.exists("events")

    def gone(_: Any) -> None:
        queue.drop()
        raise QueueNotFound("gone")

    queue.on["send"] = gone
    for _ in range(3):
        assert dead_letters.send("x", "events", "failed") is Outcome.NOT_NOW
    queue.on.clear()
    queue.create()
    assert dead_letters.send("x", "events", "failed")


def test_topics_do_not_share_what_is_missing(queue: ObservedQueue) -> None:
    """A missing dead-letter queue of one topic does not affect another topic's."""
    absent = ObservedQueue("a-dead")
    absent.drop()
    dead_letters = DeadLetters(lambda name: absent if name == "a-dead" else queue, "{topic}-dead")
    assert not dead_letters.exists("a")
    assert dead_letters.exists("b")


@pytest.mark.parametrize("error", [QueueError("down"), AccessDenied("no"), QueueNotFound("gone")])
def test_a_queue_that_fails_is_told_and_the_caller_keeps_the_event(
    dead_letters: DeadLetters, queue: ObservedQueue, caplog: pytest.LogCaptureFixture, error: QueueError
) -> None:
    """A failing queue is logged and reported without an exception, so that the caller keeps the event."""

    def fail(_: Any) -> None:
        raise error

    queue.on["send"] = fail
    assert not dead_letters.send("x", "events", "failed")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(error) in record.getMessage()
    del queue.on["send"]
    assert dead_letters.send("x", "events", "failed")


def test_a_queue_that_was_deleted_is_forgotten(
    dead_letters: DeadLetters, connect: Connected, queue: ObservedQueue
) -> None:
    """A deleted queue is looked up again, as a new one may have another URL."""
    assert dead_letters.send("x", "events", "failed")

    def gone(_: Any) -> None:
        queue.drop()
        raise QueueNotFound("gone")

    queue.on["send"] = gone
    assert not dead_letters.send("y", "events", "failed")
    with pytest.raises(QueueNotFound, match="events-dead is gone: create it again"):
        dead_letters.exists("events")
    assert len(connect.names) == 2


def test_a_queue_that_cannot_be_looked_for_is_told_and_asked_again(
    dead_letters: DeadLetters, queue: ObservedQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed look-up is logged and repeated, because the queue may exist."""

    def unknown() -> bool:
        raise QueueError("down")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "exists", unknown)
        assert not dead_letters.send("x", "events", "failed")
        with pytest.raises(QueueError, match="down"):
            dead_letters.exists("events")
    assert "down" in caplog.text
    assert dead_letters.send("x", "events", "failed")


def test_a_refused_dead_letter_is_logged(
    dead_letters: DeadLetters, queue: ObservedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead letter that SQS refuses in a successful answer is logged."""
    queue.on["send"] = lambda _: [EntryFailure(0, "InternalError", "try\nlater", False)]
    assert not dead_letters.send("x", "events\n", "failed")
    (message,) = caplog.messages
    assert "InternalError" in message
    assert "try\\nlater" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (EntryFailure(0, "InvalidMessageContents", "", True), Outcome.REFUSED),
        (EntryFailure(0, "RequestThrottled", "", False), Outcome.NOT_NOW),
        (EntryFailure(0, "NewFault", "", False, doubtful=True), Outcome.NOT_NOW),
    ],
    ids=str,
)
def test_only_a_dead_letter_that_is_hopeless_is_given_up(
    dead_letters: DeadLetters, queue: ObservedQueue, failure: EntryFailure, outcome: Outcome
) -> None:
    """Only a hopeless dead letter is given up; after other failures the caller must retry."""
    queue.on["send"] = lambda _: [failure]
    assert dead_letters.send("x", "events", "failed") is outcome


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("AWS.SimpleQueueService.BatchRequestTooLong", Outcome.REFUSED),
        ("InvalidParameterValue", Outcome.REFUSED),
        ("ServiceUnavailable", Outcome.NOT_NOW),
    ],
)
def test_a_dead_letter_that_is_itself_at_fault_is_given_up(
    dead_letters: DeadLetters, queue: ObservedQueue, code: str, outcome: Outcome
) -> None:
    """A dead letter that SQS can never take is given up, and the caller logs it."""

    def fail(_: Any) -> None:
        raise QueueError("no", code)

    queue.on["send"] = fail
    assert dead_letters.send("x", "events", "failed") is outcome


@pytest.mark.parametrize("limit", [MAX_MESSAGE_BYTES, 262_144])
@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_body_near_the_queues_limit_keeps_what_its_replay_needs(limit: int, room: int) -> None:
    """Near the size limit the body comes first, then consumer, topic and reason, then other attributes."""
    queue = ObservedQueue("topic-dead")

    def refuse(messages: list[OutgoingMessage]) -> list[EntryFailure] | None:
        (message,) = messages
        if message.size() <= limit:
            return None
        return [EntryFailure(0, "InvalidParameterValue", "shorter than", True)]

    queue.on["send"] = refuse
    dead_letters = DeadLetters(lambda _: queue, "{topic}-dead")
    body = "x" * (limit - room)
    outcome = dead_letters.send(body, "topic", "failed", consumer="proj.f", error="e" * 900, receive_count=3)
    assert outcome is Outcome.KEPT
    dead_letter = queue.sent[-1]
    assert dead_letter.body == body
    essential = {"reason": "failed", "topic": "topic", "consumer": "proj.f"}
    known = {**essential, "error": "e" * 900, "receive_count": 3}
    assert (mark_of(dead_letter) if dead_letter.attributes else {}) == {0: {}, 100: essential, 2000: known}[room]
