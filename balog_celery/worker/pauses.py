"""Pausing topics and consumers at run time, by ``celery control balog_pause`` and ``balog_resume``."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker.control import control_command

from ..consumers.consumer import Consumer
from ..dev.locks import open_lock, try_lock
from ..engine.pauses import Paused
from ..errors import BalogError, ConfigurationError
from ..signals import consumer_paused
from ..sqs.addresses import queue_name
from ..text import printable
from ..wiring.loading import topic_names

logger = logging.getLogger(__name__)


class WorkerPauses:
    """What is paused in one worker. Its engine reads it from a file.

    :param app: the Celery app; its consumers are loaded.
    :param node: the worker's node name.
    """

    def __init__(self, app: Celery, node: str) -> None:
        self._topics: dict[str, list[Consumer]] = app.balog.topics()
        #: The file; None: there is no folder for it, so nothing can be paused.
        self.path: Path | None = None
        self.now = Paused()
        self._problem = ""
        #: The lock of the file that is remembered; None: the file is of this process alone.
        self._lock: int | None = None
        remembers = app.balog.settings.remember_pauses
        try:
            files = app.balog.pause_files
        except ConfigurationError as error:
            if remembers:
                raise
            self._problem = str(error)
            return
        self.path = files.own()
        if remembers:
            remembered = files.remembered(node)
            self.now = self._remembered(remembered)
            if self._owns(remembered, node):
                self.path = remembered
        if any(self.now):
            logger.warning("paused, as before the restart: %s", ", ".join(self.names))

    @property
    def names(self) -> list[str]:
        """What is paused, by name."""
        return sorted(map(printable, self.now.topics | self.now.consumers))

    @property
    def known(self) -> list[str]:
        """All topics and consumers."""
        return sorted({*self._topics, *(one.task_name for listed in self._topics.values() for one in listed)})

    def save(self) -> None:
        """Write the file: before each start of an engine, as it may have been deleted."""
        try:
            if self.path is not None:
                self.now.write(self.path)
        except OSError as error:
            logger.error("%s cannot be written, so the engine may not know what is paused: %s", self.path, error)

    def forget(self) -> None:
        """Delete the file of a worker that stops, unless its next start needs it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        elif self.path is not None:
            with contextlib.suppress(OSError):  # it is of no use, and does no harm
                self.path.unlink()

    def pause(self, names: Sequence[str]) -> list[str]:
        """Pause topics and consumers; return what was not paused before.

        :raises ConfigurationError: a name means nothing, or several things. Nothing is paused then.
        :raises OSError: the file cannot be written. Nothing is paused then.
        """
        before, meant = self.now, self._meant(names)
        self._become(Paused(before.topics | meant.topics, before.consumers | meant.consumers))
        for topic, consumers in self._topics.items():
            for consumer in consumers:
                was, now = (self._is_paused(paused, topic, consumer) for paused in (before, self.now))
                if now and not was:
                    consumer_paused.send(queue_name(topic), consumer=consumer.task_name)
        return sorted((meant.topics - before.topics) | (meant.consumers - before.consumers))

    def resume(self, names: Sequence[str]) -> list[str]:
        """Resume topics and consumers, or all if there are no *names*; return what was paused before.

        :raises ConfigurationError: a name means nothing, or several things. Nothing is resumed then.
        :raises OSError: the file cannot be written. Nothing is resumed then.
        """
        before, meant = self.now, self._meant(names) if names else self.now
        self._become(Paused(before.topics - meant.topics, before.consumers - meant.consumers))
        return sorted((meant.topics & before.topics) | (meant.consumers & before.consumers))

    def _become(self, paused: Paused) -> None:
        if self.path is None:
            raise ConfigurationError(self._problem)
        paused.write(self.path)
        self.now = paused

    @staticmethod
    def _is_paused(paused: Paused, topic: str, consumer: Consumer) -> bool:
        return topic in paused.topics or consumer.task_name in paused.consumers

    def _owns(self, path: Path, node: str) -> bool:
        """Take the remembered file for this process; return False, and log why, if that fails.

        A second worker that wrote it would end what the first has paused.
        """
        try:
            self._lock = open_lock(path.with_suffix(".lock"))
            if try_lock(self._lock):
                return True
            os.close(self._lock)
            why = f"another worker named {printable(node)} runs on this machine (give each a name of its own with -n)"
        except OSError as error:
            why = str(error)
        self._lock = None
        logger.error("this worker will not remember what is paused in it, despite balog_remember_pauses: %s", why)
        return False

    def _remembered(self, path: Path) -> Paused:
        try:
            found = Paused.read(path)
        except FileNotFoundError:
            return Paused()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"balog_remember_pauses: {path} cannot be read ({error}), so what was paused is unknown: "
                "fix or delete it"
            ) from error
        tasks = {one.task_name for consumers in self._topics.values() for one in consumers}
        if gone := sorted((found.topics - self._topics.keys()) | (found.consumers - tasks)):
            logger.warning("paused before the restart, but they no longer exist: %s", ", ".join(map(printable, gone)))
        return Paused(found.topics & self._topics.keys(), found.consumers & tasks)

    def _meant(self, names: Iterable[str]) -> Paused:
        """Return the topics and consumers that *names* mean: topics by any of their names, consumers by task or name.

        :raises ConfigurationError: a name means nothing, or several things.
        """
        topics: set[str] = set()
        consumers: set[str] = set()
        everything = [one for listed in self._topics.values() for one in listed]
        for name in names:
            same = {topic for topic in self._topics if name in (topic, queue_name(topic), *self._written(topic))}
            tasks = {one.task_name for one in everything if name in (one.task_name, one.name)}
            if len(same) + len(tasks) != 1:
                raise ConfigurationError(self._unclear(name, sorted(same | tasks)))
            topics |= same
            consumers |= tasks
        return Paused(frozenset(topics), frozenset(consumers))

    def _written(self, topic: str) -> list[str]:
        return [name for name in topic_names({topic: self._topics[topic]}, topic) if name != topic]

    def _unclear(self, name: str, meant: list[str]) -> str:
        if meant:
            return f"{printable(name)!r} may be any of {', '.join(map(printable, meant))}: give one of these"
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(map(printable, self.known))
        return f"there is no topic and no consumer {printable(name)!r}: {hint}topics and consumers are {known}"


@control_command(variadic="names", signature="<topic or consumer> ...")  # type: ignore[untyped-decorator]
def balog_pause(state: Any, names: Sequence[str], **_: Any) -> dict[str, str]:
    """Receive nothing of a topic, or hold the events of a consumer."""
    return _change(state, list(names), "pause")


@control_command(variadic="names", signature="[topic or consumer] ...")  # type: ignore[untyped-decorator]
def balog_resume(state: Any, names: Sequence[str] = (), **_: Any) -> dict[str, str]:
    """Undo balog_pause, of everything if nothing is named."""
    return _change(state, list(names), "resume")


def _change(state: Any, names: list[str], verb: str) -> dict[str, str]:
    pauses: WorkerPauses | None = getattr(state.consumer.controller, "balog_pauses", None)
    if pauses is None:
        return {"error": "this worker runs no engine, so there is nothing to pause"}
    if verb == "pause" and not names:
        return {"error": f"name what to pause, of {', '.join(map(printable, pauses.known))}"}
    try:
        changed = pauses.pause(names) if verb == "pause" else pauses.resume(names)
    except (BalogError, OSError) as error:
        return {"error": str(error)}
    if changed:
        logger.warning("%sd by remote control: %s", verb, ", ".join(map(printable, changed)))
    paused = ", ".join(pauses.names) or "nothing"
    return {"ok": f"{verb}d {', '.join(map(printable, changed)) or 'nothing more'}; paused: {paused}"}
