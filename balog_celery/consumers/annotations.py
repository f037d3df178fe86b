"""What a consumer's function asks for by annotating a parameter."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ConfigurationError
from ..events.message import Message
from ..events.payloads import Payload
from ..events.records import FacilityRecord
from ..signatures import signature_of


def event_type(func: Callable[..., Any], *, is_batch: bool, name: str) -> type[FacilityRecord] | type[Payload] | None:
    """Return the model that *func* asks for by an annotation, or None for a dict.

    :param is_batch: whether it gets a list of them.
    :param name: the name of the consumer's task, for errors.
    :raises ConfigurationError: it asks for several, or for none where it gets a list.
    """
    names = _names_of(func)
    hints = [_resolved(parameter.annotation, names) for parameter in _parameters(func)]
    found = [model for hint in hints for model in _models(hint)]
    if is_batch:
        if found:
            raise ConfigurationError(f"{name} has batch=, and gets a list: annotate list[{found[0].__name__}]")
        found = [model for hint in hints for item in _items(hint) for model in _models(item)]
    if len(found) > 1:
        raise ConfigurationError(f"{name} asks for {len(found)} event models; annotate one parameter")
    return found[0] if found else None


def message_parameter(func: Callable[..., Any]) -> str:
    """Return the name of the parameter that *func* annotates with :class:`Message`, or ""."""
    names = _names_of(func)
    found = [one.name for one in _parameters(func) if Message in _parts(_resolved(one.annotation, names))]
    return found[0] if found else ""


def defaults(func: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters of *func* that have a default."""
    return frozenset(one.name for one in _parameters(func) if one.default is not inspect.Parameter.empty)


def _parameters(func: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(signature_of(func).parameters.values())
    except (TypeError, ValueError):  # a builtin has none
        return []


def _parts(hint: Any) -> Iterator[Any]:
    """The types in a hint, also as one of a union or with metadata."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(hint):
            yield from _parts(part)
    else:
        yield hint


def _names_of(func: Any) -> dict[str, Any]:
    """Return the names that the annotations of *func* may use: those of its module."""
    while True:
        func = inspect.unwrap(func)
        if not isinstance(func, functools.partial):
            break
        func = func.func
    made_by = func.__init__ if isinstance(func, type) else func  # type: ignore[misc]
    names: dict[str, Any] = getattr(made_by, "__globals__", None) or getattr(type(func).__call__, "__globals__", {})
    return names or vars(sys.modules.get(func.__module__, sys))


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """Return *annotation* without texts, in itself or within it; None for names that are for type checkers only."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, names)
        except Exception:
            return None
    parts = typing.get_args(annotation)
    if not any(isinstance(part, (str, typing.ForwardRef)) or typing.get_args(part) for part in parts):
        return annotation
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _resolved(parts[0], names)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_resolved(part, names) for part in parts)]  # noqa: UP007
    if isinstance(origin, type) and issubclass(list, origin) and len(parts) == 1:
        return types.GenericAlias(origin, (_resolved(parts[0], names),))
    return annotation


def _models(hint: Any) -> Iterator[type[FacilityRecord] | type[Payload]]:
    """Return the event models that a hint names."""
    for part in _parts(hint):
        # Python 3.10 takes list[str] for a type, but not for a class.
        if typing.get_origin(part) is None and isinstance(part, type) and issubclass(part, (FacilityRecord, Payload)):
            yield part


def _items(hint: Any) -> Iterator[Any]:
    """Return the item types of the lists that a hint names."""
    for part in _parts(hint):
        origin = typing.get_origin(part)
        if isinstance(origin, type) and issubclass(list, origin):  # a list, or any abstraction of one
            yield from typing.get_args(part)
