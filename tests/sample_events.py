"""Events as texts, and the marks of dead letters, for tests."""

from __future__ import annotations

import json
from typing import Any

from balog_celery.events.mark import MARK
from balog_celery.sqs.messages import OutgoingMessage

EVENT = {
    "schema": "0.0.1",
    "header": {"id": "LG1", "channel": "a.done", "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}},
    "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": "1.0"}]},
}


def event_text(event_id: str = "LG1", cls_type: str = "metrics", schema: str = "0.0.1", **payload: Any) -> str:
    """The JSON text of an event."""
    body = {"cls_type": cls_type, **({"values": []} if cls_type == "metrics" else {}), **payload}
    return json.dumps({**EVENT, "schema": schema, "header": {**EVENT["header"], "id": event_id}, "payload": body})


def mark_of(message: OutgoingMessage) -> dict[str, Any]:
    """What a dead letter says of the failure."""
    mark: dict[str, Any] = json.loads(str(message.attributes[MARK]))
    return mark
