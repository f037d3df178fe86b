"""Going once through a queue without taking anything away."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from balog_celery.decoders import DECODERS, reader_of
from balog_celery.errors import QueueError
from balog_celery.letters import Letter
from balog_celery.queues import EntryFailure, Message
from balog_celery.records import decode
from balog_celery.selection import Selection
from balog_celery.walk import Walk
from fakes import FakeQueue, event_text


def message(number: int, handle: str = "") -> Message:
    return Message(str(number), handle or f"h{number}", f"m{number}", time.monotonic())


def test_every_message_comes_and_goes_back() -> None:
    """In batches of ten at most."""
    queue = FakeQueue(bodies=[str(number) for number in range(25)])
    with Walk(queue) as walk:
        batches = [[one.body for one in batch] for batch in walk]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert len(queue.returned) == 25
    assert queue.deleted == []


def test_what_is_deleted_does_not_go_back() -> None:
    """The rest does."""
    queue = FakeQueue(bodies=["a", "b", "c"])
    with Walk(queue) as walk:
        for batch in walk:
            assert walk.delete(batch[:2]) == 0
    assert (queue.deleted, queue.returned) == (["h1", "h2"], ["h3"])


def test_what_sqs_did_not_delete_goes_back() -> None:
    """It is counted, so that it can be told."""
    queue = FakeQueue(bodies=["a", "b"])
    queue.on["delete"] = lambda handles: [EntryFailure(1, "InternalError", "", False)]
    with Walk(queue) as walk:
        assert [walk.delete(batch) for batch in walk] == [1]
    assert (queue.deleted, queue.returned) == (["h1"], ["h2"])


def test_it_goes_back_whatever_happens() -> None:
    """Ctrl-C, too."""
    queue = FakeQueue(bodies=["a", "b"])

    def interrupted() -> None:
        with Walk(queue) as walk:
            for _ in walk:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert queue.returned == ["h1", "h2"]


def test_one_that_comes_again_is_not_seen_twice() -> None:
    """Its lease has ended; what is behind it still comes."""
    queue = FakeQueue()
    answers = [[message(1)], [message(1, "newer")], [message(2)], []]
    queue.on["receive"] = lambda _: answers.pop(0)
    with Walk(queue) as walk:
        assert [one.body for batch in walk for one in batch] == ["1", "2"]
    assert queue.returned == ["h1", "newer", "h2"]


def test_a_copy_of_what_was_deleted_is_not_seen_either() -> None:
    """SQS may deliver once more what it was told to delete. It goes back: another message might have the same id."""
    queue = FakeQueue()
    answers = [[message(1)], [message(1, "stray")], []]
    queue.on["receive"] = lambda _: answers.pop(0)
    with Walk(queue) as walk:
        assert [walk.delete(batch) for batch in walk] == [0]
    assert (queue.deleted, queue.returned) == (["h1"], ["stray"])


def test_trouble_with_giving_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """They come back by themselves, later."""
    queue = FakeQueue(bodies=["a"])

    def fail(_: Any) -> None:
        raise QueueError("down")

    queue.on["return"] = fail
    with Walk(queue) as walk:
        assert len(list(walk)) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "some messages of topic come back only in 900 s: down"


def letter(body: str, **attributes: str) -> Letter:
    return Letter.read(
        Message(body, "h", "m1", 0.0, sent=1_412_694_411_641, attributes=attributes), reader_of(DECODERS["auto"])
    )


def test_a_letter_says_what_is_known_of_the_failure() -> None:
    """As it was put."""
    one = letter(event_text("LG1"), reason="failed", topic="events", consumer="proj.f", error="ValueError('no')")
    assert (one.id, one.reason, one.topic, one.consumer) == ("LG1", "failed", "events", "proj.f")
    assert one.error == "ValueError('no')"
    assert one.died is not None
    assert one.died.isoformat() == "2014-10-07T15:06:51.641000+00:00"


def test_a_letter_of_a_redrive_policy_says_nothing() -> None:
    """What cannot be decoded is known by its message's id, and says why."""
    one = letter("not json")
    assert (one.id, one.event, one.reason, one.topic, one.consumer) == ("m1", None, "", "", "")
    assert one.error.startswith("it is not JSON")


@pytest.mark.parametrize(
    ("consumer", "topics", "meant"),
    [
        (None, None, True),
        ("proj.f", ["events", "others"], True),
        ("proj.g", None, False),
        (None, ["others"], False),
        (None, ["https://sqs.eu-west-1.amazonaws.com/1/events"], True),
    ],
)
def test_a_letter_is_meant_by_consumer_and_topic(consumer: str | None, topics: list[str] | None, meant: bool) -> None:
    """Topics may share a dead-letter queue."""
    one = letter(event_text(), topic="events", consumer="proj.f")
    assert one.is_meant(Selection(), consumer, topics) is meant
    assert not one.is_meant(Selection.of(ids=["other"]), consumer, topics)
    # What does not say is meant by all.
    assert letter(event_text()).is_meant(Selection(), consumer, topics)


def test_a_letter_of_another_source_is_read_as_its_topic_is() -> None:
    """What failed is a record already; a body of several events is not one event."""
    cloud = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order.placed", "data": {"n": 1}}
    one = letter(json.dumps(cloud))
    assert (one.id, one.event is not None and one.event.payload.cls_type) == ("shop 1", "order.placed")
    assert decode(one.text).header.id == "shop 1"
    several = letter(json.dumps([cloud, {**cloud, "id": "2"}]))
    assert (several.event, several.trouble) == (None, "it holds 2 events")
    custom = reader_of(lambda body: [])
    failed = Message(event_text("LG1"), "h", "m1", 0.0, attributes={"reason": "failed"})
    assert Letter.read(failed, custom).id == "LG1"
    assert Letter.read(Message("{}", "h", "m1", 0.0, problem="it is gone"), custom).error == "it is gone"
