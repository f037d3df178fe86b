"""send and send_many with a scripted queue; the integration tests have a real server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from balog_celery import RecordError, SendError, asend, caused_by, get_logger, send, send_many
from balog_celery.errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from balog_celery.producer import sending
from balog_celery.producer.messages import attributes
from balog_celery.sqs.messages import EntryFailure, OutgoingMessage
from balog_celery.testing import capture_records, make_event
from scripted_sqs.observed import ObservedQueue

NULL = {"cls_type": "null"}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> ObservedQueue:
    """The queue of every topic."""
    queue = ObservedQueue()
    monkeypatch.setattr(sending, "queue_of", lambda topic: queue)
    return queue


@pytest.fixture
def fifo_queue(monkeypatch: pytest.MonkeyPatch) -> ObservedQueue:
    """The FIFO queue of every topic."""
    queue = ObservedQueue("topic.fifo")
    monkeypatch.setattr(sending, "queue_of", lambda topic: queue)
    return queue


def events(count: int) -> list[dict[str, Any]]:
    return [{"cls_type": "test", "number": number} for number in range(count)]


def numbers(queue: ObservedQueue) -> list[int]:
    """Return the numbers of the events that the queue has."""
    return [json.loads(message.body)["payload"]["number"] for message in queue.sent]


def test_an_event_is_a_record_of_the_logger(queue: ObservedQueue) -> None:
    """A sent event is a record like a logger's; the channel is the caller's module or the given one."""
    first = send(NULL, topic="t")
    send(NULL, topic="t", channel="shop.orders", context={"request_id": "r-1"})
    one, two = [json.loads(message.body) for message in queue.sent]
    assert (one["header"]["id"], one["header"]["channel"]) == (first.event_id, __name__)
    assert (two["header"]["channel"], two["header"]["context"]) == ("shop.orders", {"request_id": "r-1"})


def test_what_is_not_valid_is_refused_before_anything_is_sent(queue: ObservedQueue) -> None:
    """An invalid payload raises in the caller before anything is sent."""
    with pytest.raises(RecordError, match="payload"):
        send_many([NULL, {"cls_type": "metrics"}], topic="t")
    assert not queue.calls


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalError", "ServiceUnavailable", "TimeoutError"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_may_work_later_is_tried_again(fifo_queue: ObservedQueue, code: str, whole: bool) -> None:
    """A temporary failure is retried with the same message, id and deduplication id."""
    tried: list[OutgoingMessage] = []

    def fail_twice(messages: Sequence[OutgoingMessage]) -> Any:
        tried.extend(messages)
        if len(tried) > 2:
            return None
        if whole:
            raise QueueError("later", code)
        return [EntryFailure(0, code, "later", False)]

    fifo_queue.on["send"] = fail_twice
    sent = send(NULL, topic="t")
    assert len({(message.body, message.deduplication_id) for message in tried}) == 1
    assert tried[0].deduplication_id == sent.event_id
    assert len(tried) == 3


@pytest.mark.parametrize(
    "error",
    [
        QueueNotFound("none", "QueueDoesNotExist"),
        AccessDenied("no", "AccessDenied"),
        QueueError("bad", "InvalidMessageContents"),
        QueueError("no region", "NoRegionError"),
    ],
)
def test_what_cannot_work_later_is_not_tried_again(queue: ObservedQueue, error: QueueError) -> None:
    """A permanent failure is raised at once, with the reason."""

    def fail(_: Any) -> None:
        raise error

    queue.on["send"] = fail
    with pytest.raises(SendError, match=f"1 of 1 events were not sent to topic: {error.code}") as caught:
        send(NULL, topic="t")
    (failure,) = caught.value.failures
    assert (failure.index, failure.code, caught.value.sent) == (0, error.code, {})
    assert len(queue.calls) == 1


def test_a_timeout_ends_the_attempts(queue: ObservedQueue) -> None:
    """The timeout ends the attempts, and the error has the last reason."""
    queue.on["send"] = lambda _: [EntryFailure(0, "InternalError", "busy", False)]
    with pytest.raises(SendError, match="InternalError: busy"):
        send(NULL, topic="t", timeout=0)


def test_of_many_the_error_says_which_failed(queue: ObservedQueue) -> None:
    """The error of send_many says which events failed and which were sent."""

    def some(messages: Sequence[OutgoingMessage]) -> Any:
        found = [json.loads(message.body)["payload"]["number"] for message in messages]
        return [
            EntryFailure(index, "InvalidMessageContents", "bad", True)
            for index, number in enumerate(found)
            if number in (3, 17)
        ]

    queue.on["send"] = some
    with pytest.raises(SendError, match=r"2 of 25 .* \(and 1 more events\)") as caught:
        send_many(events(25), topic="t")
    assert [failure.index for failure in caught.value.failures] == [3, 17]
    assert sorted(caught.value.sent) == [number for number in range(25) if number not in (3, 17)]
    ids = {json.loads(message.body)["header"]["id"] for message in queue.sent}
    assert {event.event_id for event in caught.value.sent.values()} == ids
    assert {failure.event_id for failure in caught.value.failures}.isdisjoint(ids)
    assert len(queue.sent) == 23


def test_a_call_that_one_bad_message_spoils_is_divided(queue: ObservedQueue) -> None:
    """A call that one bad message spoils is split, so that the others are sent."""

    def spoiled(messages: Sequence[OutgoingMessage]) -> Any:
        if any('"number": 4' in message.body for message in messages):
            raise QueueError("bad characters", "InvalidMessageContents")

    queue.on["send"] = spoiled
    with pytest.raises(SendError) as caught:
        send_many(events(10), topic="t")
    assert [failure.index for failure in caught.value.failures] == [4]
    assert numbers(queue) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_on_a_fifo_queue_nothing_overtakes_what_is_tried_again(fifo_queue: ObservedQueue) -> None:
    """On a FIFO queue later batches wait while a failed one is retried."""
    left = [1]

    def fail_once(_: Any) -> None:
        if len(fifo_queue.sent) == 10 and left[0]:
            left[0] -= 1
            raise QueueError("later", "InternalError")

    fifo_queue.on["send"] = fail_once
    send_many(events(35), topic="t.fifo")
    assert numbers(fifo_queue) == list(range(35))


def test_group_and_deduplication_id_may_be_functions_of_the_payload(fifo_queue: ObservedQueue) -> None:
    """Group and deduplication id are texts or functions of the payload."""
    send_many(
        events(3),
        topic="t",
        group=lambda payload: f"g{payload['number'] % 2}",
        deduplication_id=lambda payload: f"d{payload['number']}",
    )
    assert [(message.group, message.deduplication_id) for message in fifo_queue.sent] == [
        ("g0", "d0"),
        ("g1", "d1"),
        ("g0", "d2"),
    ]


def test_attributes_and_a_delay_go_with_the_event(queue: ObservedQueue) -> None:
    """Attributes that are not empty are sent, and SQS delivers the event only after its delay."""
    send(NULL, topic="t", attributes={"kind": "test", "empty": ""}, delay=5)
    (message,) = queue.sent
    assert message.attributes == {"kind": "test"}
    assert queue.receive(10, 0) == []
    queue.store.advance(5)
    assert len(queue.receive(10, 0)) == 1


def test_a_trace_takes_no_room_from_the_producer_s_attributes() -> None:
    """Attributes become texts; a trace goes along where SQS, which takes ten attributes, has room for it."""
    trace, nine = {"traceparent": "t"}, {str(number): number for number in range(9)}
    assert attributes(nine, trace) == {**trace, **{name: name for name in nine}}
    assert "traceparent" not in attributes({**nine, "9": "x"}, trace)


def test_an_attribute_of_bytes_is_refused(queue: ObservedQueue) -> None:
    """Its text would be Python's for bytes."""
    with pytest.raises(RecordError, match="message attribute 'sig' is bytes: give a text"):
        send(NULL, topic="events", attributes={"sig": b"x"})


def test_a_type_that_consumers_refuse_is_refused(queue: ObservedQueue) -> None:
    """A cls_type has at most 1,024 characters."""
    send({"cls_type": "x" * 1024}, topic="events")
    with pytest.raises(RecordError, match="cls_type has more than 1024 characters"):
        send({"cls_type": "x" * 1025}, topic="events")


@pytest.mark.parametrize("topic", [None, "", " ", 5])
def test_a_topic_is_a_text(topic: Any) -> None:
    """A topic that is none is named in the error."""
    with pytest.raises(ConfigurationError, match="bad topic"):
        send(NULL, topic=topic)


def test_raw_bytes_that_are_no_text_are_refused(queue: ObservedQueue) -> None:
    """A raw body of bytes that are not UTF-8 is refused before anything is sent."""
    with pytest.raises(RecordError, match="not UTF-8"):
        send(b"\xff", topic="t", raw=True)
    assert not queue.calls


@pytest.mark.parametrize(
    ("body", "sent"), [("text", "text"), ({"a": [1]}, '{"a": [1]}'), ('{"a": "é"}'.encode(), '{"a": "é"}')]
)
def test_a_raw_body_is_sent_as_it_is(queue: ObservedQueue, body: Any, sent: str) -> None:
    """A raw body is sent unchanged, a text, its bytes, or a document as JSON."""
    assert send(body, topic="t", raw=True).event_id == ""
    assert [message.body for message in queue.sent] == [sent]


async def _twice() -> None:
    await asend(NULL, topic="t")


def test_the_channel_of_an_async_twin_is_its_caller_s(queue: ObservedQueue) -> None:
    """The default channel of asend is its caller's module, not the event loop's."""
    import asyncio

    asyncio.run(_twice())
    assert json.loads(queue.sent[0].body)["header"]["channel"] == __name__


def test_tests_see_what_is_sent() -> None:
    """capture_records collects sent events, and nothing leaves the process."""
    with capture_records() as records, caused_by(make_event(NULL, event_id="e1")):
        sent = send(NULL, topic="nowhere")
        get_logger("a").info("done", payload=NULL)
        send("text", topic="nowhere", raw=True)
    assert records[0].header.id == sent.event_id
    assert [event["header"]["context"]["causation_id"] for event in records.events] == ["e1", "e1"]
