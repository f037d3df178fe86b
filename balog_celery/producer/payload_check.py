"""Checks the payloads of producers, more strictly than consumers do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from ..errors import RecordError
from ..events.serialization import MAX_NAME, SEVERITIES, explain
from .values import converter, has_iterator

if TYPE_CHECKING:
    from ..events.payloads import Payload


def checked(payload: object, severity: str | None) -> dict[str, Any]:
    """Return *payload* as a dict, validated more strictly than for reading.

    :param severity: that of a log payload without one.
    :raises RecordError: it is not valid.
    """
    plain = plain_payload(payload)
    content = _modelled(payload, severity) if plain is None else plain
    if len(content["cls_type"]) > MAX_NAME:  # consumers refuse it
        raise RecordError(f"payload: cls_type has more than {MAX_NAME} characters")
    return content


def _modelled(payload: object, severity: str | None) -> dict[str, Any]:
    from ..events.payloads import LogPayload, payload_dict

    if isinstance(payload, (dict, Mapping)) and payload.get("cls_type") == "log" and "severity" not in payload:
        payload = {**payload, "severity": severity}
    try:
        model = _validated(payload)
    except ValidationError as error:
        raise RecordError(f"payload: {explain(error)}") from None
    if isinstance(model, LogPayload) and model.severity not in SEVERITIES:
        raise RecordError(f"payload: severity is none of {', '.join(sorted(SEVERITIES))}")
    return payload_dict(model)


def plain_payload(payload: object) -> dict[str, Any] | None:
    """Return what the model makes of *payload* without the model, or None if only the model can tell."""
    if type(payload) is not dict:
        return None
    cls_type = payload.get("cls_type")
    if cls_type == "metrics":
        return _plain_metrics(payload)
    if type(cls_type) is not str or not cls_type or not all(type(key) is str for key in payload):
        return None
    from ..events.payloads import is_declared

    # A class that was not declared asks for no more than that.
    return None if is_declared(cls_type) else payload.copy()


def _plain_metrics(payload: dict[Any, Any]) -> dict[str, Any] | None:
    """Return *payload* as :func:`plain_payload` does if it holds nothing but names in ASCII and finite floats."""
    values = payload.get("values")
    if len(payload) != 2 or type(values) is not list:
        return None
    measured = []
    for item in values:
        if type(item) is not dict or len(item) != 2:
            return None
        name, value = item.get("name"), item.get("value")
        if type(name) is not str or not name.isascii() or type(value) is not float or not isfinite(value):
            return None
        measured.append({"name": name, "value": value})
    return {"cls_type": "metrics", "values": measured}


def _validated(payload: object) -> Payload:
    from ..events.payloads import validate_payload

    try:
        return validate_payload(payload)
    except ValidationError as error:
        # It may hold what pydantic does not take and JSON can be made of: a lone surrogate, a number of numpy, a lazy
        # text, a key that is none. What was an iterator has been used up, so that a second look would see less.
        if not isinstance(payload, Mapping) or has_iterator(payload):
            raise
        try:
            return validate_payload(json.loads(converter.write(payload)))
        except (TypeError, ValueError, RecursionError):
            raise error from None
