"""Tries the features of Celery in one column of the compatibility table."""

from __future__ import annotations

from contextlib import ExitStack

from compatibility_checks import EVENTS, TASKS, run
from compatibility_control import CONTROL, END
from compatibility_lab import Place, laboratory
from compatibility_second import SECOND

FIRST = ["-P", "prefork", "-c", "2", "--max-tasks-per-child=40", "-O", "fair", "-B"]
SECOND_OPTIONS = ["-P", "prefork", "--autoscale=3,1"]


def cells_of(place: Place) -> dict[str, str]:
    """Return what the workers of a column show, by feature."""
    cells: dict[str, str] = {}
    with ExitStack() as stack:
        database = f"db+sqlite:///{place.folder / 'results.sqlite'}"
        second_place = Place(place.folder, place.sqs, place.broker_url, database, place.dispatch)
        # {} is the worker's topic.
        first = stack.enter_context(laboratory(place, "first", *FIRST, "-X", "{}-excluded"))
        second = stack.enter_context(laboratory(second_place, "second", *SECOND_OPTIONS, "-Q", "{0}-tasks,{0}-served"))
        with first.listening():
            first.send(*EVENTS)
            first.send_as("hooked-0", "hooked")
            first.send_as("hooked-1", "hooked", fails=True)
            first.program.wait_for(" ready.")
            cells |= run(TASKS, first)
            cells |= run(CONTROL, first)
            cells |= run(END, first)
        with second.listening():
            cells |= run(SECOND, second)
    return cells
