"""Reads kombu's messages: body, id, delivery count and headers."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from ..sqs.messages import Message
from .compression import CompressionError, decompress
from .kombu_compat import COMPRESSION
from .kombu_headers import read_headers

#: The longest id of a message, in characters, as in AMQP. The engine remembers thousands of them.
_LONGEST_ID = 255
#: The end of the year 9999, in seconds of Unix time.
_LAST_SECOND = 253_402_300_800
#: Above any broker's delivery count.
_MOST_DELIVERIES = 2**31


def read_kombu_message(handle: str, message: Any, max_bytes: int) -> Message:
    """Return kombu's *message* as the engine reads it.

    :param handle: the handle by which it is settled.
    :param max_bytes: the largest body that is decompressed; the body of any other is left as it came.
    """
    properties: Any = message.properties
    headers: dict[str, Any] = dict(message.headers)
    content, problem = message.body, ""
    if (compression := headers.pop(COMPRESSION, None)) is not None:
        try:
            content = decompress(_bytes(content), compression, max_bytes)
        except CompressionError as error:
            problem, headers["compression"] = f"its body {error}", compression
    body = _text(content)
    delivered: Any = headers.get("x-delivery-count")  # the earlier deliveries, on RabbitMQ's quorum queues
    # On Redis the publisher may have written anything.
    counted = isinstance(delivered, int) and 0 <= delivered < _MOST_DELIVERIES
    redelivered = message.delivery_info.get("redelivered")
    attributes, typed = read_headers(headers, message.content_type)
    return Message(
        body=body,
        handle=handle,
        message_id=_message_id(properties.get("message_id") or properties.get("delivery_tag"), body),
        received=time.monotonic(),
        problem=problem,
        receive_count=delivered + 1 if counted else 2 if redelivered else 1,
        sent=_milliseconds(properties.get("timestamp")),
        attributes=attributes,
        typed=typed,
        moved_from=_moved_from(headers.get("x-death")),
    )


def _moved_from(deaths: Any) -> str:
    """Return the queue from which a dead-letter exchange of RabbitMQ took the message last; "" if none did."""
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    queue = last.get("queue") if isinstance(last, dict) else None
    return queue if isinstance(queue, str) else ""


def _milliseconds(timestamp: Any) -> int:
    """Return AMQP's property ``timestamp``, which is in seconds and the publisher's, in milliseconds; 0 if unusable."""
    usable = type(timestamp) is int and 0 < timestamp < _LAST_SECOND
    return timestamp * 1000 if usable else 0


def _message_id(given: Any, body: str) -> str:
    """Return the id that the publisher has given, if it is usable, else a digest of the body.

    Two messages with the same body and no id look like one.
    """
    named = str(given) if isinstance(given, (int, str)) and given else ""
    if 0 < len(named) <= _LONGEST_ID:
        return named
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _bytes(body: Any) -> bytes:
    return body.encode("utf-8", "surrogateescape") if isinstance(body, str) else bytes(body or b"")


def _text(body: Any) -> str:
    """Return *body* as text. :meth:`~.kombu_queue.KombuQueue.send` writes bytes that are not UTF-8 back unchanged."""
    return body if isinstance(body, str) else bytes(body or b"").decode("utf-8", "surrogateescape")
