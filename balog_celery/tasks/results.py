"""The result backend of consumers' tasks: a failure to store a result does not affect the event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.exceptions import EncodeError

from ..text import brief

logger = logging.getLogger(__name__)

#: The methods with which Celery records a task's state; the task's id is their first argument.
_RECORDING = frozenset(
    {"store_result", "mark_as_started", "mark_as_done", "mark_as_failure", "mark_as_retry", "mark_as_revoked"}
)


class TolerantBackend:
    """A result backend that logs its failures to store a result instead of raising them.

    Celery stores results between the steps that settle a task. An exception there would skip the next steps: a retry
    would not be published, or a finished task would count as failed.

    A result that cannot be serialised is an error of the task, as for any other task.

    :param backend: the backend of the app.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return _tolerant(found) if name in _RECORDING else found


def _tolerant(record: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(task_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return record(task_id, *args, **kwargs)
        except (EncodeError, MemoryError):
            raise
        except Exception as error:
            logger.warning("the result backend did not store the state of task %s: %s", task_id, brief(error))
            return None

    return recorded
