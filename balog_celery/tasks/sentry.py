"""Tags for Sentry, where an application uses it: which event a consumer's task serves."""

from __future__ import annotations

import sys
from typing import Any

from ..consumers.context import EventContext
from ..sqs.addresses import queue_name


def tag(task: Any) -> None:
    """Tag what Sentry reports of the current task with its topic, and with its event's id and type.

    Sentry's integration with Celery begins a scope for each task, and names it for the task.
    """
    sdk = sys.modules.get("sentry_sdk")
    if sdk is None:
        return
    context = EventContext.from_headers(task.request)
    tags = {"topic": queue_name(task.topic), "event_id": context.event_id, "cls_type": context.cls_type}
    sdk.set_tags({name: value for name, value in tags.items() if value})
