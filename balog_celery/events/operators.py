"""The conditions of a pattern on one field: values, and EventBridge's operators."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

from ..errors import ConfigurationError

#: Stands for the value of a field that is missing.
MISSING = object()
#: Stands for an object of which nothing is known, so that no condition refuses it.
UNKNOWN = object()

Test: TypeAlias = Callable[[Any], bool]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}
# A wildcard is "*"; "\*" and "\\" stand for the character itself.
_WILDCARD_PARTS = re.compile(r"\\([*\\])|(\*)|([^*\\]+)|(\\)")


class Leaf(NamedTuple):
    """What one field must be.

    :param tests: one of them must hold.
    :param exact: the texts and numbers that are looked for, if nothing else is; for an index.
    :param prefixes: the beginnings of texts that are looked for, if nothing else is; for an index.
    :param text: the condition in words.
    """

    tests: tuple[Test, ...]
    exact: tuple[str | float, ...]
    prefixes: tuple[str, ...]
    text: str

    def __call__(self, value: Any) -> bool:
        return any(test(one) for one in scalars(value) for test in self.tests)


def scalars(value: Any) -> Iterator[Any]:
    """Return *value*, or the items of an array; :data:`MISSING` for what is no value: an object, or an empty array."""
    if isinstance(value, list):
        if not value:
            yield MISSING
        for item in value:
            yield from scalars(item)
    else:
        yield MISSING if isinstance(value, dict) else value


def leaf(condition: Any, path: str) -> Leaf:
    """Return the compiled form of *condition*, a list of values and operators, any of which may hold.

    :param path: the field, for errors.
    :raises ConfigurationError: it is none.
    """
    if not isinstance(condition, (list, tuple)) or not condition:
        _refuse(condition, path, "give a list of values, such as ['running']")
    exact = [one for one in condition if _is_number(one) or isinstance(one, str)]
    prefixes = [one["prefix"] for one in condition if isinstance(one, Mapping) and isinstance(one.get("prefix"), str)]
    return Leaf(
        tuple(_test(one, path) for one in condition),
        tuple(exact) if len(exact) == len(condition) else (),
        tuple(prefixes) if len(prefixes) == len(condition) else (),
        " or ".join(repr(one) if isinstance(one, str) else json.dumps(one) for one in condition),
    )


def _refuse(condition: Any, path: str, advice: str) -> NoReturn:
    raise ConfigurationError(f"bad condition {condition!r} in where= at {path}: {advice}")


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _test(condition: Any, path: str) -> Test:
    if condition is None or isinstance(condition, bool):
        return lambda value: value is condition
    if isinstance(condition, str):
        return lambda value: isinstance(value, str) and value == condition
    if _is_number(condition):
        return lambda value: _is_number(value) and value == condition
    if not isinstance(condition, Mapping) or len(condition) != 1:
        _refuse(condition, path, "give a text, a number, True, False, None, or an operator such as {'prefix': 'a'}")
    ((name, argument),) = condition.items()
    make = _OPERATORS.get(name)
    if make is None:
        _refuse(condition, path, f"the operators are {', '.join(_OPERATORS)}")
    return make(argument, path)


def _text(argument: Any, path: str, name: str) -> str:
    if not isinstance(argument, str) or not argument:
        _refuse(argument, path, f"{name} takes a text that is not empty")
    return argument


def _exists(argument: Any, path: str) -> Test:
    if not isinstance(argument, bool):
        _refuse(argument, path, "exists takes True or False")
    return lambda value: (value is not MISSING) is argument


def _affix(name: str, holds: Callable[[str, str], bool]) -> Callable[[Any, str], Test]:
    """Make ``prefix`` or ``suffix``, which take a text, or ``{"equals-ignore-case": text}``."""

    def make(argument: Any, path: str) -> Test:
        if isinstance(argument, Mapping) and argument.keys() == {"equals-ignore-case"}:
            lower = _text(argument["equals-ignore-case"], path, name).lower()
            return lambda value: isinstance(value, str) and holds(value.lower(), lower)
        wanted = _text(argument, path, name)
        return lambda value: isinstance(value, str) and holds(value, wanted)

    return make


def _equals_ignore_case(argument: Any, path: str) -> Test:
    if not isinstance(argument, str):
        _refuse(argument, path, "equals-ignore-case takes a text")
    lower = argument.lower()
    return lambda value: isinstance(value, str) and value.lower() == lower


def _wildcard(argument: Any, path: str) -> Test:
    """Make ``wildcard``, without a regular expression, whose time a hostile text could multiply."""
    pieces = [""]
    for escaped, star, plain, backslash in _WILDCARD_PARTS.findall(_text(argument, path, "wildcard")):
        if star:
            pieces.append("")
        elif backslash:
            _refuse(argument, path, r"a backslash in a wildcard stands before '*' or another backslash")
        else:
            pieces[-1] += escaped or plain
    if "" in pieces[1:-1]:
        _refuse(argument, path, "a wildcard has no two '*' in a row")
    return lambda value: isinstance(value, str) and _matches(pieces, value)


def _matches(pieces: Sequence[str], text: str) -> bool:
    first, *between = pieces
    if not between:
        return text == first
    last = between.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    place, end = len(first), len(text) - len(last)
    for piece in between:  # the first place of each is as good as any other
        found = text.find(piece, place, end)
        if found < 0:
            return False
        place = found + len(piece)
    return True


def _numeric(argument: Any, path: str) -> Test:
    advice = "numeric takes operators and numbers, such as ['=', 3] or ['>', 0, '<=', 5]"
    if not isinstance(argument, (list, tuple)) or len(argument) not in (2, 4):
        _refuse(argument, path, advice)
    pairs = [(argument[place], argument[place + 1]) for place in range(0, len(argument), 2)]
    if not all(isinstance(name, str) and name in _COMPARE and _is_number(bound) for name, bound in pairs):
        _refuse(argument, path, advice)
    return lambda value: _is_number(value) and all(_COMPARE[name](value, bound) for name, bound in pairs)


def _anything_but(argument: Any, path: str) -> Test:
    if isinstance(argument, Mapping):
        if len(argument) != 1 or not argument.keys() <= {"prefix", "suffix", "equals-ignore-case", "wildcard"}:
            _refuse(argument, path, "anything-but takes values, prefix, suffix, equals-ignore-case or wildcard")
        ((name, inner),) = argument.items()
        refused = [_OPERATORS[name](one, path) for one in (inner if isinstance(inner, list) else [inner])]
    else:
        values = argument if isinstance(argument, list) else [argument]
        if any(isinstance(one, (Mapping, list)) for one in values):
            _refuse(argument, path, "anything-but takes a value or a list of values")
        refused = [_test(one, path) for one in values]
    if not refused:
        _refuse(argument, path, "anything-but takes a value, or several")
    return lambda value: value is not MISSING and not any(test(value) for test in refused)


_OPERATORS: dict[str, Callable[[Any, str], Test]] = {
    "anything-but": _anything_but,
    "equals-ignore-case": _equals_ignore_case,
    "exists": _exists,
    "numeric": _numeric,
    "prefix": _affix("prefix", str.startswith),
    "suffix": _affix("suffix", str.endswith),
    "wildcard": _wildcard,
}
