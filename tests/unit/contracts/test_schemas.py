"""Comparing JSON Schemas: each restriction of the new one is named."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.contracts.schemas import Schemas, removed_and_narrowed

NAMES = st.sampled_from(["a", "b"])
SCALARS: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, 1, 2.5, "", "x", "xyz"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=4
)
TYPES = st.sampled_from(["boolean", "integer", "null", "number", "string"])
LIMITS = st.dictionaries(
    st.sampled_from(
        ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"]
    ),
    st.integers(0, 2),
    max_size=1,
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            # Not True: a new optional field is compatible with an open object on purpose.
            "additionalProperties": st.just(False) | inner,
        },
        optional={"required": st.lists(NAMES, unique=True, max_size=1)},
    )


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tuples = st.fixed_dictionaries(
        {"type": st.just("array"), "items": st.lists(inner, min_size=1, max_size=2)},
        optional={"additionalItems": st.just(False) | inner},
    )
    return st.fixed_dictionaries({"type": st.just("array"), "items": inner}) | tuples


LEAVES = (
    st.builds(lambda kind, limits: {"type": kind, **limits}, TYPES, LIMITS)
    | st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3))
    | st.builds(lambda value: {"const": value}, SCALARS)
    | st.just({})
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        _objects(inner)
        | _arrays(inner)
        | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2))
    ),
    max_leaves=4,
)


def valid(schema: Any, value: Any) -> bool:
    return jsonschema.Draft7Validator(schema).is_valid(value)


def changes(old: Any, new: Any) -> list[tuple[str, str]]:
    return removed_and_narrowed(Schemas(old, new), old, new)


@settings(max_examples=1000)
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=5, max_size=10))
def test_silence_can_be_trusted(old: Any, new: Any, values: list[Any]) -> None:
    """If no change is named, the new schema allows every value that the old one allows."""
    if not changes(old, new):
        assert all(valid(new, value) for value in values if valid(old, value))


@given(SCHEMAS)
def test_a_schema_is_compatible_with_itself(schema: Any) -> None:
    """A schema is compatible with itself."""
    assert changes(schema, schema) == []


OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": True}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ({"type": "integer"}, {"type": "number"}, []),
        ({"type": "number"}, {"type": "integer"}, [("", "type narrowed: number is no longer accepted")]),
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            {"type": "string"},
            [("", "type narrowed: null is no longer accepted")],
        ),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, []),
        ({"enum": ["a", "b"]}, {"enum": ["b", "c"]}, [("", 'values removed: ["a"]')]),
        ({"enum": ["a"]}, {"type": "string"}, []),
        ({"type": "string"}, {"const": "a"}, [("", 'values narrowed: only ["a"] are accepted')]),
        ({"type": "string"}, {"type": "string", "maxLength": 5}, [("", "maxLength tightened: none -> 5")]),
        ({"type": "integer", "minimum": 1}, {"type": "integer", "minimum": 0}, []),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}, [("", "minimum tightened: 0 -> 1")]),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 0}, []),
        ({"type": "integer", "maximum": 4}, {"type": "integer", "exclusiveMaximum": 5}, []),
        (
            {"type": "integer", "minimum": 0},
            {"type": "integer", "exclusiveMinimum": 0},
            [("", "exclusiveMinimum tightened: none -> 0")],
        ),
        ({"type": ["integer", "null"]}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, []),
        ({"type": "string"}, {"type": "string", "format": "date"}, [("", 'format changed: null -> "date"')]),
        ({"type": "string", "pattern": "a"}, {"type": "string"}, []),
        (OBJECT, {"type": "object"}, [("n", "field removed")]),
        (OBJECT, {**OBJECT, "required": ["n"]}, [("n", "field became required")]),
        (OBJECT, {**OBJECT, "required": ["m"]}, [("m", "required field added")]),
        (OBJECT, {**OBJECT, "properties": {**OBJECT["properties"], "m": {"type": "string"}}}, []),  # type: ignore[dict-item]
        (
            OBJECT,
            {**OBJECT, "additionalProperties": False},
            [("", "fields that are not declared are no longer accepted")],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
            [("a", "type narrowed: integer is no longer accepted")],
        ),
        (
            {"type": "object"},
            {"allOf": [{"type": "object", "required": ["a"]}, {"required": ["b"]}]},
            [("a", "required field added"), ("b", "required field added")],
        ),
        ({"const": 1}, {"const": True}, [("", "values removed: [1]")]),
        (
            {"type": "array", "items": OBJECT},
            {"type": "array", "items": {"type": "object"}},
            [("[].n", "field removed")],
        ),
        (
            {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]},
            {"type": "array", "items": [{"type": "integer"}, {"type": "integer"}]},
            [("[1]", "type narrowed: string is no longer accepted")],
        ),
        ({"type": "string", "title": "A"}, {"type": "string", "title": "B", "description": "b"}, []),
        ({"type": "string"}, {"type": "string", "not": {"const": "a"}}, [("", 'not changed: null -> {"const": "a"}')]),
    ],
)
def test_each_change_is_named_in_one_line(old: Any, new: Any, named: list[tuple[str, str]]) -> None:
    """Each restriction is named in one line with its place; a schema that only allows more names none."""
    assert changes(old, new) == named


def test_a_schema_may_refer_to_itself() -> None:
    """A recursive schema is compared, and a removed field in it is named."""

    def tree(field: str) -> dict[str, Any]:
        node = {"type": "object", "properties": {field: {}, "below": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
        return {"$ref": "#/$defs/n", "$defs": {"n": node}}

    assert changes(tree("a"), tree("a")) == []
    assert ("a", "field removed") in changes(tree("a"), tree("b"))
