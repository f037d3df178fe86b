"""CloudEvents 1.0: structured and batched in JSON, and the binary mode, whose attributes are the message's."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

from ...errors import DecodeError
from ..message import Message, join_id
from ..serialization import read_json
from .documents import Event, as_object, text_at

# HTTP's prefix, which SDKs use for SQS and SNS too; Kafka's; and AMQP's two.
_PREFIX = re.compile(r"(?:ce[-_]|cloudEvents[:_])(.+)")
#: The content types of the structured mode and of batches begin with this; their messages may repeat the attributes.
_STRUCTURED = "application/cloudevents"


def is_cloudevent(document: Any) -> bool:
    """Return whether *document* is a CloudEvent in JSON."""
    return isinstance(document, dict) and "specversion" in document and "type" in document


def events_of(document: Any) -> Iterable[Event]:
    """Return the event in *document*, or the events of a batch."""
    for one in document if isinstance(document, list) else [document]:
        yield _event(as_object(one, "CloudEvent"))


def _event(event: dict[str, Any]) -> Event:
    source = text_at(event, "source")
    return Event(
        event,
        cls_type=text_at(event, "type"),
        # Together they are unique (CloudEvents 1.0, "id").
        id=join_id(source, text_at(event, "id")),
        channel=source,
        timestamp=event.get("time"),
        schema=text_at(event, "specversion"),
    )


def binary_mode(message: Message) -> dict[str, Any] | None:
    """Return the CloudEvent of a *message* in binary mode, in its structured form; None if it is not one.

    :raises DecodeError: its content type is JSON, and its body is not.
    """
    event: dict[str, Any] = {}
    for name, value in message.attributes.items():
        if (match := _PREFIX.fullmatch(name)) and isinstance(value, str):
            event[match[1].lower()] = value
    content_type = message.attributes.get("content-type") or event.get("datacontenttype")
    if not is_cloudevent(event) or _media_type(content_type).startswith(_STRUCTURED):
        return None
    if isinstance(content_type, str):
        event["datacontenttype"] = content_type
    if message.body:
        event.update(_data(message.body, content_type))
    return event


def _media_type(content_type: object) -> str:
    """Return a content type without its parameters, in lower case; "" if it is none."""
    return content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else ""


def _data(body: str, content_type: Any) -> dict[str, Any]:
    try:
        body.encode()
    except UnicodeEncodeError:  # bytes of a broker's message that are not UTF-8
        return {"data_base64": base64.b64encode(body.encode("utf-8", "surrogateescape")).decode()}
    if isinstance(content_type, str):
        return {"data": read_json(body) if _media_type(content_type).endswith(("/json", "+json")) else body}
    try:
        return {"data": read_json(body)}  # without a content type it is JSON (CloudEvents 1.0, "datacontenttype")
    except DecodeError:
        return {"data": body}
