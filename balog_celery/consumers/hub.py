"""The hub: finds consumers and keeps them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import venusian

from ..arguments import shown
from ..errors import ConfigurationError
from ..events.records import FacilityRecord
from ..signatures import why_not
from .consumer import Consumer
from .declaration import CATEGORY, declared, declared_tasks
from .router import NO_ATTRIBUTES, Router

logger = logging.getLogger(__name__)


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
        if not isinstance(leave_out, Iterable):
            raise ConfigurationError(f"bad ignore{shown(ignore)}: give dotted names and functions of one")
        for one in leave_out:
            if not isinstance(one, str) and not callable(one):
                raise ConfigurationError(f"bad ignore{shown(one)}: give a dotted name, or a function of one")
            if callable(one) and (wrong := why_not(one, "name")):
                raise ConfigurationError(f"bad ignore{shown(one)}: {wrong}")
        # The last is asked about every name that the others did not leave out; it notes it, and leaves out nothing.
        scanner.scan(package, categories=[CATEGORY], ignore=[*leave_out, names.add])
        for key, consumer in scanner.found:
            if key not in self._keys:
                self.add_consumer(consumer(), key=key)
        modules = {name.rpartition(".")[0] for name in names}
        for place, (names_of_module, make) in list(declared_tasks.items()):
            is_current = names_of_module is getattr(sys.modules.get(place[0]), "__dict__", None)
            if is_current and place[0] in modules and place not in self._keys:
                self.add_consumer(make(), key=place)
        found = {key for key, _ in scanner.found}
        for (name, line), key in declared.items():
            if name in names and key not in found:
                logger.warning(
                    "the scan did not find the consumer in %s that is declared in line %d, so it gets no events: put "
                    "consumer_config above all other decorators, on a function or method that can be imported by name",
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

    def route(self, event: FacilityRecord, attributes: Mapping[str, Any] = NO_ATTRIBUTES) -> tuple[Consumer, ...]:
        """Return the consumers that want *event*, of all topics, in the order in which they were added.

        :param attributes: the message's.
        """
        if self._router is None:
            self._router = Router(self)
        return self._router.route(event, attributes)

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
