"""Payloads: the base class, the kinds that the original knew, and the registry of users' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, SupportsFloat, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from ..errors import ConfigurationError, RecordError
from ..signatures import declares
from .serialization import InvalidValue, canonical_severity


def metric_value(value: object) -> float:
    """Return a metric's value. A text is read as the original wrote numbers, ``"nan"`` included."""
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        if "_" in value:  # float() reads it since Python 3.6, and no producer writes it
            raise InvalidValue("this text is not a number")
        try:
            return float(value)
        except ValueError:
            raise InvalidValue("this text is not a number") from None
    if not isinstance(value, (float, int, SupportsFloat)):  # the last is a slow check
        raise InvalidValue("it must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidValue("this number is too large") from None
    if not math.isfinite(number):
        raise InvalidValue("a number must be finite")
    return number


def _metric_json(value: float) -> float | str:
    """Return a metric's value as JSON can express it."""
    return value if math.isfinite(value) else str(value)


class OpenModel(BaseModel):
    """The base of models that keep unknown keys."""

    # What model_dump() and model_dump_json() return is read again.
    model_config = ConfigDict(extra="allow", allow_inf_nan=False, serialize_by_alias=True)


class Payload(OpenModel):
    """The base of payloads. A subclass that declares a literal ``cls_type`` is what payloads of that type are read as.

        class Dispute(Payload):
            cls_type: Literal["dispute"] = "dispute"
            amount: Decimal

    Import the module that declares it wherever such payloads are logged or consumed. Keys that a model does not
    declare are kept. A payload of any other type is a plain ``Payload``.

    :raises ConfigurationError: at declaration, if another class has declared the same type.
    """

    cls_type: str = Field(min_length=1)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not declares(cls, "cls_type"):
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


def registered_payloads() -> dict[str, type[Payload]]:
    """Return the model of each declared ``cls_type``, sorted."""
    return dict(sorted(_registry.items()))


class MetricValue(OpenModel):
    """One measured value."""

    name: str
    value: Annotated[
        float,
        PlainValidator(metric_value),
        PlainSerializer(_metric_json, when_used="json"),
        WithJsonSchema({"type": "number"}, mode="serialization"),
    ]


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
            value = payload_dict(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        else:
            return Payload.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]
    cls = class_of(value.get("cls_type"), is_foreign=False)
    return cls.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]


def class_of(cls_type: object, *, is_foreign: bool) -> type[Payload]:
    """Return the class that was declared for payloads of *cls_type*, else ``Payload``.

    :param is_foreign: whether they are another source's, of which the original's classes know nothing.
    """
    cls = _registry.get(cls_type, Payload) if isinstance(cls_type, str) else Payload
    return Payload if is_foreign and cls in ORIGINALS else cls


def is_declared(cls_type: str) -> bool:
    """Return whether a class was declared for payloads of *cls_type*."""
    return cls_type in _registry


def declared_names(*models: type[BaseModel]) -> frozenset[str]:
    """Return the names, and the names on the wire, of all fields of *models*, payloads' and those inside included."""
    return frozenset().union(*(_names(model) for model in {*models, *_registry.values()}))


@lru_cache(maxsize=1024)
def _names(model: type[BaseModel]) -> frozenset[str]:
    found: set[str] = set()
    seen: set[Any] = set()
    left: list[Any] = [model]
    while left:
        one = left.pop()
        left += get_args(one)
        is_class = isinstance(one, type) and get_origin(one) is None  # Python 3.10 takes list[str] for a type
        if is_class and issubclass(one, BaseModel) and one not in seen:
            seen.add(one)
            for name, info in one.model_fields.items():
                aliases = (name, info.alias, info.validation_alias)
                found.update(alias for alias in aliases if isinstance(alias, str))
                left.append(info.annotation)
    return frozenset(found)


#: Payloads that the original normalised for consumers: numbers as floats, severities in one spelling.
ORIGINALS = (MetricsPayload, LogPayload, NullPayload)


def payload_dict(payload: Payload) -> dict[str, Any]:
    """Return *payload* as a new dict, without optional keys that were not given and have no default.

    :raises RecordError: its class has a serializer that returns something else.
    """
    # As model_dump(by_alias=True), without the cost of its many arguments.
    content: dict[str, Any] = payload.__pydantic_serializer__.to_python(payload, by_alias=True, warnings=False)
    if not isinstance(content, dict):
        raise RecordError(f"payload: {type(payload).__name__} is not written as an object")
    fields = type(payload).model_fields
    for name in fields.keys() - payload.__pydantic_fields_set__:
        key = fields[name].serialization_alias or name
        if content.get(key, ...) is None:
            del content[key]
    if alias := fields["cls_type"].serialization_alias:  # of an alias_generator
        content.pop(alias, None)
    content["cls_type"] = payload.cls_type
    return content
