"""Checks the options of a retry: what a broker takes, and no worker can read, would be lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from celery import Celery
from celery.utils.time import maybe_iso8601
from kombu.compression import get_encoder

from ..arguments import is_number
from ..celery_compat.configuration import accepts, task_headers
from ..errors import DecodeError
from ..events.records import read_event


def problem_of(app: Celery, options: Mapping[str, Any]) -> str:
    """Return why a task that is retried with *options*, those of ``Task.retry``, could not be executed; "": it could.

    :param app: the app whose workers would read it.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "args": _is_event,
        "eta": _is_time,
        "serializer": lambda name: accepts(app.conf.accept_content, name),
        "compression": lambda name: bool(get_encoder(name)),  # type: ignore[no-untyped-call]
        "headers": lambda headers: not headers.keys() & task_headers(app),
        "time_limit": is_number,
        "soft_time_limit": is_number,
    }
    for name, is_good in checks.items():
        value = options.get(name)
        try:
            good = value is None or is_good(value)
        except Exception:
            good = False
        if not good:
            return f"its {name} cannot be used"
    return ""


def _is_event(args: Any) -> bool:
    first = args[0]
    for text in first if isinstance(first, (list, tuple)) else [first]:
        try:
            read_event(text)
        except DecodeError:
            return False
    return True


def _is_time(eta: Any) -> bool:
    return isinstance(eta, datetime) or isinstance(maybe_iso8601(eta), datetime)
