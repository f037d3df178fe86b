"""Patterns that select events by their content, with the syntax and semantics of Amazon EventBridge's event patterns.

    {"payload.detail.state": ["running", "stopped"], "attributes.tenant": [{"prefix": "a"}]}

All fields must match, each by one of its values or operators. An array matches if one of its items does; several fields
inside objects of an array must match in the same object. A field that is missing matches ``{"exists": False}`` alone.
Differences: a key at the top may be a path, with dots between keys, and numbers of any size are compared by value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..text import printable
from .message import sns_attributes
from .operators import MISSING, UNKNOWN, Leaf, leaf
from .payloads import Payload, payload_dict
from .records import FacilityRecord

#: What the first key of a path may be.
ROOTS = ("payload", "header", "schema", "attributes")


class Node(NamedTuple):
    """What an object must hold: *fields*, and of each of *choices* one."""

    fields: Mapping[str, Node | Leaf]
    choices: tuple[tuple[Node, ...], ...]

    def __call__(self, value: Any) -> bool:
        if value is UNKNOWN:
            return True
        if isinstance(value, list) and value:
            return any(self(item) for item in value)
        place = value if isinstance(value, dict) else {}
        return all(part(place.get(key, MISSING)) for key, part in self.fields.items()) and all(
            any(node(place) for node in nodes) for nodes in self.choices
        )


class Pattern:
    """A pattern, compiled.

    :param pattern: conditions by paths, whose first keys are :data:`ROOTS`; or nested, as EventBridge has it.
    :raises ConfigurationError: it is none.
    """

    def __init__(self, pattern: Mapping[str, Any]) -> None:
        if not isinstance(pattern, Mapping) or not pattern:
            raise ConfigurationError(f"bad where={pattern!r}: give conditions by paths, such as 'payload.detail.state'")
        self._given = pattern
        self._root = _node(_nested(pattern), ())
        roots = {path[0] for path in _paths(self._root, ())}
        if unknown := roots.difference(ROOTS):
            raise ConfigurationError(
                f"bad where={pattern!r}: {sorted(unknown)[0]!r} is none of {', '.join(ROOTS)}, with which a path begins"
            )
        #: The first keys of its paths.
        self.roots = frozenset(roots)

    def __call__(self, document: Mapping[str, Any]) -> bool:
        """Return whether *document*, a view of an event, matches."""
        return self._root(document)

    def __repr__(self) -> str:
        return f"Pattern({self._given!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._given == other._given

    def __hash__(self) -> int:
        return hash(repr(self._given))

    @property
    def text(self) -> str:
        """The pattern as it was given, in JSON."""
        return json.dumps(self._given)

    def leaves(self) -> Iterator[tuple[tuple[str, ...], Leaf]]:
        """Return each field that must match, by its path; not those inside of a ``$or``."""
        return _leaves(self._root, ())

    def failing(self, document: Mapping[str, Any]) -> list[str]:
        """Return why *document* does not match, one text for each field; none if it matches."""
        found = [
            f"{'.'.join(path)} is {_shown(value)}, not {leaf.text}"
            for path, leaf in self.leaves()
            if document.get(path[0]) is not UNKNOWN and not leaf(value := _value_at(document, path))
        ]
        if not found and not self(document):
            found.append("no choice of $or matches, or no one item of an array matches all of its conditions")
        return found


def view_of(
    record: FacilityRecord, attributes: Mapping[str, Any] | None, roots: Collection[str] = ROOTS
) -> dict[str, Any]:
    """Return *record* as patterns see it, with the message's *attributes* and those of SNS's envelope.

    :param attributes: None if they are not known, and then no condition on them refuses the event.
    :param roots: which of :data:`ROOTS` to include.
    """
    view: dict[str, Any] = {}
    header, payload = record.header, record.payload
    if "payload" in roots:
        is_plain = type(payload) is Payload
        view["payload"] = (
            {"cls_type": payload.cls_type, **(payload.__pydantic_extra__ or {})} if is_plain else payload_dict(payload)
        )
    if "header" in roots:
        context = header.context.model_dump(exclude_none=True)
        own = {"id": header.id, "channel": header.channel, "timestamp": header.timestamp.isoformat()}
        view["header"] = {**(header.__pydantic_extra__ or {}), **own, "context": context}
    if "schema" in roots:
        view["schema"] = record.schema_version
    if "attributes" in roots:
        view["attributes"] = UNKNOWN if attributes is None else {**_sns_attributes(record), **attributes}
    return view


def _sns_attributes(record: FacilityRecord) -> dict[str, Any]:
    sns = (record.header.context.__pydantic_extra__ or {}).get("sns")
    given = sns.get("MessageAttributes") if isinstance(sns, dict) else None
    return sns_attributes(given) if isinstance(given, dict) else {}


def values_at(document: Any, path: Sequence[str]) -> Iterator[Any]:
    """Return the texts and numbers at *path*, those in arrays included."""
    if isinstance(document, list):
        for item in document:
            yield from values_at(item, path)
    elif not path:
        if isinstance(document, (str, int, float)):
            yield document
    elif isinstance(document, dict) and path[0] in document:
        yield from values_at(document[path[0]], path[1:])


def _value_at(document: Any, path: Sequence[str]) -> Any:
    """Return the value at *path*; for arrays, the values of all items."""
    for place, key in enumerate(path):
        if isinstance(document, list):
            return [*values_at(document, path[place:])]
        document = document.get(key, MISSING) if isinstance(document, Mapping) else MISSING
    return document


def _shown(value: Any) -> str:
    if value is MISSING:
        return "missing"
    return "an object" if isinstance(value, dict) else printable(repr(value), 100)


def _leaves(node: Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    for key, part in node.fields.items():
        if isinstance(part, Leaf):
            yield (*path, key), part
        else:
            yield from _leaves(part, (*path, key))


def _paths(node: Node, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields, including those in ``$or``."""
    for key, part in node.fields.items():
        if isinstance(part, Leaf):
            yield (*path, key)
        else:
            yield from _paths(part, (*path, key))
    for nodes in node.choices:
        for choice in nodes:
            yield from _paths(choice, path)


def _nested(pattern: Mapping[str, Any]) -> dict[str, Any]:
    """Return *pattern* with its paths as nested objects."""
    found: dict[str, Any] = {}
    for path, condition in pattern.items():
        if path == "$or" and isinstance(condition, list):
            found["$or"] = [_nested(one) if isinstance(one, Mapping) else one for one in condition]
            continue
        if not isinstance(path, str) or not all(keys := path.split(".")):
            raise ConfigurationError(f"bad path {path!r} in where=: give keys with dots between them")
        place = found
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigurationError(f"bad path {path!r} in where=: another condition is about {key!r} itself")
        _merge(place, keys[-1], condition, path)
    return found


def _merge(place: dict[str, Any], key: str, condition: Any, path: str) -> None:
    if isinstance(condition, Mapping):
        inner = place.setdefault(key, {})
        if isinstance(inner, dict):
            for name, one in condition.items():
                _merge(inner, name, one, path)
            return
    elif key not in place:
        place[key] = condition
        return
    raise ConfigurationError(f"bad path {path!r} in where=: there are two conditions for {key!r}")


def _node(pattern: Mapping[str, Any], path: tuple[str, ...]) -> Node:
    fields: dict[str, Node | Leaf] = {}
    choices: list[tuple[Node, ...]] = []
    for key, condition in pattern.items():
        if key == "$or":
            if (
                not isinstance(condition, list)
                or not condition
                or not all(isinstance(one, Mapping) for one in condition)
            ):
                raise ConfigurationError(f"bad $or in where=: {condition!r} is no list of patterns")
            choices.append(tuple(_node(one, path) for one in condition))
        elif isinstance(condition, Mapping):
            if not condition:
                raise ConfigurationError(f"bad where= at {'.'.join((*path, key))}: it is empty")
            fields[key] = _node(condition, (*path, key))
        else:
            fields[key] = leaf(condition, ".".join((*path, key)))
    return Node(fields, tuple(choices))
