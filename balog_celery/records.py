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
import inspect
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Any, Literal, SupportsFloat, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    SerializeAsAny,
)
from pydantic_core import ValidationError, from_json

from .errors import ConfigurationError, DecodeError, RecordError
from .text import printable
from .wire import canonical_severity, dumps, explain, mend_surrogates

# What iso8601, the library of the original, accepts.
_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})"
    r"(?:(?:-(?P<dash_month>[0-9]{1,2})|(?P<month>[0-9]{2})(?!$))"
    r"(?:(?:-(?P<dash_day>[0-9]{1,2})|(?P<day>[0-9]{2}))"
    r"(?:[ T](?P<hour>[0-9]{2})(?::?(?P<minute>[0-9]{2}))?(?::?(?P<second>[0-9]{1,2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r"(?P<zone>Z|(?P<sign>[-+])(?P<zone_hour>[0-9]{2}):?(?P<zone_minute>[0-9]{2})?)?)?)?)?"
)
# What isoformat() writes for an aware datetime; every Python's fromisoformat() reads it, and it is fast.
_ISOFORMAT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?[-+][0-9]{2}:[0-9]{2}"
)


def parse_timestamp(value: object) -> datetime:
    """Return *value* as an aware datetime.

    :param value: ISO 8601 text, as the original read it: ``"2014"``, ``"2014-10"``, ``"20141007T150651Z"``,
        ``"2014-10-07T15:06:51,641Z"``; digits beyond microseconds are cut, and without a zone it is UTC. Or a datetime
        (naive: UTC), or a date (midnight, UTC).
    :raises ValueError: it is none of these; numbers are not.
    """
    if isinstance(value, str):
        if _ISOFORMAT.fullmatch(value):
            return datetime.fromisoformat(value)
        return _from_iso8601(value)
    if isinstance(value, datetime):
        return value if value.utcoffset() is not None else value.replace(tzinfo=timezone.utc)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    raise ValueError("a timestamp is a text in ISO 8601")


def _from_iso8601(text: str) -> datetime:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("a timestamp is a text in ISO 8601")
    part = match.groupdict()
    zone = timezone.utc
    if part["sign"]:
        offset = timedelta(hours=int(part["zone_hour"]), minutes=int(part["zone_minute"] or 0))
        zone = timezone(-offset if part["sign"] == "-" else offset)
    return datetime(
        int(part["year"]),
        int(part["dash_month"] or part["month"] or 1),
        int(part["dash_day"] or part["day"] or 1),
        int(part["hour"] or 0),
        int(part["minute"] or 0),
        int(part["second"] or 0),
        int((part["fraction"] or "0")[:6].ljust(6, "0")),
        zone,
    )


def _number(value: object) -> float:
    """A metric's value. A text may be a number in any way that the original wrote or read, ``"nan"`` included."""
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        if "_" in value:  # float() reads it since Python 3.6; no producer ever meant it
            raise ValueError("this text is not a number")
        try:
            return float(value)
        except ValueError:
            raise ValueError("this text is not a number") from None
    if not isinstance(value, (float, int, SupportsFloat)):  # the last is a slow check
        raise ValueError("it must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("this number is too large") from None
    if not math.isfinite(number):
        raise ValueError("a number must be finite")
    return number


def _composition(value: object) -> bool | None:
    """As the original read it: all texts are true but ``"false"``, in any case, and ``"0"``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.lower() not in ("false", "0")
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError('composition is true or false, or the text "true" or "false"')


class _Open(BaseModel):
    """The base of what may have more keys than are known here."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Payload(_Open):
    """The base of payloads. A subclass that declares a literal ``cls_type`` is what payloads of that type are read as.

        class Dispute(Payload):
            cls_type: Literal["dispute"] = "dispute"
            amount: Decimal

    Import the module that declares it wherever such payloads are logged or consumed. Keys that a model does not
    declare are kept. A payload whose type nobody declared is a plain ``Payload``.

    :raises ConfigurationError: at declaration, if another class has declared the same type.
    """

    cls_type: str = Field(min_length=1)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "cls_type" not in inspect.get_annotations(cls):
            return
        annotation = cls.model_fields["cls_type"].annotation
        if get_origin(annotation) is Literal:
            for cls_type in get_args(annotation):
                _register(cls_type, cls)


_registry: dict[str, type[Payload]] = {}


def _register(cls_type: str, cls: type[Payload]) -> None:
    known = _registry.setdefault(cls_type, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigurationError(
            f"two classes declare cls_type {cls_type!r}: {known.__module__}.{known.__qualname__} and "
            f"{cls.__module__}.{cls.__qualname__}; use the first, or inherit from it without declaring cls_type"
        )
    _registry[cls_type] = cls  # the module was imported anew


class MetricValue(_Open):
    """One measured value."""

    name: str
    value: Annotated[float, PlainValidator(_number)]


class MetricsPayload(Payload):
    """Measured values."""

    cls_type: Literal["metrics"] = "metrics"
    values: Annotated[list[MetricValue], FailFast()]


class LogPayload(Payload):
    """A line of a log; *exc_text* is a traceback."""

    cls_type: Literal["log"] = "log"
    message: str
    severity: Annotated[str, AfterValidator(canonical_severity)]
    exc_text: str | None = None


class NullPayload(Payload):
    """A payload without content, where the channel says it all."""

    cls_type: Literal["null"] = "null"


def validate_payload(value: object) -> Payload:
    """Return *value*, a mapping or a :class:`Payload`, as the class declared for its ``cls_type``, else a ``Payload``.

    :raises pydantic.ValidationError: it is not what that class asks for.
    """
    if not isinstance(value, dict):
        if type(value) is Payload:
            value = value.model_dump()
        elif isinstance(value, Mapping):
            value = dict(value)
        else:
            return Payload.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]
    cls_type = value.get("cls_type")
    cls = _registry.get(cls_type, Payload) if isinstance(cls_type, str) else Payload
    return cls.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]


class Context(_Open):
    """Where a record was made."""

    fqdn: str | None = None
    application: str | None = None
    application_version: str | None = None


class Header(_Open):
    """What is known of every record, whatever its payload.

    :ivar id: ``"LG"`` and 22 characters where this package or the original made it; others' may be any text but "".
    :ivar channel: the logger's name and the event's, with a dot between them.
    :ivar timestamp: when it was made; always aware.
    :ivar composition: a flag of the original's schema, for the application to give a meaning.
    """

    id: str = Field(min_length=1)
    channel: str
    timestamp: Annotated[datetime, PlainValidator(parse_timestamp)]
    context: Context = Field(default_factory=Context)
    composition: Annotated[bool | None, PlainValidator(_composition)] = None


class FacilityRecord(_Open):
    """A record. ``schema_version`` is named ``schema`` on the wire and when a record is made: ``schema="0.0.1"``."""

    schema_version: str = Field(alias="schema", min_length=1)
    header: Header
    payload: Annotated[SerializeAsAny[Payload], BeforeValidator(validate_payload)]


def decode(body: str) -> FacilityRecord:
    """Read a record from JSON text.

    Lone surrogate escapes, which are not Unicode text but which the original wrote, are read as U+FFFD.

    :raises DecodeError: it is no record; the reason is one line and holds nothing of the body.
    """
    return read_record(read_json(body))


def read_json(body: str) -> Any:
    """Read the JSON text of a message.

    :raises DecodeError: as :func:`decode`.
    """
    try:
        try:
            return from_json(body, allow_inf_nan=False)
        except (ValueError, TypeError):  # the latter is for a surrogate that is not escaped
            mended = mend_surrogates(body)
            if mended == body:
                raise
            return from_json(mended, allow_inf_nan=False)
    except Exception as error:
        raise DecodeError(f"it is not JSON: {printable(error)}") from None


def read_record(document: object) -> FacilityRecord:
    """Read a record from what its JSON says.

    :raises DecodeError: as :func:`decode`.
    """
    try:
        record: FacilityRecord = FacilityRecord.__pydantic_validator__.validate_python(document)
        for part in (record, record.header, record.header.context, record.payload):
            if part.__pydantic_extra__:
                _refuse_infinity(part.__pydantic_extra__)
    except ValidationError as error:
        raise DecodeError(explain(error)) from None
    except ValueError as error:
        raise DecodeError(f"it cannot be read: {printable(error)}") from None
    except Exception as error:  # a validator of a user's payload may raise anything
        raise DecodeError(f"it cannot be read: {type(error).__name__}") from None
    return record


def encode(record: FacilityRecord) -> str:
    """Write *record* as JSON text in ASCII, on one line; :func:`decode` reads the same record from it.

    :raises RecordError: it holds something that JSON cannot.
    """
    document = as_event(record)
    if isinstance(record.payload, MetricsPayload):
        for metric in document["payload"]["values"]:
            if not math.isfinite(metric["value"]):
                metric["value"] = str(metric["value"])
    try:
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
        known = Context.model_fields
        context = header.context.model_dump()
        event["header"]["context"] = {
            key: value for key, value in context.items() if value is not None or key not in known
        }
    if header.composition is not None:
        event["header"]["composition"] = header.composition
    if header.__pydantic_extra__:
        event["header"].update(copy.deepcopy(header.__pydantic_extra__))
    if record.__pydantic_extra__:
        event.update(copy.deepcopy(record.__pydantic_extra__))
    return event


def payload_dict(payload: Payload) -> dict[str, Any]:
    """Return *payload* as a dict of its own, without the optional keys that were neither given nor have a default."""
    # As model_dump(by_alias=True), without the cost of its many arguments.
    content: dict[str, Any] = payload.__pydantic_serializer__.to_python(payload, by_alias=True, warnings=False)
    given, fields = payload.__pydantic_fields_set__, type(payload).model_fields
    if len(given) < len(fields):
        for name in fields.keys() - given:
            key = fields[name].serialization_alias or name
            if content[key] is None:
                del content[key]
    return content


def _refuse_infinity(value: object) -> None:
    """Refuse numbers such as 1e999, which JSON allows and Python reads as infinite, in what no model checks."""
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("a number is too large")
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_infinity(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_infinity(item)
