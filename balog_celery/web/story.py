"""Finds the tasks of one event: in workers, and in the result backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from celery import Celery
from celery.backends.base import DisabledBackend

from ..events.serialization import MAX_NAME
from ..tasks.naming import task_id
from ..text import printable
from .questions import ask

#: How long workers may take to answer, in seconds.
_TIMEOUT = 1.5


class TaskReport(NamedTuple):
    """A task of an event.

    :param consumer: its name.
    :param task_id: its id.
    :param state: ``active``, ``reserved``, ``scheduled``, or the state in the result backend.
    :param where: the worker, or "result backend".
    :param more: its traceback, or when it runs again.
    """

    consumer: str
    task_id: str
    state: str
    where: str
    more: str = ""


def tasks_of(app: Celery, event_id: str) -> list[TaskReport]:
    """Return the tasks of an event that workers have, and those of which the result backend knows.

    :raises BalogError: the broker or the backend does not answer.
    """
    return ask(lambda: _ask(app, event_id))


def _ask(app: Celery, event_id: str) -> list[TaskReport]:
    ids = {task_id(event_id, consumer.task_name): consumer.task_name for consumer in app.balog.hub}
    return [*_in_workers(app, event_id, ids), *_in_backend(app, ids)]


def _in_workers(app: Celery, event_id: str, ids: Mapping[str, str]) -> Iterator[TaskReport]:
    inspect = app.control.inspect(timeout=_TIMEOUT)
    for state in ("active", "reserved", "scheduled"):
        for worker, tasks in (getattr(inspect, state)() or {}).items():
            for entry in tasks:
                task = entry.get("request", entry)
                # The task of a batch is named after all of its events.
                names_it = f" {event_id} " in str(task.get("args"))
                if task["id"] in ids or names_it or f"first={event_id}>" in str(task.get("args")):
                    eta = f"runs again at {entry['eta']}" if entry.get("eta") else ""
                    yield TaskReport(task["name"], task["id"], state, worker, eta)


def _in_backend(app: Celery, ids: Mapping[str, str]) -> Iterator[TaskReport]:
    if isinstance(app.backend, DisabledBackend):
        return
    for found, consumer in ids.items():
        result = app.AsyncResult(found)
        if (state := result.state) != "PENDING":  # which means that it is not known
            yield TaskReport(consumer, found, state, "result backend", str(result.traceback or ""))


def flower_address(flower: str | None, found: str) -> str | None:
    """Return the address of a task's page in Flower."""
    return f"{flower.rstrip('/')}/task/{found}" if flower else None


def shown_id(given: str) -> str:
    """Return an event's id as a user typed it, without what surrounds it when it is copied from a log."""
    return printable(given.strip().strip("<>(),"), MAX_NAME)
