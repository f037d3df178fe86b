"""What is told at start of consumers that look like a mistake."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers import Consumer
from balog_celery.consumers.doubts import doubts
from balog_celery.limits import limit_doubts


def f(event: Any) -> None: ...


def g(event: Any) -> None: ...


def told(*consumers: Consumer) -> list[str]:
    topics: dict[str, list[Consumer]] = {}
    for consumer in consumers:
        topics.setdefault(consumer.topic, []).append(consumer)
    return list(doubts(topics))


def test_a_consumer_that_can_never_match_is_told() -> None:
    """With its name and its condition."""
    (doubt,) = told(Consumer(f, "events", version=">2,<1"))
    assert doubt.startswith(f"{__name__}.f can never match: no version meets >2,<1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"cls_type": "a"}, {}),
        ({"cls_type": ["a", "b"]}, {"cls_type": ["b", "c"]}),
        ({"version": "<2"}, {"version": ">=1"}),
        ({"cls_type": "aws.*"}, {"cls_type": ["x", "aws.s3.*"]}),
        ({"cls_type": "a", "version": "<2"}, {"cls_type": "a"}),
    ],
)
def test_a_function_that_would_be_called_twice_is_told(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Both want some event of the topic."""
    (doubt,) = told(Consumer(f, "events", name="one", **one), Consumer(f, "events", name="other", **other))
    assert f"{__name__}.one and {__name__}.other are one function" in doubt


def test_a_method_is_one_function_though_it_has_an_instance_for_each_consumer() -> None:
    """A scan makes them."""

    class Processor:
        def process(self, event: Any) -> None: ...

    assert len(told(Consumer(Processor().process, "t", name="a"), Consumer(Processor().process, "t", name="b"))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((f, "events", {"cls_type": "a"}), (f, "events", {"cls_type": "b"})),
        ((f, "events", {"cls_type": "aws.s3.*"}), (f, "events", {"cls_type": ["aws.ec2.*", "aws"]})),
        ((f, "events", {"version": "<1"}), (f, "events", {"version": ">=1"})),
        ((f, "events", {}), (f, "others", {})),
        ((f, "events", {}), (g, "events", {})),
    ],
)
def test_what_is_told_apart_is_no_twin(one: Any, other: Any) -> None:
    """By type, version, topic or function."""
    consumers = [
        Consumer(func, topic, name=name, **wanted) for name, (func, topic, wanted) in (("x", one), ("y", other))
    ]
    assert told(*consumers) == []


@pytest.fixture
def app() -> Celery:
    """An app on a Redis that is not asked, with a task that stands for the consumer's."""
    app = Celery("limits", broker="redis://127.0.0.1:1", set_as_current=False)
    app.task(name=f"{__name__}.f", shared=False, time_limit=50_000)(f)
    app.task(name=f"{__name__}.g", shared=False, soft_time_limit=4000)(g)
    return app


def test_a_time_limit_beyond_the_lease_is_told(app: Celery) -> None:
    """SQS ends a lease after 12 hours, whatever the engine does."""
    (doubt,) = limit_doubts(app, [Consumer(f, "events")], "hand-off")
    assert "may run for 50000 s, longer than SQS keeps a message for it (43200 s)" in doubt


def test_a_time_limit_beyond_the_brokers_patience_is_told(app: Celery) -> None:
    """Redis gives a task out again after an hour, unless it is told otherwise."""
    consumer = Consumer(g, "events")
    (doubt,) = limit_doubts(app, [consumer], "publish")
    assert "may run for 4000 s, longer than the Redis broker waits before it gives the task out again (3600 s)" in doubt
    app.conf.broker_transport_options = {"visibility_timeout": 5000}
    assert list(limit_doubts(app, [consumer], "publish")) == []


def test_other_brokers_have_no_such_limit() -> None:
    """And no limit is no doubt."""
    app = Celery("limits", broker="memory://", set_as_current=False)
    app.task(name=f"{__name__}.f", shared=False, time_limit=40_000)(f)
    app.task(name=f"{__name__}.g", shared=False)(g)
    assert list(limit_doubts(app, [Consumer(f, "t"), Consumer(g, "t")], "hand-off")) == []
