"""Why a consumer gets an event, or does not."""

from __future__ import annotations

from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.explain import explain, why_not
from balog_celery.events.records import decode
from sample_events import event_text


def consumer(name: str = "f", topic: str = "events", **wanted: Any) -> Consumer:
    return Consumer(print, topic, name=name, **wanted)


@pytest.mark.parametrize(
    ("wanted", "codes"),
    [
        ({}, []),
        ({"cls_type": "metrics", "version": "<1.0"}, []),
        ({"cls_type": "log"}, ["cls_type"]),
        ({"version": ">=1.0"}, ["version"]),
        ({"cls_type": ["log", "null"], "version": ">=1.0,<2.0"}, ["cls_type", "version"]),
    ],
)
def test_every_reason_is_told(wanted: dict[str, Any], codes: list[str]) -> None:
    """Each reason why a consumer does not get an event is reported; none means that it gets it."""
    assert [reason.code for reason in why_not(consumer(**wanted), decode(event_text()))] == codes


def test_the_reasons_name_what_is_and_what_is_wanted() -> None:
    """A reason names the event's value and the condition's failing part only."""
    reasons = why_not(consumer(cls_type=["null", "log"], version=">=0.1,<2.0"), decode(event_text(schema="3.0")))
    assert [reason.text for reason in reasons] == ["cls_type metrics is not log, null", "version 3.0 is not <2.0"]


def test_a_schema_that_is_no_version_meets_no_condition() -> None:
    """A schema that is not a version meets no condition, and is escaped for the terminal."""
    event = decode(event_text(schema="\x1b[31m"))
    (reason,) = why_not(consumer(version="<1.0"), event)
    assert reason.code == "version unreadable"
    assert reason.text == r"schema \x1b[31m is not a version, and the consumer asks for <1.0"
    assert why_not(consumer(), event) == []


def test_a_consumer_of_another_topic_does_not_get_it() -> None:
    """A consumer of another topic, given by name or URL, does not get the event; without a topic any will do."""
    here, there = consumer("here"), consumer("there", "https://sqs.eu-west-1.amazonaws.com/1/others")
    topics = {one.topic: [one] for one in (here, there)}
    event = decode(event_text())
    assert explain(event, topics) == {here: [], there: []}
    assert explain(event, topics, "others")[there] == []
    (reason,) = explain(event, topics, "others")[here]
    assert reason == ("topic", "it listens to events")


@pytest.mark.parametrize("schema", ["0.0.1", "1.0", "garbage"])
@pytest.mark.parametrize("cls_type", ["metrics", "log2", "x"])
def test_it_says_what_routing_does(schema: str, cls_type: str) -> None:
    """The explanation agrees with the router for any event and consumers."""
    wanted: list[dict[str, Any]] = [
        {},
        {"cls_type": "metrics"},
        {"cls_type": ["x", "log2"], "version": ">=1.0"},
        {"cls_type": "met*"},
        {"version": "<1.0"},
    ]
    hub = ConsumerHub()
    for number, one in enumerate(wanted):
        hub.add_consumer(consumer(f"f{number}", **one))
    event = decode(event_text(cls_type=cls_type, schema=schema))
    assert hub.route(event) == tuple(one for one in hub if not why_not(one, event))
