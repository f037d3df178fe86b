"""Topics and consumers that a user has paused: a file, which a worker writes and the engine beside it reads.

A file reaches engines that have no channel to their worker as well, and a worker's next engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..consumers.consumer import Consumer
from .outage import Outage

#: The reason of a paused topic in its status.
REASON = "by `celery control balog_pause`, until `balog_resume`"


class Paused(NamedTuple):
    """What is paused.

    :param topics: topics, as they are resolved.
    :param consumers: consumers, by the names of their tasks.
    """

    topics: frozenset[str] = frozenset()
    consumers: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Paused:
        """Read what *path* holds.

        :raises OSError: it cannot be read.
        :raises ValueError: it holds something else.
        """
        document = json.loads(path.read_text())
        if not isinstance(document, dict):
            raise ValueError(f"{path} is not a file of pauses")
        return cls(frozenset(document.get("topics", ())), frozenset(document.get("consumers", ())))

    def write(self, path: Path) -> None:
        """Write it to *path*, all or nothing.

        :raises OSError: it cannot be written.
        """
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"topics": sorted(self.topics), "consumers": sorted(self.consumers)}))
        part.replace(path)


class Pauses:
    """What is paused now, as an engine sees it. Its main thread updates it, other threads read it.

    :param path: the worker's file; None: there is no worker, and nothing is paused.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._outage = Outage("reading which topics and consumers are paused")
        #: Replaced as a whole at each change.
        self.now = Paused()
        self.update()

    def update(self) -> None:
        """Read the file again. If that fails, all remains as it is: what is paused must not go on by accident."""
        if self._path is None:
            return
        try:
            found = Paused.read(self._path)
        except (OSError, ValueError) as error:
            self._outage.failed(error)
            return
        self._outage.succeeded()
        if found != self.now:
            self.now = found

    def holds(self, topic: str, consumers: Iterable[Consumer]) -> bool:
        """Return whether an event of *topic* for *consumers* has to wait."""
        now = self.now
        return topic in now.topics or any(one.task_name in now.consumers for one in consumers)

    def of(self, topic: str, consumers: Sequence[Consumer]) -> list[str]:
        """Return what is paused of a topic: the topic, or the names of its paused consumers."""
        now = self.now
        return (
            [topic] if topic in now.topics else [one.task_name for one in consumers if one.task_name in now.consumers]
        )
