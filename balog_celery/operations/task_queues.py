"""The broker's queues to which the tasks of consumers go."""

from __future__ import annotations

from celery import Celery

from ..celery_compat.tasks import route_of


def task_queue(app: Celery, task_name: str) -> str:
    """Return the name of the broker's queue to which Celery routes that task."""
    name: str = route_of(app, app.tasks[task_name])["queue"].name
    return name
