"""What a consumer's function asks for by annotating a parameter."""

from __future__ import annotations

import ast
import functools
import importlib
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

#: The name of this package.
_OWN = __name__.partition(".")[0]


class Unknown:
    """Stands for what an annotation names, and what exists for type checkers only."""


def event_type(func: Callable[..., Any], *, is_batch: bool, name: str) -> type[FacilityRecord] | type[Payload] | None:
    """Return the model that *func* asks for by an annotation, or None for a dict.

    :param is_batch: whether it gets a list of them.
    :param name: the name of the consumer's task, for errors.
    :raises ConfigurationError: it asks for several, for one where it gets a list, or for a list where it gets one.
    """
    names = _names_of(func)
    hints = [_resolved(parameter.annotation, names) for parameter in _parameters(func)]
    found = [model for hint in hints for model in _models(hint)]
    listed = [model for hint in hints for item in _items(hint) for model in _models(item)]
    if is_batch:
        if found:
            raise ConfigurationError(f"{name} has batch=, and gets a list: annotate list[{found[0].__name__}]")
        found = listed
    elif listed and not (found or is_decorated(func)):
        model = listed[0].__name__
        raise ConfigurationError(
            f"{name} gets one event at a time, and asks for a list of {model}: annotate {model}, or set batch= to "
            "get a list (without each=)"
        )
    if len(found) > 1:
        raise ConfigurationError(f"{name} asks for {len(found)} event models; annotate one parameter")
    return found[0] if found else None


def hint_of(func: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of a *parameter* of *func*, without texts; :class:`Unknown` in place of unknown names."""
    return _resolved(parameter.annotation, _names_of(func))


def message_parameter(func: Callable[..., Any]) -> str:
    """Return the name of the parameter that *func* annotates with :class:`Message`, or ""."""
    names = _names_of(func)
    found = [one.name for one in _parameters(func) if Message in parts_of(_resolved(one.annotation, names))]
    return found[0] if found else ""


def defaults(func: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters of *func* that have a default."""
    return frozenset(one.name for one in _parameters(func) if one.default is not inspect.Parameter.empty)


def is_decorated(func: Any) -> bool:
    """Return whether a decorator, which may pass something else, is around *func*, or in it if that is partial."""
    while isinstance(func, functools.partial):
        func = func.func
    return hasattr(func, "__wrapped__")


def _parameters(func: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(signature_of(func).parameters.values())
    except (TypeError, ValueError):  # a builtin has none
        return []


def parts_of(hint: Any) -> Iterator[Any]:
    """The types in a hint, also as one of a union or with metadata."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from parts_of(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from parts_of(part)
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
    """Return *annotation* without texts, in itself or within it; :class:`Unknown` in place of unknown names."""
    for _ in range(2):  # with the future import, a text is one within a text
        if isinstance(annotation, typing.ForwardRef):
            annotation = annotation.__forward_arg__
        if isinstance(annotation, str):
            try:
                annotation = _evaluated(annotation, names)
            except Exception:
                return Unknown
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


def _evaluated(annotation: str, names: dict[str, Any]) -> Any:
    try:
        return eval(annotation, names)
    except NameError:
        return eval(annotation, {**_imports_for_checkers(str(names.get("__name__"))), **names})


def _imports_for_checkers(module: str) -> dict[str, Any]:
    """Return what *module* imports from this package, also below ``if TYPE_CHECKING:``, by name."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_own(node.module):
            origin = importlib.import_module(str(node.module))
            found |= {one.asname or one.name: getattr(origin, one.name, Unknown) for one in node.names}
        elif isinstance(node, ast.Import):
            for one in (one for one in node.names if _is_own(one.name)):
                imported = importlib.import_module(one.name)
                found[one.asname or _OWN] = imported if one.asname else sys.modules[_OWN]
    return found


def _is_own(module: str | None) -> bool:
    return str(module).partition(".")[0] == _OWN


def _models(hint: Any) -> Iterator[type[FacilityRecord] | type[Payload]]:
    """Return the event models that a hint names."""
    for part in parts_of(hint):
        # Python 3.10 takes list[str] for a type, but not for a class.
        if typing.get_origin(part) is None and isinstance(part, type) and issubclass(part, (FacilityRecord, Payload)):
            yield part


def _items(hint: Any) -> Iterator[Any]:
    """Return the item types of the lists that a hint names."""
    for part in parts_of(hint):
        origin = typing.get_origin(part)
        if isinstance(origin, type) and issubclass(list, origin):  # a list, or any abstraction of one
            yield from typing.get_args(part)
