"""Compares two versions of a contract, and names each change that breaks a consumer.

The direction is that of Confluent's BACKWARD mode: readers of the new contract must be able to read every event written
by the old one. Such events wait in queues, are dead letters, or come from a producer that has not been
deployed yet. Besides, a declared field must not be removed, because functions read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..text import printable
from .schemas import Schemas, removed_and_narrowed


def breaking_changes(old: Any, new: Any) -> list[str]:
    """Return a line for each change from the AsyncAPI document *old* to *new* that breaks a consumer.

    :raises ConfigurationError: *old* is no AsyncAPI 3 document.
    """
    if not isinstance(old, Mapping) or not str(old.get("asyncapi", "")).startswith("3."):
        raise ConfigurationError("the old contract is not an AsyncAPI 3 document: give what `balog schema` has written")
    try:
        return [*_messages(old, new), *_channels(old, new)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the old contract cannot be read ({type(error).__name__}: {printable(error)}): give what `balog schema` "
            "has written"
        ) from error


def _messages(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    after = _part(new, "components", "messages")
    for name, message in sorted(_part(old, "components", "messages").items()):
        if name not in after:
            yield f"{name}: message removed"
            continue
        schemas = Schemas(old, new)
        for path, change in removed_and_narrowed(schemas, message.get("payload", {}), after[name].get("payload", {})):
            yield f"{name}: {path}: {change}" if path else f"{name}: {change}"


def _channels(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Report events that are no longer sent to a topic."""
    before, after = _sent(old), _sent(new)
    for address, message in sorted(before - after):
        if message in _part(new, "components", "messages"):
            yield f"{message}: no longer sent to {address}"


def _sent(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the address and the message of each event that is sent."""
    channels = _part(document, "channels")
    found = set()
    for operation in _part(document, "operations").values():
        if operation.get("action") == "send":
            for reference in operation.get("messages", ()):
                _, _, channel, _, message = str(reference.get("$ref", "")).split("/")
                found.add((str(channels[channel]["address"]), message))
    return found


def _part(document: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for name in path:
        document = document.get(name, {})
        if not isinstance(document, Mapping):
            raise TypeError(f"{name} is no object")
    return document
