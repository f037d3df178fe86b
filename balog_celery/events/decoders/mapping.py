"""Decoders of plain JSON: a mapping that says where things are, and ``json``, which needs none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from ...errors import ConfigurationError, DecodeError
from ...signatures import why_not
from ...text import printable
from ..conditions import parse_version
from ..message import Message, join_id
from ..records import FacilityRecord
from ..serialization import MAX_NAME, read_json
from ..timestamps import parse_timestamp
from .documents import Event, as_object, records_of, unix_time, value_at

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class At:
    """Returns the value at a path of a document: ``At("order.lines.0.id")``; None if there is none.

    :param path: keys, and positions in arrays, with dots between them; or a list of them, for keys that have dots
        themselves: ``At(["labels", "app.kubernetes.io/name"])``. An empty list is the document itself.
    :raises ConfigurationError: it is neither, or a key is empty.
    """

    path: str | Sequence[str]

    def __post_init__(self) -> None:
        keys = self.path.split(".") if isinstance(self.path, str) else self.path
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) and key for key in keys):
            raise ConfigurationError(
                f"bad path {self.path!r}: give keys with dots between them, such as 'order.id', or a list of keys"
            )
        if not isinstance(self.path, str):
            object.__setattr__(self, "path", tuple(self.path))  # so that it can be hashed

    def __call__(self, document: Any) -> Any:
        return value_at(document, self.path.split(".") if isinstance(self.path, str) else self.path)


@dataclass(frozen=True)
class Attribute:
    """The message attribute *name*, a text: ``Attribute("X-GitHub-Event")``; None if there is none.

    It is SQS's, or that of an SNS envelope, or a header of another broker's message.

    :raises ConfigurationError: the name is empty.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(f"bad attribute {self.name!r}: give the name of a message attribute")

    def of(self, message: Message) -> str | None:
        """Return the attribute of *message*."""
        value = message.attributes.get(self.name)
        return value if isinstance(value, str) else None


#: A constant, an :class:`Attribute`, or what is called with the document: an :class:`At`, or a function.
Value: TypeAlias = str | Attribute | Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class JSONMapping:
    """A decoder of plain JSON objects, one event each.

        JSONMapping(cls_type=At("kind"), id=At("order.id"), timestamp=At("created"), channel="shop")

    Each argument is a constant text, the :class:`Attribute` of a message, an :class:`At`, or a function, which is
    called with the document.

    :param cls_type: the type of payload.
    :param id: what identifies the event, a text or an integer; not a constant. It is joined with *cls_type*, as an
        order that is placed and then cancelled has one id and is two events. Where there is none, the event has the id
        of its message, and a warning says so once per topic.
    :param unique_id: whether *id* identifies the event by itself, and is its id as it is.
    :param timestamp: when it happened: ISO 8601 text, or a number of seconds or, from 100,000,000,000 on, of
        milliseconds of Unix time. Default: when the message was sent.
    :param channel: the channel.
    :param schema: the schema version, for consumers' conditions.
    :param each: where the array is whose items are the events: ``At("records")``. *id* and the others look into an
        item then.
    :raises ConfigurationError: an argument is none of these.
    """

    cls_type: Value
    id: Value | None = None
    unique_id: bool = False
    timestamp: Value | None = None
    channel: Value = "json"
    schema: Value = "1.0"
    each: Callable[[Any], Any] | None = None
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self) if one.init and one.name != "unique_id"):
            value = getattr(self, name)
            optional = value is None and name in ("id", "timestamp", "each")
            constant = isinstance(value, str) and value and name not in ("id", "each")
            attribute = isinstance(value, Attribute) and name != "each"
            if not (optional or constant or attribute or callable(value)):
                kinds = "At('path') or a function" + ("" if name in ("id", "each") else ", or a constant text")
                raise ConfigurationError(f"bad {name}={value!r} for a JSONMapping: give {kinds}")
            if wrong := why_not(value, "document") if callable(value) else _why_no(name, value):
                raise ConfigurationError(f"bad {name}={printable(repr(value))} for a JSONMapping: {wrong}")
        if self.unique_id and self.id is None:
            raise ConfigurationError("a JSONMapping has unique_id=True, but no id: give both")

    def __call__(self, message: str | Message) -> Sequence[FacilityRecord]:
        message = Message.of(message)
        document = read_json(message.body)
        items = [document] if self.each is None else self.each(document)
        if not isinstance(items, (list, tuple)):
            raise DecodeError(f"it has no array for each= of its JSONMapping{_place(self.each)}")
        return records_of("json", (self._event(item, message) for item in items), message)

    def _event(self, item: Any, message: Message) -> Event:
        document = as_object(item, "JSON object")
        cls_type = self._text("cls_type", document, message)
        timestamp = _time(_value(self.timestamp, document, message))
        return Event(
            document,
            cls_type=cls_type,
            id=self._id(cls_type, document, message),
            channel=self._text("channel", document, message),
            timestamp=timestamp,
            schema=self._text("schema", document, message),
        )

    def _id(self, cls_type: Any, document: Any, message: Message) -> Any:
        if self.id is None:
            return ""
        found = _as_text(_value(self.id, document, message))
        if found is None or found == "":
            if message.topic not in self._warned:
                self._warned.add(message.topic)
                logger.warning(
                    "an event of %s has no id for its JSONMapping%s: such an event is identified by its message",
                    printable(message.topic or "a topic"),
                    _place(self.id),
                )
            return ""
        if self.unique_id or not isinstance(found, str) or not isinstance(cls_type, str):
            return found
        return join_id(cls_type, found)

    def _text(self, name: str, document: Any, message: Message) -> Any:
        source = getattr(self, name)
        text = _as_text(_value(source, document, message))
        if text is None:
            raise DecodeError(f"it has no {name} for its JSONMapping{_place(source)}")
        return text


def json_object(message: str | Message) -> Sequence[FacilityRecord]:
    """Any JSON object: an event whose type is the name of its topic, and whose id is that of its message."""
    message = Message.of(message)
    topic = message.topic or "json"
    return records_of("json", [Event(as_object(read_json(message.body), "JSON object"), topic, topic)], message)


def _why_no(name: str, constant: Any) -> str:
    """Return why *constant* cannot be the *name* of any event; "" if it can, or is no text."""
    if not isinstance(constant, str):
        return ""
    if len(constant) > MAX_NAME:
        return f"it has more than {MAX_NAME} characters"
    if name == "cls_type" and "*" in constant:
        return "a consumer's cls_type with a '*' is a prefix: leave it out"
    if name == "schema" and parse_version(constant) is None:
        return "it is no version, such as '1.0', and would match no consumer's version="
    if name == "timestamp":
        try:
            time = _time(constant)
            _ = unix_time(time) if isinstance(time, int) else parse_timestamp(time)
        except (DecodeError, ValueError) as error:
            return f"{error}, or a number of Unix time; At('path') says where it is"
    return ""


def _time(value: Any) -> Any:
    """Return a text of digits as the number that it is, of Unix time; anything else unchanged."""
    is_number = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) >= 10
    return int(value[:20]) if is_number else value


def _place(source: Any) -> str:
    if isinstance(source, Attribute):
        return f" in the message attribute {source.name}"
    if isinstance(source, At):
        return f" at {source.path if isinstance(source.path, str) else list(source.path)}"
    return ""


def _value(source: Value | None, document: Any, message: Message) -> Any:
    if isinstance(source, Attribute):
        return source.of(message)
    return source(document) if callable(source) else source


def _as_text(value: Any) -> Any:
    """Return a number as text, because ids, types and versions are often numbers; any other value unchanged."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
