"""Annotations that name what exists for type checkers only."""

from __future__ import annotations

import sys
from typing import Any

from balog_celery import Payload
from balog_celery.consumers import Consumer
from balog_celery.events.decoders.registry import reader_of

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
