"""How a worker executes the messages of events' tasks: as Celery does, but its task events also name the event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..celery_compat.worker import default_strategy
from ..consumers.context import EVENT


class _NamingEvents:
    """A view of a consumer's event dispatcher that adds the header ``balog_event`` to ``task-received``.

    The strategy sends that event while it handles a message, in the one thread that calls it.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self.event: Any = None

    @property
    def enabled(self) -> bool:
        return bool(self._dispatcher.enabled)

    def send(self, type: str, **fields: Any) -> Any:
        if type == "task-received" and self.event is not None:
            fields[EVENT] = self.event
        return self._dispatcher.send(type, **fields)


def event_strategy(task: Any, app: Any, consumer: Any) -> Callable[..., Any]:
    """Return the handler of the messages of *task*; see ``Task.Strategy``."""
    if not consumer.event_dispatcher:
        return default_strategy(task, app, consumer, None)
    events = _NamingEvents(consumer.event_dispatcher)
    handle = default_strategy(task, app, consumer, events)

    def handle_named(message: Any, *args: Any) -> Any:
        events.event = (message.headers or {}).get(EVENT)
        try:
            return handle(message, *args)
        finally:
            events.event = None

    return handle_named
