"""Topics and consumers that a user has paused: a file, which a worker writes and the engine beside it reads.

A file reaches engines that have no channel to their worker as well, and a worker's next engine.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..consumers.consumer import Consumer
from .outage import Outage
from .status import this_process

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


class PauseFiles(NamedTuple):
    """The files of an app's workers.

    :param folder: where they are.
    :param identity: what distinguishes the app from others.
    """

    folder: Path
    identity: str

    def own(self) -> Path:
        """Return a file for this process alone, and delete those of workers that were killed."""
        this = this_process()
        pid = this.pop("pid")
        machine = f"pauses-{_digest(str(this))}-"
        for path in self.folder.glob(f"{machine}*.json"):
            if not _runs(int(path.stem.split("-")[2])):
                with contextlib.suppress(OSError):
                    path.unlink()
        return self.folder / f"{machine}{pid}-{secrets.token_hex(4)}.json"

    def remembered(self, node: str) -> Path:
        """Return the file of all workers with the name *node*, one after the other."""
        return self.folder / f"{self._prefix}{_file_part(node)}.json"

    def all_remembered(self) -> dict[str, Path]:
        """Return the files that there are of workers, by the node name."""
        found = sorted(self.folder.glob(f"{glob.escape(self._prefix)}*.json"))
        return {path.stem.removeprefix(self._prefix): path for path in found}

    @property
    def _prefix(self) -> str:
        return f"paused-{_file_part(self.identity)}+"


def _file_part(name: str) -> str:
    """Return *name* for a part of a file's name: with a digest in place of what that cannot hold."""
    if re.fullmatch(r"[A-Za-z0-9_.@-]{1,100}", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_.@-]', '_', name[:80])}~{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
