"""What a worker notes on a task that an engine handed to it, in the properties of the task's message.

It never leaves the machine: no broker carries it, and a published retry does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..celery_compat.tasks import message_properties

_RETRY_UNTIL = "balog_stays_until"
_HEADERS = "balog_headers_given"
_FAILURE = "balog_burying"


class HandOffContext(NamedTuple):
    """The context of a task that was handed to this worker.

    :param retry_until: until when a retry may wait in the worker, by ``time.monotonic()``; 0: it must be published.
    :param headers: the names of the headers that the engine gave the task, besides Celery's own.
    :param failure: why the task failed permanently, if only its dead letter remains to be made.
    """

    retry_until: float = 0.0
    headers: tuple[str, ...] = ()
    failure: str | None = None

    def to_properties(self) -> dict[str, Any]:
        """Return the context as message properties."""
        properties: dict[str, Any] = {_RETRY_UNTIL: self.retry_until, _HEADERS: list(self.headers)}
        return properties if self.failure is None else {**properties, _FAILURE: self.failure}

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any] | None) -> HandOffContext | None:
        """Read the context from message properties; None for a task that a broker delivered."""
        if not properties or _RETRY_UNTIL not in properties:
            return None
        return cls(properties[_RETRY_UNTIL], tuple(properties.get(_HEADERS, ())), properties.get(_FAILURE))

    @classmethod
    def of(cls, request: Any) -> HandOffContext | None:
        """Return the context of *request*, a task's Celery context; None for a task that a broker delivered."""
        return cls.from_properties(message_properties(request))
