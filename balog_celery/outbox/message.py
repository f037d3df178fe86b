"""A row of the outbox: the message of one event, as the caller's transaction writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from ..arguments import optional_text
from ..errors import ConfigurationError, RecordError
from ..producer.logger import make_record
from ..producer.messages import check_attributes, check_delay
from ..producer.topics import check_topic, has_bucket
from ..sqs.addresses import queue_name
from ..sqs.messages import DEFAULT_GROUP, MAX_ATTRIBUTES, MAX_BODY_BYTES, MAX_MESSAGE_BYTES, OutgoingMessage
from ..sqs.queue_names import checked_topic
from ..telemetry import find

#: The longest topic, a name or a URL, in characters.
MAX_TOPIC = 255
#: The longest message group and deduplication id that SQS takes, in characters.
MAX_ID = 128

_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")


class NewRow(NamedTuple):
    """The columns that the writer of an event sets.

    :param attributes: the message attributes, as a JSON object.
    :param delay: in seconds; None: the queue's own.
    """

    topic: str
    message_group: str
    deduplication_id: str
    body: str
    attributes: str
    delay: int | None


def new_row(
    payload: object,
    *,
    topic: str,
    channel: str | None = None,
    group: str | None = None,
    deduplication_id: str | None = None,
    delay: int | None = None,
    attributes: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
) -> tuple[str, NewRow]:
    """Return the id of a new event, and its row.

    :param payload: a mapping with a ``cls_type``, or a :class:`~balog_celery.Payload`.
    :param topic: the queue's name, or its URL.
    :param channel: the record's channel; default: the queue's name.
    :param group: the message group, within which events keep their order; default: none, or one for all events of a
        FIFO topic.
    :param deduplication_id: for a FIFO topic; default: the event's id.
    :param delay: for how many seconds the message is invisible at first; not for a FIFO topic.
    :param attributes: message attributes, texts that are not empty; those of the current trace are added.
    :param context: added to the configured context of the record.
    :raises RecordError: the payload, the context or the attributes are not valid, or the message is too large.
    :raises ConfigurationError: the topic, the group, the deduplication id or the delay is not one.
    """
    topic = checked_topic(topic)
    check_topic(topic)
    if len(topic) > MAX_TOPIC:
        raise ConfigurationError(f"bad topic {topic[:MAX_TOPIC]!r}: give a queue's name or URL of 1 to 255 characters")
    name = queue_name(topic)
    check_delay(delay, name)
    check_attributes(attributes)
    channel = optional_text("channel", channel) or name
    line = make_record(channel, payload, context)
    event_id: str = from_json(line)["header"]["id"]
    default_group = DEFAULT_GROUP if name.endswith(".fifo") else ""
    group = default_group if group is None else _checked_id("group", group)
    deduplication_id = _checked_id("deduplication_id", event_id if deduplication_id is None else deduplication_id)
    own = dict(attributes or {})
    both = {**find(None).created(name, channel), **own}
    given = both if len(both) <= MAX_ATTRIBUTES else own
    _check_message(OutgoingMessage(line, given))
    return event_id, NewRow(topic, group, deduplication_id, line, json.dumps(given), delay)


def _check_message(message: OutgoingMessage) -> None:
    for key, value in message.attributes.items():
        if not (isinstance(key, str) and key and isinstance(value, str) and value):
            raise RecordError(f"bad message attribute {key!r}: give a name, and a text that is not empty")
    if len(message.attributes) > MAX_ATTRIBUTES:
        raise RecordError(f"{len(message.attributes)} message attributes: give {MAX_ATTRIBUTES} at most")
    size, limit = message.size(), MAX_BODY_BYTES if has_bucket() else MAX_MESSAGE_BYTES
    if size > limit:
        raise RecordError(
            f"the message has {size} bytes, and the limit is {limit}: store the document elsewhere and send a link to "
            f"it, or set balog_payload_bucket for messages of up to {MAX_BODY_BYTES} bytes"
        )


def _checked_id(name: str, value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ConfigurationError(f"bad {name} {value!r}: give 1 to {MAX_ID} printable ASCII characters, without spaces")
    return value
