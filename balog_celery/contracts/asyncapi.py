"""Writes an application's contract: JSON Schema of its payloads, and an AsyncAPI 3.0 document of its topics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic.errors import PydanticUserError
from pydantic.json_schema import models_json_schema

from ..errors import ConfigurationError
from ..events.conditions import matches
from ..events.payloads import Payload
from ..events.records import Header
from ..sqs.addresses import queue_name
from ..text import printable

_SCHEMAS = "#/components/schemas/"
#: Refers to the schema of a payload of which no model is known.
_UNKNOWN = {"$ref": f"{_SCHEMAS}Payload"}
#: What the keys of an AsyncAPI document's components may not hold.
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]")


class Operation(NamedTuple):
    """What one function of the application does with events of a topic.

    :param action: ``"send"`` or ``"receive"``.
    :param name: the function's name, unique together with the topic.
    :param topic: the queue's name or URL.
    :param cls_types: types of payload; those that end in ``*`` are prefixes; empty: any.
    :param summary: the first line of its docstring.
    :param version: the schema versions that it takes; "": any.
    """

    action: str
    name: str
    topic: str
    cls_types: tuple[str, ...]
    summary: str = ""
    version: str = ""


def payload_schema(model: type[Payload]) -> dict[str, Any]:
    """Return the JSON Schema, of draft 2020-12, of the payloads that *model* writes.

    :raises ConfigurationError: JSON Schema cannot express one of its fields.
    """
    try:
        schema = model.model_json_schema(mode="serialization")
    except PydanticUserError as error:
        raise _inexpressible(model.__qualname__, error) from None
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def asyncapi(
    title: str, version: str, payloads: Mapping[str, type[Payload]], operations: Iterable[Operation]
) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of an application.

    A topic is a channel, and a type of payload is a message: the whole record that is in a message's body.

    :param title: the application's name.
    :param version: the contract's version.
    :param payloads: the model of each type of payload.
    :raises ConfigurationError: JSON Schema cannot express a field of a payload.
    """
    schemas, references = _schemas(payloads)
    messages = {key(cls_type): _message(cls_type, reference) for cls_type, reference in references.items()}
    channels: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for operation in sorted(operations):
        channel_key = key(operation.topic)
        channel = channels.setdefault(channel_key, _channel(operation.topic))
        handled = []
        for cls_type in _handled(operation, payloads):
            messages.setdefault(key(cls_type), _message(cls_type, _UNKNOWN))
            channel["messages"][key(cls_type)] = {"$ref": f"#/components/messages/{key(cls_type)}"}
            handled.append({"$ref": f"#/channels/{channel_key}/messages/{key(cls_type)}"})
        name = key(f"{operation.action}.{operation.name}.{operation.topic}")
        described[name] = _operation(operation, channel_key, handled)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": described,
        "components": {"messages": messages, "schemas": schemas},
    }


def key(name: str) -> str:
    """Return *name* as a key of a document, or as a file's name: other characters are escaped as ``_xx``."""
    return _NOT_IN_KEYS.sub(lambda match: f"_{ord(match[0]):02x}", name)


def _schemas(payloads: Mapping[str, type[Payload]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of the header and of all models, and a reference to the schema of each payload."""
    models: list[Any] = [Header, Payload, *dict.fromkeys(payloads.values())]
    try:
        found, document = models_json_schema(
            [(model, "serialization") for model in models], ref_template=f"{_SCHEMAS}{{model}}"
        )
    except PydanticUserError as error:
        raise _inexpressible("a payload", error) from None
    references = {cls_type: found[model, "serialization"] for cls_type, model in payloads.items()}
    schemas = {name: _draft_7(schema) for name, schema in sorted(document["$defs"].items())}
    return schemas, references


def _handled(operation: Operation, payloads: Iterable[str]) -> list[str]:
    """Return the messages of an operation; for a prefix the known types that it matches, if any."""
    found: set[str] = set()
    for wanted in operation.cls_types or ("*",):
        known = [] if wanted == "*" else [cls_type for cls_type in payloads if matches(wanted, cls_type)]
        found.update(known or [wanted])
    return sorted(found)


def _message(cls_type: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message of a type of payload: its record."""
    is_prefix = cls_type.endswith("*")
    allowed = {"type": "string", "pattern": f"^{re.escape(cls_type[:-1])}"} if is_prefix else {"const": cls_type}
    of_type = {"type": "object", "required": ["cls_type"], "properties": {"cls_type": allowed}}
    return {
        "name": cls_type,
        "payload": {
            "type": "object",
            "required": ["schema", "header", "payload"],
            "properties": {
                "schema": {"type": "string", "minLength": 1},
                "header": {"$ref": f"{_SCHEMAS}Header"},
                "payload": {"allOf": [dict(payload), of_type]},
            },
        },
    }


def _channel(topic: str) -> dict[str, Any]:
    name = queue_name(topic)
    queue = {"name": name, "fifoQueue": name.endswith(".fifo")}
    return {"address": topic, "messages": {}, "bindings": {"sqs": {"queue": queue, "bindingVersion": "0.2.0"}}}


def _operation(operation: Operation, channel_key: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "action": operation.action,
        "channel": {"$ref": f"#/channels/{channel_key}"},
        "title": operation.name,
        "messages": messages,
    }
    if operation.summary:
        described["summary"] = operation.summary
    if operation.version:
        described["x-schema-version"] = operation.version
    return described


def _draft_7(schema: Any) -> Any:
    """Return *schema*, in draft 2020-12, as AsyncAPI accepts it: a superset of draft 7."""
    if isinstance(schema, list):
        return [_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: _draft_7(value) for name, value in schema.items()}
    if isinstance(converted.get("discriminator"), dict):
        del converted["discriminator"]  # AsyncAPI's is a text, and the alternatives say the same
    if isinstance(converted.get("prefixItems"), list):
        if "items" in converted:
            converted["additionalItems"] = converted.pop("items")
        converted["items"] = converted.pop("prefixItems")
    return converted


def _inexpressible(name: str, error: Exception) -> ConfigurationError:
    text = printable(str(error).partition("\n")[0], 300)
    return ConfigurationError(
        f"{name} has no JSON Schema ({text}): give the field's type a WithJsonSchema annotation, as pydantic has it"
    )
