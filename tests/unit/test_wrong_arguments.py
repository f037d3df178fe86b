"""Each argument of the public functions and constructors: a wrong value works, or is an error that names it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

import balog_celery
from balog_celery import SQSHandler, asend, asend_many, configure, flush, get_logger, install, produces, send, send_many
from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator, consumer_config
from balog_celery.consumers.kombu import KombuEngine
from balog_celery.consumers.sqs import SQSEngine
from balog_celery.engine.config import EngineConfig
from balog_celery.errors import ConfigurationError
from balog_celery.outbox.message import new_row
from balog_celery.queues import SQSQueue
from balog_celery.records import LogPayload
from balog_celery.testing import capture_records

NULL = {"cls_type": "null"}
ODD = [None, 5, -1, "x", "", [1], object(), float("nan")]


def consumed(_event: Any) -> None:
    """A consumer's function."""


def new_app() -> Celery:
    return Celery("odd", broker="memory://", set_as_current=False)


#: What is called, with arguments that are right.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "send": (send, {"payload": NULL, "topic": "t"}),
    "send_many": (send_many, {"payloads": [NULL], "topic": "t"}),
    "asend": (lambda **given: asyncio.run(asend(**given)), {"payload": NULL, "topic": "t"}),
    "asend_many": (lambda **given: asyncio.run(asend_many(**given)), {"payloads": [NULL], "topic": "t"}),
    "outbox": (new_row, {"payload": NULL, "topic": "t"}),
    "handler": (SQSHandler, {"topic": "t"}),
    "queue": (SQSQueue, {"topic": "t"}),
    "configure": (configure, {}),
    "get_logger": (get_logger, {}),
    "flush": (flush, {}),
    "produces": (lambda topic: produces(topic, LogPayload), {"topic": "t"}),
    "consumer": (Consumer, {"func": consumed, "topic": "t"}),
    "scan": (ConsumerHub().scan, {"package": balog_celery.errors}),
    "sqs engine": (SQSEngine, {"hub": ConsumerHub()}),
    "kombu engine": (KombuEngine, {"hub": ConsumerHub(), "url": "memory://"}),
    "engine options": (EngineConfig, {}),
    "install": (install, {"app": new_app}),
}
#: The functions whose parameters stand for those of what passes them on.
PARAMETERS = {"asend": send, "asend_many": send_many}
#: Objects of the package that only its own code makes.
OBJECTS = ("dispatcher", "status_file", "telemetry", "pauses")


def cases() -> Iterator[tuple[str, str]]:
    for call, (func, _) in CALLS.items():
        for parameter in inspect.signature(PARAMETERS.get(call, func)).parameters.values():
            is_variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if not is_variable and parameter.name not in OBJECTS:
                yield call, parameter.name


def error_of(call: str, name: str, value: object) -> Exception | None:
    func, right = CALLS[call]
    given = {key: one() if one is new_app else one for key, one in right.items()}
    try:
        func(**{**given, name: value})
    except (TypeError, ValueError) as error:
        return error
    return None


@pytest.fixture
def _apart() -> Iterator[None]:
    """Nothing is sent, and the configuration is as before."""
    with capture_records():
        yield
    configure()


@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize("value", ODD, ids=[repr(value).partition(" at")[0] for value in ODD])
@pytest.mark.parametrize(("call", "name"), [*cases()])
def test_an_odd_argument_works_or_is_an_error_that_names_it(call: str, name: str, value: object) -> None:
    """The error is one of the package's, or a TypeError or ValueError, in one line."""
    error = error_of(call, name, value)
    if error is not None:
        assert name.rstrip("s").replace("_", " ") in str(error).lower().replace("_", " ")
        assert "\n" not in str(error)


#: Names that no queue of SQS has, and what the error says.
NO_QUEUES = {
    "a b": "the name of a queue has",
    "a" * 81: "the name of a queue has",
    "arn:aws:sqs:eu-west-1:123456789012:orders": "an ARN",
    "orders-{env}": "placeholder",
}


@pytest.mark.parametrize("topic", NO_QUEUES)
@pytest.mark.parametrize("call", ["send", "send_many", "asend", "asend_many", "outbox", "handler"])
def test_a_topic_that_no_queue_can_be_is_an_error(call: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to give instead; nothing is sent, and SQS is not asked."""
    error = error_of(call, "topic", topic)
    assert isinstance(error, ConfigurationError)
    assert NO_QUEUES[topic] in str(error)


@pytest.mark.parametrize("operator", ["proj.events:operator", ConsumerOperator])
def test_configure_takes_an_operator_and_no_name_of_one(operator: Any) -> None:
    """The name of an operator, or its class, is an error at once, not one of each later send."""
    with pytest.raises(ConfigurationError, match=r"bad operator .*give an object with get_topic"):
        configure(operator=operator)


@pytest.mark.parametrize("func", [print, [].append, int])
def test_what_cannot_be_decorated_is_an_error(func: Any) -> None:
    """What can have no mark of the decorator, such as a builtin, is an error that says what to write."""
    with pytest.raises(ConfigurationError, match=r"cannot decorate .*write a function"):
        consumer_config("q")(func)
