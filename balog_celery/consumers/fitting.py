"""Whether the dict that a function gets can be what it asks for: a mistake would else show at the first event."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from typing_extensions import TypeAliasType, is_protocol, is_typeddict

from .annotations import Unknown, hint_of, is_decorated, parts_of
from .consumer import Consumer


def misfit(consumer: Consumer, func: Callable[..., Any], signature: inspect.Signature) -> str:
    """Return what is wrong with the annotation of the parameter that gets the event, or ""; it may be a model.

    :param func: the function as it is called with the event alone.
    :param signature: its signature.
    """
    parameter = next(iter(signature.parameters.values()), None)
    if parameter is None or consumer.event_type is not None or is_decorated(func):
        return ""
    hint = hint_of(func, parameter)
    is_batch = consumer.batch is not None and not consumer.each
    if parameter.annotation is parameter.empty or _fits(hint, list if is_batch else dict):
        return ""
    gets = "a list of dicts" if is_batch else "a dict"
    asks = parameter.replace(default=parameter.empty)
    if _is_unknown(hint):
        return (
            f"{consumer.task_name} gets {gets}, as its annotation ({asks}) names what cannot be found: if it is a "
            "model, import it where it is imported at run time, not below `if TYPE_CHECKING:`"
        )
    return (
        f"{consumer.task_name} gets {gets}, and annotates something else ({asks}): derive the model from "
        "balog_celery.Payload, or annotate FacilityRecord or dict"
    )


def _is_unknown(hint: Any) -> bool:
    return hint is Unknown or any(map(_is_unknown, typing.get_args(hint)))


def _fits(hint: Any, kind: type) -> bool:
    """Return whether *hint* may be the annotation of a value of *kind*, a dict or a list of dicts."""
    return any(_part_fits(part, kind) for part in parts_of(hint))


def _part_fits(part: Any, kind: type) -> bool:
    if isinstance(part, TypeAliasType):
        return _fits(part.__value__, kind)
    if (base := getattr(part, "__supertype__", None)) is not None:  # of a NewType
        return _fits(base, kind)
    origin = typing.get_origin(part) or part
    if origin is Any or not isinstance(origin, type) or is_typeddict(origin) or is_protocol(origin):
        return True
    try:
        # A class derived from dict is not what the function gets, but may be all the same to it.
        fits = issubclass(kind, origin) or issubclass(origin, kind)
    except TypeError:
        return True
    items = typing.get_args(part) if kind is list else ()
    return fits and (len(items) != 1 or _fits(items[0], dict))
