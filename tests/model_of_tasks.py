"""A model of a task that was handed to a worker: who has it, through every order of events.

The worker may lose its broker, and then Celery forgets the tasks that no child executes, and its timer. It may stop,
and the engine may go. A task must always be with someone who acts: Celery, a timer, or a worker that schedules what is
parked as soon as it has a broker again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Task(NamedTuple):
    """A task, and whether its worker has a broker."""

    #: Who has it: Celery, the timer, the worker itself, or none any more.
    place: str = "Celery"
    #: Whether it waits for its rate limit there.
    limited: bool = False
    #: Whether a child executes it.
    runs: bool = False
    #: Whether it has asked for a retry.
    failed: bool = False
    broker: bool = True

    @property
    def state(self) -> str:
        """Return the name of its state in the code."""
        if self.place == "Celery":
            return "RETRYING" if self.failed else "RATE_LIMITED" if self.limited else "GIVEN"
        return {"timer": "SCHEDULED", "worker": "PARKED", "none": "ENDED"}[self.place]


def steps(task: Task) -> Iterator[Task]:
    """Yield what may become of *task* next."""
    ended = task._replace(place="none", runs=False, limited=False)
    if task.place == "none":
        return
    if not task.broker:
        yield task._replace(broker=True)
    else:
        yield from _with_broker(task)
    if task.runs:
        # It succeeds, fails permanently, is rejected, or its child dies; or it asks for a retry.
        yield ended
        yield task._replace(place="worker", runs=False, limited=False, failed=True)
    else:
        yield ended  # revoked, or given back because the worker stops


def _with_broker(task: Task) -> Iterator[Task]:
    if task.runs:
        yield task._replace(broker=False)
    elif task.failed:
        yield task._replace(place="worker", broker=False)
    else:
        yield task._replace(place="none", limited=False, broker=False)  # given back to the engine
    if task.place == "worker":
        yield task._replace(place="timer")
    elif task.place == "timer":
        yield task._replace(place="Celery")
    elif not task.runs:
        yield task._replace(runs=True)
        if not (task.failed or task.limited):
            yield task._replace(limited=True)


def moves() -> set[tuple[str, str]]:
    """Return every change of state in all that can become of a task.

    :raises AssertionError: there is a task from which no end can be reached.
    """
    todo, seen = [Task()], {Task()}
    found: set[tuple[str, str]] = set()
    before: dict[Task, set[Task]] = {}
    while todo:
        task = todo.pop()
        for after in steps(task):
            before.setdefault(after, set()).add(task)
            if after.state != task.state:
                found.add((task.state, after.state))
            if after not in seen:
                seen.add(after)
                todo.append(after)
    ending = {task for task in seen if task.place == "none"}
    todo = list(ending)
    while todo:
        for task in before.get(todo.pop(), set()) - ending:
            ending.add(task)
            todo.append(task)
    assert ending == seen, f"these never end: {seen - ending}"
    return found
