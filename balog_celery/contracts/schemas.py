"""Compares two JSON Schemas: what the old one allows and the new one does not.

A keyword that is not understood counts as a change that breaks something whenever it differs, so that silence can be
trusted. ``oneOf`` is read as ``anyOf``: pydantic writes it for discriminated unions, whose alternatives exclude one
another. One exception is on purpose: a new optional field is compatible, although events may have had a key of that
name already, which no contract mentioned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: Where in an event, as ``payload.order.lines[]``, and what changed there.
Change = tuple[str, str]

#: Keywords that say nothing about which values are valid.
_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "examples",
        "externalDocs",
        "readOnly",
        "title",
        "writeOnly",
    }
)
#: Limits, and whether a larger number is the stricter one.
_LIMITS = {
    "minimum": True,
    "exclusiveMinimum": True,
    "minLength": True,
    "minItems": True,
    "minProperties": True,
    "maximum": False,
    "exclusiveMaximum": False,
    "maxLength": False,
    "maxItems": False,
    "maxProperties": False,
}
_COMPARED = frozenset(
    {
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "items",
        "oneOf",
        "properties",
        "required",
        "type",
    }
)
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


class Schemas:
    """The two documents in which schemas refer to others."""

    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._documents = {"old": old, "new": new}
        #: The pairs of schemas that are being compared: one that refers to itself ends here.
        self.compared: set[tuple[str, str]] = set()

    def resolved(self, which: str, schema: Any) -> dict[str, Any]:
        """Return *schema* with its references and ``allOf`` merged into it.

        :param which: ``"old"`` or ``"new"``.
        """
        if schema is True or schema is None:
            return {}
        if schema is False:
            return {"enum": []}
        merged: dict[str, Any] = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
        parts = [*schema.get("allOf", ())]
        if "$ref" in schema:
            parts.append(self._target(which, schema["$ref"]))
        for part in parts:
            _merge(merged, self.resolved(which, part))
        return merged

    def _target(self, which: str, reference: str) -> Any:
        target: Any = self._documents[which]
        for step in reference.removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        return target


def _merge(merged: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add to *merged* what another schema demands as well."""
    for name, value in more.items():
        if name not in merged:
            merged[name] = value
        elif name == "required":
            merged[name] = sorted({*merged[name], *value})
        elif name == "properties":
            properties = dict(merged[name])
            for field, schema in value.items():
                properties[field] = {"allOf": [properties[field], schema]} if field in properties else schema
            merged[name] = properties
        elif name in _LIMITS:
            merged[name] = (max if _LIMITS[name] else min)(merged[name], value)
        elif name in ("const", "enum"):
            mine = [merged[name]] if name == "const" else merged[name]
            merged["enum"] = [item for item in mine if _among(item, [value] if name == "const" else value)]
            merged.pop("const", None)
        elif name == "type":
            merged[name] = [one for one in _types({"type": merged[name]}) if one in _types({"type": value})]
        elif name not in _ANNOTATIONS and merged[name] != value:
            # Both hold. Nothing else says so in one schema.
            merged[f"{name} and {name}"] = [merged[name], value]


def removed_and_narrowed(schemas: Schemas, old: Any, new: Any, path: str = "") -> list[Change]:
    """Return the fields that *new* lacks, and what *old* allows and *new* does not."""
    pair = (json.dumps(old, sort_keys=True), json.dumps(new, sort_keys=True))
    if pair in schemas.compared:
        return []
    schemas.compared.add(pair)
    try:
        before, after = schemas.resolved("old", old), schemas.resolved("new", new)
        if any(name in schema for schema in (before, after) for name in ("anyOf", "oneOf")):
            return [*_alternatives(schemas, before, after, path)]
        return [*_single(schemas, before, after, path)]
    finally:
        schemas.compared.discard(pair)


def _alternatives(schemas: Schemas, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    """Report each alternative of *old* that *new* does not allow."""
    allowed = _split(schemas, "new", new)
    for one in _split(schemas, "old", old):
        found = [[*_single(schemas, one, other, path)] for other in allowed]
        if not all(found) and found:
            continue
        similar = [changes for changes, other in zip(found, allowed, strict=True) if _kind(other) == _kind(one)]
        if len(similar) == 1:
            yield from similar[0]
        else:
            yield path, f"type narrowed: {_kind(one)} is no longer accepted"


def _split(schemas: Schemas, which: str, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a schema, each merged with the keywords that hold for all of them."""
    for name in ("anyOf", "oneOf"):
        if name in schema:
            rest = {key: value for key, value in schema.items() if key != name}
            parts = []
            for part in schema[name]:
                merged = dict(rest)
                _merge(merged, schemas.resolved(which, part))
                parts += _split(schemas, which, merged)
            return parts
    types = _types(schema) if "type" in schema else []
    return [{**schema, "type": one} for one in types] if len(types) > 1 else [schema]


def _single(schemas: Schemas, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    yield from _values(old, new, path)
    yield from _limits(old, new, path)
    types = _types(old)
    if "object" in types:
        yield from _fields(schemas, old, new, path)
    if "array" in types:
        yield from _items(schemas, old, new, path)
    for name in sorted(new.keys() - _COMPARED - _ANNOTATIONS - _LIMITS.keys() - {"additionalItems"}):
        if not name.startswith("x-") and new[name] != old.get(name):
            yield path, f"{name} changed: {_shown(old.get(name))} -> {_shown(new[name])}"


def _values(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    """Report the types and values that are no longer allowed."""
    allowed = _types(new)
    narrowed = [one for one in _types(old) if one not in allowed and not (one == "integer" and "number" in allowed)]
    known = _listed(old)
    if known is None and narrowed:
        yield path, f"type narrowed: {', '.join(narrowed)} is no longer accepted"
        return
    listed = _listed(new)
    if known is None:
        if listed is not None:
            yield path, f"values narrowed: only {_shown(listed)} are accepted"
        return
    gone = [value for value in known if not _is_of(value, allowed) or not (listed is None or _among(value, listed))]
    if gone:
        yield path, f"values removed: {_shown(gone)}"


def _limits(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    for name, larger_is_stricter in _LIMITS.items():
        if name in new and not _is_kept(old, name, new[name], 1 if larger_is_stricter else -1):
            yield path, f"{name} tightened: {old.get(name, 'none')} -> {new[name]}"


def _is_kept(old: dict[str, Any], name: str, limit: float, sign: int) -> bool:
    """Return whether *old* has this limit or a stricter one, with or without the limit itself."""
    excludes = name.startswith("exclusive")
    twin = f"m{name[10:]}" if excludes else f"exclusiveM{name[1:]}"
    same = (name,) if excludes else (name, twin)
    return any(sign * old[one] > sign * limit for one in (name, twin) if one in old) or limit in map(old.get, same)


def _fields(schemas: Schemas, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, schema in before.items():
        place = f"{path}.{name}" if path else name
        if name in after:
            yield from removed_and_narrowed(schemas, schema, after[name], place)
        else:
            yield place, "field removed"
    extra_before, extra_after = old.get("additionalProperties", True), new.get("additionalProperties", True)
    for name in sorted(after.keys() - before.keys()):
        if isinstance(extra_before, Mapping):
            yield from removed_and_narrowed(schemas, extra_before, after[name], f"{path}.{name}" if path else name)
    for name in new.get("required", ()):
        if name not in old.get("required", ()):
            place = f"{path}.{name}" if path else name
            yield place, "field became required" if name in before else "required field added"
    if extra_after is False and extra_before is not False:
        yield path, "fields that are not declared are no longer accepted"
    elif isinstance(extra_after, Mapping) and extra_before is not False:
        yield from removed_and_narrowed(schemas, extra_before, extra_after, f"{path}.*" if path else "*")


def _items(schemas: Schemas, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    """Items of a list, each by its position where there is a list of schemas (draft 7)."""
    (first_before, rest_before), (first_after, rest_after) = _positions(old), _positions(new)
    for index in range(max(len(first_before), len(first_after))):
        before = first_before[index] if index < len(first_before) else rest_before
        after = first_after[index] if index < len(first_after) else rest_after
        yield from _item(schemas, before, after, f"{path}[{index}]")
    yield from _item(schemas, rest_before, rest_after, f"{path}[]")


def _item(schemas: Schemas, before: Any, after: Any, path: str) -> Iterator[Change]:
    if before is not False:
        yield from removed_and_narrowed(schemas, before, after, path)


def _positions(schema: dict[str, Any]) -> tuple[list[Any], Any]:
    """Return the schemas of the first items, and the schema of all others."""
    items = schema.get("items", True)
    return (items, schema.get("additionalItems", True)) if isinstance(items, list) else ([], items)


def _types(schema: Mapping[str, Any]) -> list[str]:
    given = schema.get("type", _TYPES)
    return [given] if isinstance(given, str) else list(given)


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the only allowed values, if the schema lists them."""
    if "const" not in schema and "enum" not in schema:
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    types = _types(schema)
    return [
        value for value in values if _is_of(value, types) and ("enum" not in schema or _among(value, schema["enum"]))
    ]


def _among(value: Any, values: list[Any]) -> bool:
    # JSON's true is not 1.
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _is_of(value: Any, types: list[str]) -> bool:
    """Return whether a JSON value has one of these types."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = names.get(type(value), "null")
    return name in types or (name == "integer" and "number" in types)


def _kind(schema: Mapping[str, Any]) -> str:
    """Return what to call an alternative: its title, its values or its types."""
    if "title" in schema and "properties" in schema:
        return str(schema["title"])
    values = _listed(schema)
    return " or ".join(_types(schema)) if values is None else _shown(values)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
