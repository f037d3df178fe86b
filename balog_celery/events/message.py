"""The message that a decoder reads: its body, ids, times and attributes."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from .ids import encode_id
from .mark import MARK, identity, texts_in, typed_in

#: The namespace of derived ids: name-based UUIDs (RFC 9562, version 5).
_NAMESPACE = uuid.UUID("0f3d6a43-9f0e-5d0c-8a53-0d1f8f1c7c55")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Received(Protocol):
    """A message as a queue delivers it.

    *sent* is in milliseconds of Unix time, 0 if the queue does not say. *attributes* are those message attributes that
    are texts, numbers included, *typed* those of other types than ``String``, each with its ``type`` and ``value``.
    """

    @property
    def body(self) -> str: ...

    @property
    def message_id(self) -> str: ...

    @property
    def attributes(self) -> Mapping[str, Any]: ...

    @property
    def typed(self) -> Mapping[str, Any]: ...

    @property
    def sent(self) -> int: ...

    @property
    def group(self) -> str: ...

    @property
    def receive_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a decoder gets it.

    :param body: its text.
    :param id: the queue's name for it (SQS's MessageId), or SNS's for what was in an envelope; "" if unknown.
    :param attributes: its message attributes, by their names: texts, bytes, and lists (``String.Array``).
    :param sent: when it was sent; None if unknown.
    :param group: its message group; "" if it has none.
    :param receive_count: how often it was received, this time included.
    :param topic: the name of the queue; "" if unknown.
    :param context: what the header's context of its events says, such as SNS's Subject.
    """

    body: str
    id: str = ""
    attributes: Mapping[str, str | bytes | list[Any]] = field(default_factory=dict)
    sent: datetime | None = None
    group: str = ""
    receive_count: int = 1
    topic: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str | Received | Message, topic: str = "") -> Message:
        """Return the message of *source*, a body or a queue's message."""
        if isinstance(source, Message):
            return source
        if isinstance(source, str):
            return cls(source, topic=topic)
        message_id, sent = identity(source.message_id, source.sent, source.attributes)
        return cls(
            source.body,
            message_id,
            attributes_of(source),
            _EPOCH + timedelta(milliseconds=sent) if sent else None,
            source.group,
            source.receive_count,
            topic,
        )

    def event_id(self, position: int | None = None) -> str:
        """Return the id of an event whose source gives it none: the message's, else one derived from the body.

        :param position: its position in the message; None if it is the only event.
        """
        place = () if position is None else (str(position),)
        return " ".join((self.id, *place)) if self.id else derived_id(self.body, *place)

    def inside(self, envelope: Mapping[str, Any], sent: datetime | None) -> Message:
        """Return the message that the *envelope* of an SNS notification holds.

        :param sent: the envelope's Timestamp.
        """
        attributes, message_id = envelope.get("MessageAttributes"), envelope.get("MessageId")
        return replace(
            self,
            body=envelope["Message"],
            id=message_id if isinstance(message_id, str) and message_id else self.id,
            sent=sent,
            attributes=sns_attributes(attributes if isinstance(attributes, dict) else {}),
            context={"sns": {name: envelope[name] for name in _SNS_CONTEXT if name in envelope}},
        )


def attributes_of(source: Received) -> Mapping[str, Any]:
    """Return the message attributes of *source*: texts, bytes and lists, without the mark of a dead letter.

    They include those for which a dead letter has no room beside its mark.
    """
    if not source.typed and MARK not in source.attributes:
        return source.attributes
    found = {**source.attributes, **texts_in(source.attributes)}
    typed = {name: (one.type, one.value) for name, one in source.typed.items()} | typed_in(source.attributes)
    for name, (kind, value) in typed.items():
        read = _list_or_none(value) if kind == "String.Array" and isinstance(value, str) else None
        found[name] = value if read is None else read
    found.pop(MARK, None)
    return found


#: What is kept of SNS's envelope.
_SNS_CONTEXT = ("MessageId", "TopicArn", "Subject", "Timestamp", "MessageAttributes")


def sns_attributes(given: Mapping[str, Any]) -> dict[str, str | bytes | list[Any]]:
    """Return the message attributes in *given*, the MessageAttributes of an SNS envelope; bad ones are left out."""
    found: dict[str, str | bytes | list[Any]] = {}
    for name, attribute in given.items():
        value = attribute.get("Value") if isinstance(attribute, dict) else None
        if isinstance(value, str) and (read := _sns_value(value, attribute.get("Type"))) is not None:
            found[name] = read
    return found


def _sns_value(value: str, kind: Any) -> str | bytes | list[Any] | None:
    try:
        if kind == "Binary":
            return base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return _list_or_none(value) if kind == "String.Array" else value


def _list_or_none(value: str) -> list[Any] | None:
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def derived_id(*parts: str | None) -> str:
    """Return an id that is the same for the same *parts*, and differs for others."""
    return encode_id(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


def join_id(*parts: str) -> str:
    """Return one id of *parts*: with spaces between them, or derived where that would be ambiguous."""
    # Without a space in any but the last, the parts can be told apart again; an id that is derived has no space.
    return derived_id(*parts) if any(" " in part for part in parts[:-1]) else " ".join(parts)
