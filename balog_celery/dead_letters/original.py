"""The parts of a message that travel with its events' tasks, so that a dead letter can hold the message as it came."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..events.mark import MARK, identity, read_mark, typed_value, write_mark
from ..sqs.messages import MAX_ATTRIBUTES, MAX_MESSAGE_BYTES, NO_ATTRIBUTES, Message, TypedValue

#: The attributes of a message, as they can be sent again.
Attributes = Mapping[str, str | TypedValue]


class OriginalMessage(NamedTuple):
    """What a dead letter of an event holds of the message that it came in.

    :param message_id: the id of the message in its topic; "": not known.
    :param sent: when it was sent, in milliseconds of Unix time; 0: not known.
    :param body: its body; None: the text of the event.
    :param attributes: its message attributes.
    :param is_record: whether the text of the event is kept, which is not the message's body.
    """

    message_id: str = ""
    sent: int = 0
    body: str | None = None
    attributes: Attributes = NO_ATTRIBUTES
    is_record: bool = False

    @classmethod
    def of(cls, message: Message, text: str, events: int) -> OriginalMessage:
        """Return what to keep of *message* for an event with *text*.

        Each of its *events* may become a dead letter. If their copies of the body are larger together than a message
        may be, the event's record is kept instead.
        """
        attributes: Attributes = NO_ATTRIBUTES
        message_id, sent = message.message_id, message.sent
        if message.attributes or message.typed:
            message_id, sent = identity(message_id, sent, message.attributes)
            attributes = unmarked(message, read_mark(message.attributes))
        if text is message.body:
            return cls(message_id, sent, None, attributes)
        if events * len(message.body) > MAX_MESSAGE_BYTES or not _is_unicode(message.body):
            return cls(message_id, sent, None, attributes, True)
        return cls(message_id, sent, message.body, attributes)


def marked(attributes: Attributes, mark: Mapping[str, Any]) -> dict[str, str | TypedValue]:
    """Return *attributes* with *mark* as one more. If that is one too many, the mark holds the last of the others."""
    names = [name for name in attributes if name != MARK]
    rest = {name: attributes[name] for name in names[MAX_ATTRIBUTES - 1 :]}
    own = {name: attributes[name] for name in names[: MAX_ATTRIBUTES - 1]}
    return {**own, MARK: write_mark({**mark, "attributes": pack(rest)})}


def unmarked(message: Message, mark: Mapping[str, Any]) -> dict[str, str | TypedValue]:
    """Return the attributes that :func:`marked` was given, without those of dead letters of earlier releases.

    :param mark: what is believed of the mark.
    """
    found = {name: value for name, value in message.all_attributes.items() if name != MARK}
    return {**found, **unpack(mark.get("attributes"))}


def pack(attributes: Attributes) -> dict[str, Any]:
    """Return *attributes* as JSON knows them: a text, or type and value, with bytes in base64."""
    return {name: value if isinstance(value, str) else _packed(value) for name, value in attributes.items()}


def unpack(packed: Any) -> dict[str, str | TypedValue]:
    """Read :func:`pack`; attributes that cannot be read are left out."""
    found: dict[str, str | TypedValue] = {}
    for name, value in packed.items() if isinstance(packed, Mapping) else ():
        try:
            found[name] = value if isinstance(value, str) else TypedValue(*typed_value(*value))
        except (TypeError, ValueError):
            continue
    return found


def _packed(value: TypedValue) -> list[str]:
    if isinstance(value.value, str):
        return [value.type, value.value]
    return [value.type, base64.b64encode(value.value).decode()]


def _is_unicode(text: str) -> bool:
    """Whether every serializer can write *text*: bytes that are not UTF-8 are lone surrogates in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
