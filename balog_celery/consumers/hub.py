"""The hub: every consumer that was found, and which of them want an event."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import venusian

from ..errors import ConfigurationError
from ..records import FacilityRecord
from .consumer import CATEGORY, Consumer, declared
from .predicates import parse_version

logger = logging.getLogger(__name__)

#: How many (cls_type, version) pairs a router remembers; more than a system has, unless somebody makes them up.
_MEMORY = 4096


class ConsumerHub:
    """A collection of consumers.

    Iterating over it gives them in the order in which they were added.
    """

    def __init__(self) -> None:
        self._consumers: list[Consumer] = []
        self._keys: set[object] = set()
        self._names: set[str] = set()
        self._router: Router | None = None

    def scan(self, package: ModuleType, ignore: str | Callable[[str], bool] | Sequence[Any] | None = None) -> None:
        """Import *package* and all its modules, and add every consumer that is declared in them.

        Scanning again adds only what is new.

        :param package: a package or a module.
        :param ignore: what to leave out, as Venusian reads it: a dotted name, a name relative to the package
            (``".tests"``), a callable that is given a dotted name, or several of these.
        :raises ConfigurationError: *package* is no module, or two consumers were given the same name.
        :raises ImportError: a module cannot be imported.
        """
        if not isinstance(package, ModuleType):
            raise ConfigurationError(f"scan takes a package or a module, not {package!r}")
        scanner = venusian.Scanner(found=[])
        names: set[str] = set()
        leave_out = [] if ignore is None else [ignore] if isinstance(ignore, str) or callable(ignore) else ignore
        # The last is asked about every name that the others did not leave out; it notes it, and leaves out nothing.
        scanner.scan(package, categories=[CATEGORY], ignore=[*leave_out, names.add])
        for key, consumer in scanner.found:
            if key not in self._keys:
                self.add_consumer(consumer(), key=key)
        found = {key for key, _ in scanner.found}
        for (name, line), key in declared.items():
            if name in names and key not in found:
                logger.warning(
                    "the scan did not find the consumer in %s that is declared in line %d, so it gets no events: put "
                    "consumer_config above any other decorator, and on what the module or a class of it holds by name",
                    name,
                    line,
                )

    def add_consumer(self, consumer: Consumer, *, key: object = None) -> None:
        """Add one consumer; adding it again changes nothing.

        :param key: what makes it the same as one that was added before; default: the object itself.
        :raises ConfigurationError: it was given a name that another consumer of its module has.
        """
        if consumer in self._keys:
            return
        if consumer.task_name in self._names:
            if consumer.named:
                raise ConfigurationError(
                    f"two consumers are named {consumer.task_name!r}: give one of them another name="
                )
            consumer.task_name = self._free_name(consumer.task_name)
        self._names.add(consumer.task_name)
        self._keys |= {consumer} if key is None else {consumer, key}
        self._consumers.append(consumer)
        self._router = None

    def route(self, event: FacilityRecord) -> tuple[Consumer, ...]:
        """The consumers that want *event*, whatever their topic, in the order in which they were added."""
        if self._router is None:
            self._router = Router(self)
        return self._router.route(event)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(tuple(self._consumers))

    def __len__(self) -> int:
        return len(self._consumers)

    def _free_name(self, name: str) -> str:
        # Stacked decorators: one function, several consumers. Their order in the source counts, innermost first.
        number = 2
        while f"{name}#{number}" in self._names:
            number += 1
        return f"{name}#{number}"


class Router:
    """Which of some consumers want an event, found by index.

    Events of a few kinds come again and again, so each (cls_type, schema) is worked out once and remembered.
    """

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self._by_type: dict[str, list[tuple[int, Consumer]]] = {}
        self._by_prefix: dict[str, list[tuple[int, Consumer]]] = {}
        for place, consumer in enumerate(consumers):
            for cls_type in consumer.cls_types or ("*",):
                index = self._by_prefix if cls_type.endswith("*") else self._by_type
                index.setdefault(cls_type.removesuffix("*"), []).append((place, consumer))
        self._lengths = {len(prefix) for prefix in self._by_prefix}
        # The least recently seen kinds are forgotten first.
        self._find = lru_cache(_MEMORY)(self._work_out)

    def route(self, event: FacilityRecord) -> tuple[Consumer, ...]:
        """The consumers that want *event*, in their order."""
        return self._find(event.payload.cls_type, event.schema_version)

    def _work_out(self, cls_type: str, schema: str) -> tuple[Consumer, ...]:
        candidates = dict(self._by_type.get(cls_type, ()))
        for length in self._lengths:
            candidates.update(self._by_prefix.get(cls_type[:length], ()))
        version = parse_version(schema)
        # Many consumers have the same condition.
        conditions = {consumer.condition for consumer in candidates.values()} - {None}
        holds = {condition: version is not None and condition(version) for condition in conditions if condition}
        return tuple(
            consumer
            for _, consumer in sorted(candidates.items())
            if consumer.condition is None or holds[consumer.condition]
        )
