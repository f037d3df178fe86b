"""What travels with an event's task beside the event: the context of its message, in the task's headers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from ..dead_letters.original import OriginalMessage, pack, unpack
from ..events.decoders.detect import opened
from ..events.message import Message, Received

#: The header with the event's ``id`` and ``cls_type``, which workers repeat in their task events.
EVENT = "balog_event"
#: The header with the Unix times of the event in milliseconds, by stage: ``emitted``, ``sent`` (0: the queue does not
#: say) and ``received``. Users read it as ``celery.current_task.request.balog_times``.
TIMES = "balog_times"
#: The header with ``first``, the Unix time in milliseconds when the message was first received (0: the queue does not
#: say), and ``count``, how often it was received.
RECEIVES = "balog_receives"
#: The header with the message group of a FIFO topic's event. Other events have none.
GROUP = "balog_group"
#: The header with what a dead letter keeps of the message of each event, by the event's id.
ORIGINAL = "balog_kept"
#: The header with the message, for consumers that ask for it.
MESSAGE = "balog_message"
#: The header of a chunk with those that are about one event only: the message that its function asks for, and its
#: trace, by the event's id.
OWN = "balog_own"
#: The headers of an event that a chunk does not repeat for each.
_NOT_OWN = frozenset({EVENT, TIMES, RECEIVES, GROUP, ORIGINAL})


class EventContext(NamedTuple):
    """The context of one event's message.

    :param event_id: the event's id.
    :param cls_type: the event's ``cls_type``.
    :param times: Unix times in milliseconds, by stage.
    :param first_received: when the message was first received, in milliseconds of Unix time; 0: unknown.
    :param receive_count: how often the message was received; 0: unknown.
    :param group: the message group of a FIFO topic's event; "": none.
    :param original: what a dead letter of the event keeps of its message.
    :param cause: the id of the event that caused this one; "": it does not say.
    """

    event_id: str = ""
    cls_type: str = ""
    times: Mapping[str, int] = MappingProxyType({})
    first_received: int = 0
    receive_count: int = 0
    group: str = ""
    original: OriginalMessage = OriginalMessage()
    cause: str = ""

    def to_headers(self) -> dict[str, Any]:
        """Return the context as headers of a task message."""
        message_id, sent, body, attributes, is_record = self.original
        original: dict[str, Any] = {"id": message_id, "sent": sent}
        if body is not None:
            original["body"] = body
        if attributes:
            original["attributes"] = pack(attributes)
        if is_record:
            original["record"] = True
        headers: dict[str, Any] = {
            EVENT: {"id": self.event_id, "cls_type": self.cls_type},
            TIMES: self.times,
            RECEIVES: {"first": self.first_received, "count": self.receive_count},
            ORIGINAL: {self.event_id: original},
        }
        if self.group:
            headers[GROUP] = self.group
        if self.cause:
            headers[EVENT]["cause"] = self.cause
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, Any], event_id: str = "") -> EventContext:
        """Read the context from *headers*, which another release may have written.

        Members that are missing or of another type get their defaults.

        :param event_id: which event of a batch; default: the only one.
        """
        if headers.get(EVENT) is None:
            headers = _mapping(headers.get("headers")) or headers  # the request of an eager task
        event, receives = _mapping(headers.get(EVENT)), _mapping(headers.get(RECEIVES))
        event_id = event_id or _text(event.get("id"))
        original = _mapping(_mapping(headers.get(ORIGINAL)).get(event_id))
        body = original.get("body")
        return cls(
            event_id=event_id,
            cls_type=_text(event.get("cls_type")),
            times={stage: time for stage, time in _mapping(headers.get(TIMES)).items() if isinstance(time, int)},
            first_received=_number(receives.get("first")),
            receive_count=_number(receives.get("count")),
            group=_text(headers.get(GROUP)),
            original=OriginalMessage(
                message_id=_text(original.get("id")),
                sent=_number(original.get("sent")),
                body=body if isinstance(body, str) else None,
                attributes=unpack(original.get("attributes")),
                is_record=original.get("record") is True,
            ),
            cause=_text(event.get("cause")),
        )


def message_header(received: Received, topic: str) -> dict[str, Any]:
    """Return the header :data:`MESSAGE`, as JSON has it: of a notification of SNS, the message that it holds.

    :param received: the message.
    :param topic: the name of its queue.
    """
    message = opened(Message.of(received, topic))
    return {
        "id": message.id,
        "attributes": {name: _as_json(value) for name, value in message.attributes.items()},
        "sent": None if message.sent is None else message.sent.isoformat(),
        "group": message.group,
        "receive_count": message.receive_count,
        "topic": topic,
        "context": message.context,
    }


def message_of(headers: Mapping[str, Any]) -> Message | None:
    """Return the message that *headers* describe, without its body. None if they describe none.

    :param headers: a task's headers, or its request.
    """
    found = _mapping(headers.get(MESSAGE) or _mapping(headers.get("headers")).get(MESSAGE))  # there, if it is eager
    if not found:
        return None
    sent, attributes = found.get("sent"), _mapping(found.get("attributes"))
    return Message(
        "",
        _text(found.get("id")),
        {name: _from_json(value) for name, value in attributes.items()},
        datetime.fromisoformat(sent) if isinstance(sent, str) else None,
        _text(found.get("group")),
        _number(found.get("receive_count")),
        _text(found.get("topic")),
        _mapping(found.get("context")),
    )


def _as_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, Mapping) else value


def batch_headers(headers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the headers of a batch's task: those of its first event, without the ones that name that event only.

    :param headers: those of each event.
    """
    common = {name: value for name, value in headers[0].items() if name not in (EVENT, RECEIVES, ORIGINAL, MESSAGE)}
    original = {event_id: one for each in headers for event_id, one in _mapping(each.get(ORIGINAL)).items()}
    return {**common, ORIGINAL: original} if original else common


def chunk_headers(headers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the headers of a chunk's task: those of a batch, and what its calls need of those of each event.

    :param headers: those of each event.
    """
    if len(headers) == 1:
        return headers[0]
    common = batch_headers(headers)
    if not headers[0].keys() <= _NOT_OWN:
        common[OWN] = {
            each[EVENT]["id"]: {name: value for name, value in each.items() if name not in _NOT_OWN} for each in headers
        }
    return common


def own_headers(headers: Mapping[str, Any], event_id: str) -> Mapping[str, Any]:
    """Return the headers that are about one event of a chunk.

    :param headers: the task's headers, or its request.
    """
    if headers.get(EVENT) is None and headers.get(OWN) is None:
        headers = _mapping(headers.get("headers"))  # the request of an eager task
    own = headers.get(OWN)
    return headers if own is None else _mapping(_mapping(own).get(event_id))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
