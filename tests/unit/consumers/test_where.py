"""Consumers that select events by their content."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.explain import explain, why_not
from balog_celery.consumers.lint import lint
from balog_celery.consumers.router import Router
from balog_celery.errors import ConfigurationError
from balog_celery.events.decoders import JSONMapping, Message, reader_of
from balog_celery.events.records import FacilityRecord, decode
from sample_events import event_text


def consumer(name: str, where: dict[str, Any] | None, cls_type: str | None = None) -> Consumer:
    return Consumer(lambda event: None, "topic", cls_type, name=name, where=where)


def event(**payload: Any) -> FacilityRecord:
    return decode(event_text(cls_type="state", **payload))


def names(found: tuple[Consumer, ...]) -> list[str | None]:
    return [one.name for one in found]


def test_an_event_goes_to_those_that_want_its_content() -> None:
    """An event goes to the consumers whose pattern matches its content, and to those without a pattern, in order."""
    hub = ConsumerHub()
    for name, where in {
        "any": None,
        "running": {"payload.state": ["running", "pending"]},
        "r": {"payload.state": [{"prefix": "r"}]},
        "not stopped": {"payload.state": [{"anything-but": "stopped"}]},
        "either": {"$or": [{"payload.state": ["stopped"]}, {"payload.n": [1]}]},
        "both": {"payload.state": ["running"], "payload.n": [1]},
        "last": None,
    }.items():
        hub.add_consumer(consumer(name, where))
    assert names(hub.route(event(state="running"))) == ["any", "running", "r", "not stopped", "last"]
    assert names(hub.route(event(state="stopped"))) == ["any", "either", "last"]
    assert names(hub.route(event(state=["stopped", "pending"], n=1))) == [
        "any",
        "running",
        "not stopped",
        "either",
        "last",
    ]
    assert names(hub.route(event(state="running", n=1))) == [
        "any",
        "running",
        "r",
        "not stopped",
        "either",
        "both",
        "last",
    ]
    assert names(hub.route(event())) == ["any", "last"]


def test_attributes_and_the_channel_select_as_well() -> None:
    """Message attributes, SNS's included, and the channel select events."""
    router = Router(
        [consumer("a", {"attributes.tenant": ["a"]}), consumer("c", {"header.channel": [{"suffix": "done"}]})]
    )
    assert names(router.route(event())) == ["c"]
    assert names(router.route(event(), {"tenant": "a"})) == ["a", "c"]


def test_the_content_comes_beside_type_and_version() -> None:
    """Type, version and content must all match."""
    router = Router([consumer("a", {"payload.n": [1]}, "state"), consumer("b", {"payload.n": [1]}, "other")])
    assert names(router.route(event(n=1))) == ["a"]
    assert names(router.route(event(n=2))) == []


def test_explain_says_what_the_content_is() -> None:
    """`explain` names each field that does not match."""
    running = consumer("a", {"payload.state": ["running"], "attributes.tenant": ["a"]})
    ((_, reasons),) = explain(event(state="stopped"), {"topic": [running]}, attributes={}).items()
    assert [(reason.code, reason.text) for reason in reasons] == [
        ("where", "payload.state is 'stopped', not 'running'"),
        ("where", "attributes.tenant is missing, not 'a'"),
    ]
    assert why_not(running, event(state="running")) == []


def test_one_function_with_two_patterns_is_no_mistake() -> None:
    """Two patterns on one function are no likely mistake; a second consumer without a pattern is."""

    def func(event: Any) -> None: ...

    def two(*where: Any) -> list[Consumer]:
        return [Consumer(func, "topic", name=str(place), where=one) for place, one in enumerate(where)]

    assert list(lint({"topic": two({"payload.n": [1]}, {"payload.n": [2]})})) == []
    assert len(list(lint({"topic": two(None, None)}))) == 1
    assert len(list(lint({"topic": two({"payload.n": [1]}, {"payload.n": [1]})}))) == 1


def test_a_bad_pattern_is_an_error_at_the_decorator() -> None:
    """A bad pattern is an error at decoration that names the path."""
    with pytest.raises(ConfigurationError, match=r"bad condition 'running' in where= at payload\.state: give a list"):
        consumer("a", {"payload.state": "running"})


def with_message(message: Message) -> Any: ...


def with_body(body: str) -> Any: ...


def duration(router: Router, record: FacilityRecord) -> float:
    return min(timeit.repeat(lambda: router.route(record), number=200, repeat=5))


@pytest.mark.parametrize("condition", [lambda n: f"state-{n}", lambda n: {"prefix": f"state-{n}-"}, lambda n: n])
def test_ten_thousand_patterns_are_found_by_index(condition: Any) -> None:
    """Ten thousand patterns take at most 20 times as long as one."""
    ((record, _),) = reader_of(JSONMapping(cls_type="state"))(json.dumps({"state": ["state-77", "state-77-x", 77]}))
    many = Router(consumer(str(n), {"payload.state": [condition(n)]}) for n in range(10_000))
    one = Router([consumer("77", {"payload.state": [condition(77)]})])
    assert names(many.route(record)) == names(one.route(record)) == ["77"]
    assert duration(many, record) < 20 * duration(one, record)
