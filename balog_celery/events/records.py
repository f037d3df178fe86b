"""The two-layer JSON document that travels: a facility layer (``schema``, ``header``) and a payload of any kind.

    {"schema": "0.0.1",
     "header": {"id": "LGk37Fo3xLLVx9GrfnyTuvBd", "channel": "a.b.done",
                "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}},
     "payload": {"cls_type": "metrics", "values": [{"name": "foo", "value": 1234.0}]}}

Records of the original are read, and records written here are read by the original's consumer. Differences, all on
purpose: keys and types of payload that are not known are kept; numbers are written as JSON numbers, without loss; empty
texts are read, as the original wrote but could not read them; a null for an optional key means that it is absent.

Numbers: a float that is not finite is never written as a number, for JSON has none. Bare ``NaN`` and ``Infinity`` are
refused. The original wrote such metrics as texts (``"nan"``, ``"inf"``): these are read, and written again as texts.
"""

from __future__ import annotations

import copy
from datetime import datetime
from math import isfinite, isinf
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, SerializeAsAny, ValidationInfo
from pydantic_core import ValidationError

from ..errors import DecodeError, RecordError
from ..text import printable
from .payloads import (
    ORIGINALS,
    LogPayload,
    MetricsPayload,
    MetricValue,
    NullPayload,
    OpenModel,
    Payload,
    class_of,
    declared_names,
    payload_dict,
    validate_payload,
)
from .serialization import MAX_NAME, InvalidValue, dumps, explain, read_json
from .timestamps import parse_timestamp

#: What makes up a record: ``balog_celery.records`` has these for users.
__all__ = [
    "Context",
    "FacilityRecord",
    "Header",
    "LogPayload",
    "MetricValue",
    "MetricsPayload",
    "NullPayload",
    "Payload",
    "as_event",
    "decode",
    "encode",
    "parse_timestamp",
    "read_record",
]


def _composition(value: object) -> bool | None:
    """Read a flag as the original did: any text is true but ``"false"``, in any case, and ``"0"``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.lower() not in ("false", "0")
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise InvalidValue('composition is true or false, or the text "true" or "false"')


class Context(OpenModel):
    """Where a record was made."""

    fqdn: str | None = None
    application: str | None = None
    application_version: str | None = None


#: As :func:`encode` writes it: the seconds of an offset, too. pydantic's own, after a function, is slow and warns.
_ISO_TEXT = PlainSerializer(datetime.isoformat, return_type=str, when_used="json")


class Header(OpenModel):
    """The part that every record has.

    :ivar id: ``"LG"`` and 22 characters if this package or the original made it, else any text that is not empty.
    :ivar channel: the logger's name and the event's, with a dot between them.
    :ivar timestamp: when the record was made; always aware.
    :ivar composition: a flag of the original's schema, whose meaning is the application's.
    """

    id: str = Field(min_length=1)
    channel: str
    timestamp: Annotated[datetime, PlainValidator(parse_timestamp), _ISO_TEXT]
    context: Context = Field(default_factory=Context)
    composition: Annotated[bool | None, PlainValidator(_composition)] = None


_CONTEXT = tuple(Context.model_fields)


def _payload(value: object, info: ValidationInfo) -> Payload:
    """Return *value* as the class that was declared for its type.

    The context is that of :func:`read_record`: whether the record is another source's, of which the original's classes
    know nothing; and whether a user's class only checks the payload, which stays as it was sent.
    """
    if not isinstance(value, dict):
        return validate_payload(value)
    header = info.data.get("header")
    is_foreign, as_sent = info.context or (header is not None and "decoder" in (header.__pydantic_extra__ or {}), False)
    cls = class_of(value.get("cls_type"), is_foreign=is_foreign)
    found: Payload = cls.__pydantic_validator__.validate_python(value)
    if as_sent and cls is not Payload and cls not in ORIGINALS:
        return Payload.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]
    return found


class FacilityRecord(OpenModel):
    """A record. ``schema_version`` is named ``schema`` on the wire and when a record is made: ``schema="0.0.1"``."""

    schema_version: str = Field(alias="schema", min_length=1)
    header: Header
    payload: Annotated[SerializeAsAny[Payload], BeforeValidator(_payload)]


def decode(body: str) -> FacilityRecord:
    """Read a record from JSON text.

    Lone surrogate escapes, which are not Unicode text but which the original wrote, are read as U+FFFD.

    :raises DecodeError: it is no record; the reason is one line and holds nothing of the body.
    """
    return read_record(read_json(body))


def read_event(body: str) -> FacilityRecord:
    """Read a record from JSON text, for consumers: the class that a user declared for its payload only checks that.

    :func:`typed` makes an object of that class of it.

    :raises DecodeError: as :func:`decode`.
    """
    return read_record(read_json(body), as_sent=True)


def read_record(document: object, *, as_sent: bool = False) -> FacilityRecord:
    """Read a record from what its JSON says.

    :param as_sent: as :func:`read_event`.
    :raises DecodeError: as :func:`decode`.
    """
    header = document.get("header") if isinstance(document, dict) else None
    is_foreign = isinstance(header, dict) and "decoder" in header
    try:
        record: FacilityRecord = FacilityRecord.__pydantic_validator__.validate_python(
            document, context=(is_foreign, as_sent)
        )
        for part in (record, record.header, record.header.context, record.payload):
            if part.__pydantic_extra__:
                _refuse_infinity(part.__pydantic_extra__)
    except ValidationError as error:
        raise DecodeError(explain(error, declared_names(FacilityRecord))) from None
    except ValueError as error:
        raise DecodeError(f"it cannot be read: {printable(error)}") from None
    except Exception as error:  # a validator of a user's payload may raise anything
        raise DecodeError(f"it cannot be read: {type(error).__name__}") from None
    header = record.header
    if len(record.schema_version + header.id + header.channel + record.payload.cls_type) > MAX_NAME:
        check_names(record)
    return record


def check_names(record: FacilityRecord) -> None:
    """Check that the names in *record*, by which events are remembered and logged, are not too long.

    :raises DecodeError: one is.
    """
    names = {
        "schema": record.schema_version,
        "header.id": record.header.id,
        "header.channel": record.header.channel,
        "payload.cls_type": record.payload.cls_type,
    }
    for place, name in names.items():
        if len(name) > MAX_NAME:
            raise DecodeError(f"{place}: it has more than {MAX_NAME} characters")


def typed(record: FacilityRecord) -> FacilityRecord:
    """Return *record* with its payload as the class that was declared for its type.

    :raises pydantic.ValidationError: the payload is not what that class asks for.
    """
    if type(record.payload) is not Payload:
        return record
    header = record.header.__pydantic_extra__ or {}
    cls = class_of(record.payload.cls_type, is_foreign="decoder" in header)
    if cls is Payload:
        return record
    return record.model_copy(update={"payload": validate_payload(record.payload)})


def encode(record: FacilityRecord) -> str:
    """Write *record* as JSON text in ASCII, on one line; :func:`decode` reads the same record from it.

    :raises RecordError: it holds a value that JSON cannot express.
    """
    try:
        document = as_event(record)
        if isinstance(record.payload, MetricsPayload):
            for metric in document["payload"]["values"]:
                if not isfinite(metric["value"]):
                    metric["value"] = str(metric["value"])
        return dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"the record cannot be written as JSON: {printable(error)}") from error


def as_event(record: FacilityRecord) -> dict[str, Any]:
    """Return *record* as the dict that the original gave to consumers.

    Timestamps are aware datetimes and the values of metrics floats; optional keys that are absent in the record are
    absent; unknown keys are kept. The dict is the caller's own.
    """
    header = record.header
    event: dict[str, Any] = {
        "schema": record.schema_version,
        "header": {"id": header.id, "channel": header.channel, "timestamp": header.timestamp},
        "payload": payload_dict(record.payload),
    }
    if "context" in header.model_fields_set:
        context = header.context.__pydantic_serializer__.to_python(header.context, warnings=False)  # as model_dump()
        for name in _CONTEXT:
            if context[name] is None:
                del context[name]
        event["header"]["context"] = context
    if header.composition is not None:
        event["header"]["composition"] = header.composition
    if header.__pydantic_extra__:
        event["header"].update(copy.deepcopy(header.__pydantic_extra__))
    if record.__pydantic_extra__:
        event.update(copy.deepcopy(record.__pydantic_extra__))
    return event


def _refuse_infinity(value: object) -> None:
    """Refuse numbers such as 1e999, which JSON allows and Python reads as infinite, in what no model checks."""
    if isinstance(value, float):
        if isinf(value):
            raise ValueError("a number is too large")
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_infinity(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_infinity(item)
