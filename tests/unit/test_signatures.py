"""Functions of users: annotations that name what exists for type checkers only, and what cannot be called at all."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import balog_celery.signals
from balog_celery import Payload, SQSHandler, configure
from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.operator import check_operator
from balog_celery.decoders import JSONMapping, sns
from balog_celery.engine.config import EngineConfig
from balog_celery.errors import ConfigurationError
from balog_celery.events.decoders.registry import find_decoder, reader_of
from balog_celery.settings import Settings
from balog_celery.signatures import why_not
from balog_celery.wiring.configuration import load_event_handler, load_middleware

#: Python 3.14 looks such names up when they are read, and earlier versions at once, unless they are texts.
TEXTS = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"


def made(source: str, name: str) -> Any:
    """Return what a module with this source defines."""
    module: dict[str, Any] = {"Payload": Payload, "__name__": "made"}
    exec(TEXTS + source, module)
    return module[name]


def test_a_function_may_have_them() -> None:
    """It is a consumer or a decoder like others."""
    func = made("def func(event: OnlyForTypeCheckers) -> Missing: ...", "func")
    consumer = Consumer(func, "topic")
    assert (consumer.event_type, consumer.message_parameter) == (None, "")
    assert callable(reader_of(func))


class _Operator(ConsumerOperator):
    def __init__(self, **methods: Any) -> None:
        vars(self).update(methods)


#: Where users give functions.
PLACES: dict[str, Callable[[Any], object]] = {
    "decoder": find_decoder,
    "decoder in SNS": lambda func: find_decoder(functools.partial(sns, inner=func)),
    "JSONMapping": lambda func: JSONMapping(cls_type=func),
    "default_event_handler of an engine": lambda func: EngineConfig(default_event_handler=func),
    "default_event_handler": lambda func: load_event_handler(Settings(default_event_handler=func)),
    "middleware": lambda func: load_middleware(Settings(middleware=(func,))),
    "get_topic": lambda func: check_operator(_Operator(get_topic=func)),
    "process_event": lambda func: check_operator(_Operator(process_event=func)),
    "ignore": lambda func: ConsumerHub().scan(balog_celery.signals, ignore=func),
    "default of the logger": lambda func: configure(default=func),
    "processor": lambda func: configure(processors=[func]),
    "group": lambda func: SQSHandler("topic", group=func),
    "deduplication_id": lambda func: SQSHandler("topic", deduplication_id=func),
    "attributes": lambda func: SQSHandler("topic", attributes=func),
}
#: Those whose result is awaited, or iterated over.
ASYNC = {"middleware", "process_event"}
ITERATED = {"decoder", "decoder in SNS"}


def noargs() -> None: ...


def many(a: Any, b: Any, c: Any, d: Any, e: Any) -> None: ...


async def waits(*given: Any) -> None: ...


def yields(*given: Any) -> Iterator[None]:
    yield


async def yields_async(*given: Any) -> Any:
    yield


class Many:
    """An object with a method that takes more than any place gives."""

    def __call__(self, a: Any, b: Any, c: Any, d: Any, e: Any) -> None: ...


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("func", [noargs, many, waits, yields, yields_async, Many(), functools.partial(noargs)])
def test_a_function_that_cannot_be_called_is_an_error_at_start(place: str, func: Any) -> None:
    """In one line, wherever it is given: it would fail for each event, or nothing of it would run."""
    if (func is waits and place in ASYNC) or (func is yields and place in ITERATED):
        PLACES[place](func)
        return
    with pytest.raises(ConfigurationError, match=r"it (cannot be called with|is async|is a generator)") as raised:
        PLACES[place](func)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("func", [print, len, str, functools.partial(many, 1, 2, 3, 4), lambda one, two=2: one])
def test_what_can_be_called_is_taken(func: Any) -> None:
    """So are builtins, some of which have no signature."""
    assert why_not(func, "value") == ""


def test_a_decorator_may_pass_more_or_less() -> None:
    """What counts is what is called."""

    def decorated(func: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(func)
        def call(*given: Any) -> None: ...

        return call

    assert why_not(decorated(many), "value") == why_not(decorated(noargs), "value") == ""
