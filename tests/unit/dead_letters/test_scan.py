"""A scan returns each message of a queue once, and puts all of them back."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.dead_letters.scan import QueueScan
from balog_celery.errors import QueueError
from balog_celery.events.decoders import DECODERS, reader_of
from balog_celery.events.event_filter import EventFilter
from balog_celery.events.records import decode
from balog_celery.sqs.messages import EntryFailure, Message
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue


def test_every_message_comes_and_goes_back() -> None:
    """Each message is returned once, in batches of ten at most, and released."""
    queue = ObservedQueue(bodies=[str(number) for number in range(25)])
    with QueueScan(queue) as walk:
        batches = [[one.body for one in batch] for batch in walk]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert len(queue.released) == 25
    assert queue.deleted == []


def test_what_is_deleted_does_not_go_back() -> None:
    """Deleted messages are not released; the others are."""
    queue = ObservedQueue(bodies=["a", "b", "c"])
    with QueueScan(queue) as walk:
        for batch in walk:
            assert walk.delete(batch[:2]) == 0
    assert (queue.deleted, queue.released) == (["m1", "m2"], ["m3"])


def test_what_sqs_did_not_delete_goes_back() -> None:
    """Messages that SQS did not delete are released, and their number returned."""
    queue = ObservedQueue(bodies=["a", "b"])
    queue.on["delete"] = lambda handles: [EntryFailure(1, "InternalError", "", False)]
    with QueueScan(queue) as walk:
        assert [walk.delete(batch) for batch in walk] == [1]
    assert (queue.deleted, queue.released) == (["m1"], ["m2"])


def test_it_goes_back_whatever_happens() -> None:
    """A scan releases its messages however it ends, also after Ctrl-C."""
    queue = ObservedQueue(bodies=["a", "b"])

    def interrupted() -> None:
        with QueueScan(queue) as walk:
            for _ in walk:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert queue.released == ["m1", "m2"]


def test_one_that_comes_again_is_not_seen_twice() -> None:
    """A message that is received twice in a scan is returned once, and those behind it still come."""
    # Given a queue that delivers a message twice, and one more
    queue = ObservedQueue(bodies=["1"])
    found = []
    with QueueScan(queue) as walk:
        for batch in walk:
            found += [one.body for one in batch]
            if found == ["1"]:
                queue.lapse("m1")
                queue.put("2")
    assert found == ["1", "2"]
    assert sorted(queue.released) == ["m1", "m2"]
    assert queue.in_flight() == []


def test_a_copy_of_what_was_deleted_is_not_seen_either() -> None:
    """A redelivered copy of a deleted message is not returned, but released."""
    queue = ObservedQueue(bodies=["1"])
    queue.store.on_deleted.append(lambda stored, message: stored.restore(message))
    with QueueScan(queue) as walk:
        assert [walk.delete(batch) for batch in walk] == [0]
    assert (queue.deleted, queue.released) == (["m1"], ["m1"])


def test_trouble_with_giving_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A failed release is logged, with when the messages come back."""
    queue = ObservedQueue(bodies=["a"])

    def fail(_: Any) -> None:
        raise QueueError("down")

    queue.on["release"] = fail
    with QueueScan(queue) as walk:
        assert len(list(walk)) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "some messages of topic come back only in 900 s: down"


def dead_letter(body: str, **attributes: str) -> DeadLetter:
    return DeadLetter.read(
        Message(body, "h", "m1", 0.0, sent=1_412_694_411_641, attributes=attributes), reader_of(DECODERS["auto"])
    )


def test_a_dead_letter_describes_the_failure() -> None:
    """A dead letter has the attributes that were sent."""
    one = dead_letter(event_text("LG1"), reason="failed", topic="events", consumer="proj.f", error="ValueError('no')")
    assert (one.id, one.reason, one.topic, one.consumer) == ("LG1", "failed", "events", "proj.f")
    assert one.error == "ValueError('no')"
    assert one.died is not None
    assert one.died.isoformat() == "2014-10-07T15:06:51.641000+00:00"


def test_a_dead_letter_of_a_redrive_policy_says_nothing() -> None:
    """A letter that a redrive policy moved has no attributes; its message id identifies an undecodable body."""
    one = dead_letter("not json")
    assert (one.id, one.event, one.reason, one.topic, one.consumer) == ("m1", None, "", "", "")
    assert one.error.startswith("it is not JSON")


URL = "https://sqs.eu-west-1.amazonaws.com/1/events"
OTHER = "https://sqs.eu-west-1.amazonaws.com/2/events"
KNOWN = ["events", "others"]


@pytest.mark.parametrize(
    ("consumers", "topics", "meant", "silent"),
    [
        (None, None, True, True),
        ({"proj.f"}, {"events", "others"}, True, False),
        ({"proj.f"}, None, True, False),
        ({"proj.g", ""}, None, False, True),
        (None, {"others"}, False, False),
        (None, {"others", ""}, False, True),
        (set(), set(), False, False),
    ],
)
def test_a_dead_letter_is_meant_by_consumer_and_topic(
    consumers: set[str] | None, topics: set[str] | None, meant: bool, silent: bool
) -> None:
    """One without a topic or consumer matches \"\", or the topic of its queue."""
    one = dead_letter(event_text(), reason="failed", topic="events", consumer="proj.f")
    assert one.matches(EventFilter(), consumers, topics, KNOWN) is meant
    assert not one.matches(EventFilter.of(ids=["other"]), consumers, topics, KNOWN)
    assert dead_letter(event_text()).matches(EventFilter(), consumers, topics, KNOWN) is silent
    home = DeadLetter.read(Message(event_text(), "h", "m1", 0.0), reader_of(DECODERS["auto"]), "events")
    assert home.matches(EventFilter(), None, topics, KNOWN) is one.matches(EventFilter(), None, topics, KNOWN)


@pytest.mark.parametrize(
    ("said", "topics", "known", "meant"),
    [
        (URL, {URL}, [URL, OTHER], True),
        (URL, {OTHER}, [URL, OTHER], False),
        (URL, {"events"}, ["events"], False),
        (f"{URL}-2", {URL}, [URL], False),
        ("events", {URL}, [URL, "others"], True),
        ("events", {URL}, [URL, OTHER], False),
        ("events", {"events"}, ["events", OTHER], False),
        ("events", {URL, OTHER, ""}, [URL, OTHER], True),
    ],
)
def test_topics_of_one_name_are_not_one_topic(said: str, topics: set[str], known: list[str], meant: bool) -> None:
    """A URL means that queue only; a name that several topics share matches only all of them together."""
    assert dead_letter(event_text(), reason="failed", topic=said).matches(EventFilter(), None, topics, known) is meant


def test_a_dead_letter_that_its_reader_cannot_cope_with_does_not_hide_the_others() -> None:
    """A letter at which the reader raises an error is returned without an event, and the others are returned."""

    def fail(body: str) -> Any:
        raise RecursionError

    one = DeadLetter.read(Message("body", "h", "m1", 0.0), fail)
    assert (one.id, one.event, one.error) == ("m1", None, "it cannot be read: RecursionError")


def test_a_dead_letter_of_another_source_is_read_as_its_topic_is() -> None:
    """A letter is read by its topic's decoder, or as a record if its event failed after decoding."""
    cloud = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order.placed", "data": {"n": 1}}
    one = dead_letter(json.dumps(cloud))
    assert (one.id, one.event is not None and one.event.payload.cls_type) == ("shop 1", "order.placed")
    assert decode(one.text).header.id == "shop 1"
    several = dead_letter(json.dumps([cloud, {**cloud, "id": "2"}]))
    assert (several.event, several.problem) == (None, "it holds 2 events")
    custom = reader_of(lambda body: [])
    failed = Message(event_text("LG1"), "h", "m1", 0.0, attributes={"reason": "failed", "topic": "events"})
    assert DeadLetter.read(failed, custom).id == "LG1"
    assert DeadLetter.read(Message("{}", "h", "m1", 0.0, problem="it is gone"), custom).error == "it is gone"
