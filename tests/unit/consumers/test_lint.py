"""Warnings at start about consumers that are likely mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers import Consumer
from balog_celery.consumers.lint import lint
from balog_celery.consumers.time_limits import time_limit_warnings


def f(event: Any) -> None: ...


def g(event: Any) -> None: ...


def told(*consumers: Consumer) -> list[str]:
    topics: dict[str, list[Consumer]] = {}
    for consumer in consumers:
        topics.setdefault(consumer.topic, []).append(consumer)
    return list(lint(topics))


def test_a_consumer_that_can_never_match_is_told() -> None:
    """A consumer that can never match is reported with its name and condition."""
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
    """A function that would be called twice for an event is reported."""
    (doubt,) = told(Consumer(f, "events", name="one", **one), Consumer(f, "events", name="other", **other))
    assert f"{__name__}.one and {__name__}.other call the same function" in doubt


def test_a_method_is_one_function_though_it_has_an_instance_for_each_consumer() -> None:
    """A method counts as one function, although a scan makes an instance for each consumer."""

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
    """Consumers that differ in type, version, topic or function are not reported."""
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
    """A time limit beyond SQS's 12 hours of visibility is reported."""
    (doubt,) = time_limit_warnings(app, [Consumer(f, "events")], "hand-off")
    assert "may run for 50000 s, longer than SQS keeps a message for it (43200 s)" in doubt


def test_a_time_limit_beyond_the_brokers_timeout_is_told(app: Celery) -> None:
    """A time limit beyond the visibility timeout of a Redis broker is reported."""
    consumer = Consumer(g, "events")
    (doubt,) = time_limit_warnings(app, [consumer], "publish")
    assert "may run for 4000 s, longer than the Redis broker waits before it gives the task out again (3600 s)" in doubt
    app.conf.broker_transport_options = {"visibility_timeout": 5000}
    assert list(time_limit_warnings(app, [consumer], "publish")) == []


def test_other_brokers_have_no_such_limit() -> None:
    """Other brokers have no such limit, and consumers without a time limit are not reported."""
    app = Celery("limits", broker="memory://", set_as_current=False)
    app.task(name=f"{__name__}.f", shared=False, time_limit=40_000)(f)
    app.task(name=f"{__name__}.g", shared=False)(g)
    assert list(time_limit_warnings(app, [Consumer(f, "t"), Consumer(g, "t")], "hand-off")) == []
