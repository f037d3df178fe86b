"""Causes of events, and protection against a topic that feeds itself."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from balog_celery import SQSHandler, caused_by, get_logger, send
from balog_celery.events.records import as_event
from balog_celery.producer.lineage import CauseFilter, consumes, consuming, keeps_cause
from balog_celery.testing import capture_records, make_event
from scripted_sqs.observed import ObservedQueue

NULL = {"cls_type": "null"}
EVENT = make_event({"cls_type": "order"}, event_id="e1")
NOT_CAUSED: dict[str, Any] = {}
CAUSED = {"causation_id": "e1", "correlation_id": "e1"}


def context_of_a_record() -> dict[str, Any]:
    """Return the header's context of a record that is logged here."""
    with capture_records() as records:
        get_logger("a").info("done", payload=NULL)
    return records.events[0]["header"]["context"]  # type: ignore[no-any-return]


def test_what_a_consumer_logs_names_its_event() -> None:
    """A record that a consumer logs names its event while the function runs, and not after, however that ends."""
    with consuming("t", "c", [EVENT]):
        assert context_of_a_record() == CAUSED
    assert context_of_a_record() == NOT_CAUSED
    with pytest.raises(ValueError), consuming("t", "c", [EVENT]):
        raise ValueError
    assert context_of_a_record() == NOT_CAUSED


def test_the_first_cause_is_handed_on() -> None:
    """An event's own first cause is passed on, from a record and from a dict."""
    with consuming("t", "c", [EVENT]), capture_records() as records:
        get_logger("a").info("done", payload=NULL)
    second = records[0]
    expected = {"causation_id": second.header.id, "correlation_id": "e1"}
    with consuming("t", "c", [second]):
        assert context_of_a_record() == expected
    for event in (second, as_event(second)):
        with caused_by(event):
            assert context_of_a_record() == expected


@pytest.mark.parametrize("first", [5, "", None, ["x"], "x" * 1025])
def test_a_first_cause_that_is_no_id_is_not_believed(first: Any) -> None:
    """A foreign value in the place of the first cause is ignored unless it is an id."""
    event = {"header": {"id": "e1", "context": {"correlation_id": first}}, "payload": {"cls_type": "x"}}
    with caused_by(event):
        assert context_of_a_record() == CAUSED


def test_a_test_may_ask_what_an_event_has_caused() -> None:
    """Captured records are found by the event that caused them, given as a record, a dict or an id."""
    event = make_event({"cls_type": "null"}, event_id="e1")
    with capture_records() as records:
        get_logger("a").info("before", payload={"cls_type": "null"})
        with caused_by(event):
            get_logger("a").info("done", payload={"cls_type": "null"})
            send({"cls_type": "null"}, topic="shop", channel="a.sent")
    for given in (event, {"header": {"id": "e1"}}, "e1"):
        assert [record.header.channel for record in records.caused_by(given)] == ["a.done", "a.sent"]
    assert records.caused_by("e2") == []


def test_a_batch_has_no_one_cause() -> None:
    """In a batch, records have a cause only after the consumer names one."""
    with consuming("t", "c", [EVENT, make_event(NULL, event_id="e2")]):
        assert context_of_a_record() == NOT_CAUSED
        with caused_by(EVENT):
            assert context_of_a_record() == CAUSED
        assert context_of_a_record() == NOT_CAUSED


def test_asyncio_s_tasks_and_threads_with_the_context_have_the_cause() -> None:
    """asyncio's tasks, and threads that run in the context, have the cause; other threads do not."""
    found: list[dict[str, Any]] = []

    async def log() -> None:
        found.append(context_of_a_record())

    async def both() -> None:
        await asyncio.gather(asyncio.create_task(log()), asyncio.to_thread(lambda: found.append(context_of_a_record())))

    def in_a_thread(function: Any, *args: Any) -> None:
        thread = threading.Thread(target=function, args=args)
        thread.start()
        thread.join()

    with consuming("t", "c", [EVENT]):
        asyncio.run(both())
        in_a_thread(contextvars.copy_context().run, lambda: found.append(context_of_a_record()))
        in_a_thread(lambda: found.append(context_of_a_record()))
    assert found == [CAUSED, CAUSED, CAUSED, NOT_CAUSED]


def test_what_the_caller_gives_wins() -> None:
    """Keys that the caller gives win over those of the cause."""
    with consuming("t", "c", [EVENT]), capture_records() as records:
        get_logger("a").info("done", payload=NULL, context={"correlation_id": "mine"})
    assert records.events[0]["header"]["context"] == {**CAUSED, "correlation_id": "mine"}


FIELDS = {"event_id": "e1", "cls_type": "order", "topic": "t", "consumer": "c"}
EMPTY = dict.fromkeys(FIELDS, "")


def fields_of_a_log_record(**extra: Any) -> dict[str, Any]:
    """Return the fields that CauseFilter adds to a record."""
    record = logging.makeLogRecord(extra)
    assert CauseFilter().filter(record)
    return {name: vars(record)[name] for name in FIELDS}


def test_log_records_and_structlog_have_the_fields() -> None:
    """Log records and structlog have the fields, empty outside of consumers; a record's own are kept."""
    assert fields_of_a_log_record() == EMPTY
    with consuming("https://sqs.eu-west-1.amazonaws.com/1/t", "c", [EVENT]):
        assert fields_of_a_log_record() == FIELDS
        assert fields_of_a_log_record(topic="mine") == {**FIELDS, "topic": "mine"}
        assert structlog.contextvars.get_contextvars() == FIELDS
    assert structlog.contextvars.get_contextvars() == {}


def test_lines_about_the_end_of_a_task_have_them_too() -> None:
    """Celery's lines about the end of a task have the fields, and the next task starts without them."""

    @keeps_cause
    def trace() -> list[dict[str, Any]]:
        before = fields_of_a_log_record()
        with consuming("t", "c", [EVENT]):
            pass
        return [before, fields_of_a_log_record()]

    assert trace() == trace() == [EMPTY, FIELDS]
    assert fields_of_a_log_record() == EMPTY
    assert structlog.contextvars.get_contextvars() == {}


# No feedback


@pytest.fixture
def topic() -> str:
    """A topic of this test only, because a process never forgets its consumed topics."""
    return f"t-{uuid.uuid4().hex}"


@pytest.fixture
def queue() -> ObservedQueue:
    return ObservedQueue()


@pytest.fixture
def shipped(topic: str, queue: ObservedQueue) -> Iterator[Any]:
    """Return a function that ships records by *topic*'s handler, and returns their types and how many were withheld."""
    handlers: list[SQSHandler] = []

    def ship(**options: Any) -> tuple[list[str], int]:
        handler = SQSHandler(topic, queue=queue, **options)
        handlers.append(handler)
        logger = logging.getLogger("lineage.test")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            get_logger("lineage.test").info("done", payload=NULL)
            logger.info("plain")
            handler.flush(60)
        finally:
            logger.removeHandler(handler)
        sent = [json.loads(message.body)["payload"]["cls_type"] for message in queue.sent]
        queue.sent.clear()
        return sent, handler.stats()["withheld"]

    yield ship
    for handler in handlers:
        handler.close()


def test_a_consumer_s_records_are_not_shipped_to_its_own_topic(
    topic: str, shipped: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """A consumer's records are not shipped to its own topic, counted, and reported once; other topics get them."""
    with consuming(topic, "c", [EVENT]):
        assert shipped() == ([], 2)
        assert capfd.readouterr().err.count("log: set feedback=True to ship it") == 1
        assert shipped(feedback=True) == (["null", "log"], 0)
    with consuming("another", "c", [EVENT]):
        assert shipped() == (["null", "log"], 0)
    assert shipped() == (["null", "log"], 0)


def test_lines_of_a_process_that_consumes_the_topic_are_not_shipped_to_it(topic: str, shipped: Any) -> None:
    """Plain lines of a process that consumes the topic are not shipped to it; events of get_logger are."""
    consumes(f"https://sqs.eu-west-1.amazonaws.com/1/{topic}")
    assert shipped() == (["null"], 1)
    assert shipped(feedback=True) == (["null", "log"], 0)
