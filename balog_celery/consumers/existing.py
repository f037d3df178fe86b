"""Consumers that run an existing Celery task's code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from celery import Task
from celery.local import Proxy

from ..errors import ConfigurationError
from .consumer import Consumer
from .options import ROUTING_OPTIONS


def is_task(value: object) -> bool:
    """Return whether *value* is a Celery task, without creating one that its decorator postponed."""
    return issubclass(type(value), Proxy) or isinstance(value, Task)  # asking a proxy would create it


def consumer_of_task(task: Any, *, options: dict[str, Any], name: str | None = None, **arguments: Any) -> Consumer:
    """Return a consumer that runs the code of *task* for each event.

    Its own task derives from the class of *task*, so it has its options, hooks and retries. *task* does not change.

    :param options: Celery task options that differ from those of *task*.
    :param name: default: that of *task* with ``.consumer`` behind it.
    :param arguments: those of :class:`Consumer`.
    :raises ConfigurationError: an argument is wrong.
    """
    if given := sorted({"base", "bind"} & options.keys()):
        raise ConfigurationError(f"{task.name} is a task already, with its own class: leave {' and '.join(given)} out")
    module, _, own_name = task.name.rpartition(".")
    base = task.__class__  # of the task itself, where the name stands for a proxy
    run = inspect.getattr_static(base, "run")
    func, bind = (run.__func__, False) if isinstance(run, staticmethod) else (run, True)
    inherited = {option: value for option in ROUTING_OPTIONS if (value := getattr(base, option, None)) is not None}
    return Consumer(
        func,
        name=name or f"{own_name}.consumer",
        options={**inherited, **options, "base": base, "bind": bind},
        module=module or func.__module__,
        existing=task.name,
        **arguments,
    )


def unwrapped(func: Any) -> Callable[..., Any]:
    """Return the plain function in *func*, which may be a task, a method, or wrapped for its calls."""
    while (inner := getattr(func, "__wrapped__", None) or getattr(func, "__func__", None)) is not None:
        func = inner
    return func  # type: ignore[no-any-return]
