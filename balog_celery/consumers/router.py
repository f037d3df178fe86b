"""Which consumers want an event, found by index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ..events.conditions import parse_version
from ..events.patterns import values_at, view_of
from ..events.records import FacilityRecord
from .consumer import Consumer

#: How many pairs of cls_type and schema a router remembers: more than a system has, unless a sender makes them up.
_MEMORY = 4096
#: The attributes of a message that has none.
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


class Router:
    """Which of some consumers want an event.

    Events of a few kinds come again and again, so each (cls_type, schema) is worked out once and remembered. Patterns,
    which need the event's content, are checked after that.
    """

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self._by_type: dict[str, list[tuple[int, Consumer]]] = {}
        self._by_prefix: dict[str, list[tuple[int, Consumer]]] = {}
        for place, consumer in enumerate(consumers):
            for cls_type in consumer.cls_types or ("*",):
                index = self._by_prefix if cls_type.endswith("*") else self._by_type
                index.setdefault(cls_type.removesuffix("*"), []).append((place, consumer))
        self._lengths = {len(prefix) for prefix in self._by_prefix}
        self._selections: dict[tuple[Consumer, ...], _Selection] = {}
        # The least recently seen kinds are forgotten first.
        self._find = lru_cache(_MEMORY)(self._work_out)

    def route(self, event: FacilityRecord, attributes: Mapping[str, Any] = NO_ATTRIBUTES) -> tuple[Consumer, ...]:
        """Return the consumers that want *event*, in their order.

        :param attributes: the message's.
        """
        consumers, selection = self._find(event.payload.cls_type, event.schema_version)
        return consumers if selection is None else selection.select(event, attributes)

    def _work_out(self, cls_type: str, schema: str) -> tuple[tuple[Consumer, ...], _Selection | None]:
        candidates = dict(self._by_type.get(cls_type, ()))
        for length in self._lengths:
            candidates.update(self._by_prefix.get(cls_type[:length], ()))
        version = parse_version(schema)
        # Many consumers have the same condition.
        conditions = {consumer.condition for consumer in candidates.values()} - {None}
        holds = {condition: version is not None and condition(version) for condition in conditions if condition}
        found = tuple(
            consumer
            for _, consumer in sorted(candidates.items())
            if consumer.condition is None or holds[consumer.condition]
        )
        if all(consumer.pattern is None for consumer in found):
            return found, None
        if found not in self._selections:
            self._selections[found] = _Selection(found)
        return found, self._selections[found]


class _Selection:
    """Which of *consumers*, some of which have a pattern, want the content of an event.

    One field of each pattern is indexed, by the values or prefixes that it accepts; a pattern without such a field is
    tried with every event.
    """

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._roots = {root for one in consumers if one.pattern is not None for root in one.pattern.roots}
        self._always: list[int] = []
        self._exact: dict[tuple[str, ...], dict[Any, list[int]]] = {}
        self._prefixes: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for place, consumer in enumerate(consumers):
            self._add(place, consumer)
        self._lengths = {path: {len(prefix) for prefix in index} for path, index in self._prefixes.items()}

    def _add(self, place: int, consumer: Consumer) -> None:
        leaves = [] if consumer.pattern is None else list(consumer.pattern.leaves())
        for path, leaf in leaves:
            if leaf.exact:
                for value in leaf.exact:
                    self._exact.setdefault(path, {}).setdefault(value, []).append(place)
                return
        for path, leaf in leaves:
            if leaf.prefixes:
                for prefix in leaf.prefixes:
                    self._prefixes.setdefault(path, {}).setdefault(prefix, []).append(place)
                return
        self._always.append(place)

    def select(self, event: FacilityRecord, attributes: Mapping[str, Any]) -> tuple[Consumer, ...]:
        view = view_of(event, attributes, self._roots)
        places = set(self._always)
        for path, index in self._exact.items():
            for value in values_at(view, path):
                places.update(index.get(value, ()))
        for path, prefixes in self._prefixes.items():
            for value in values_at(view, path):
                if isinstance(value, str):
                    for length in self._lengths[path]:
                        places.update(prefixes.get(value[:length], ()))
        found = (self._consumers[place] for place in sorted(places))
        return tuple(one for one in found if one.pattern is None or one.pattern(view))
