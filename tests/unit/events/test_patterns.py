"""Patterns: the operators and semantics of Amazon EventBridge's event patterns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.errors import ConfigurationError
from balog_celery.events.decoders import auto, reader_of
from balog_celery.events.patterns import UNKNOWN, Pattern, view_of
from cpu_time import cpu_within
from engines import sample


def matches(condition: Any, value: Any) -> bool:
    """Whether *condition* on a field matches where that has *value*; ``...`` stands for a missing field."""
    return Pattern({"payload.x": condition})({"payload": {} if value is ... else {"x": value}})


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        (
            ["running"],
            ["running", ["a", "running"], [["running"]]],
            ["Running", "runn", ..., None, 1, {"running": 1}, []],
        ),
        (["a", 3, None], ["a", 3, 3.0, None, [1, 3]], ["3", True, ..., 4]),
        ([""], [""], [" ", None, ...]),
        ([True], [True, [False, True]], [1, "true", False, ...]),
        ([1], [1, 1.0], [True, "1", ...]),
        ([9007199254740993], [9007199254740993], [9007199254740992, 9007199254740992.0]),
        ([{"exists": True}], ["", None, 0, ["a"]], [..., {"a": 1}, []]),
        ([{"exists": False}], [..., {"a": 1}, []], ["", None, 0]),
        ([{"prefix": "a"}], ["a", "ab", ["b", "ab"]], ["A", "ba", 1, None, ...]),
        ([{"prefix": {"equals-ignore-case": "Ab"}}], ["aBc"], ["bab", ...]),
        ([{"suffix": ".png"}], ["a.png"], ["a.PNG", ".png.", ...]),
        ([{"suffix": {"equals-ignore-case": ".PNG"}}], ["a.png"], ["a.pn"]),
        ([{"equals-ignore-case": "Alice"}], ["alice", "ALICE"], ["alic", None, ...]),
        ([{"anything-but": "a"}], ["b", "", None, 1, ["a", "b"]], ["a", ["a"], ..., {"a": 1}]),
        ([{"anything-but": ["a", 1]}], ["b", 2, "1"], ["a", 1, 1.0, ...]),
        ([{"anything-but": {"prefix": "a"}}], ["b", 1], ["a", "ab", ...]),
        ([{"anything-but": {"prefix": ["a", "b"]}}], ["c"], ["ax", "bx", ...]),
        ([{"anything-but": {"suffix": "a"}}], ["ab"], ["ba", ...]),
        ([{"anything-but": {"equals-ignore-case": ["A", "b"]}}], ["c"], ["a", "B", ...]),
        ([{"anything-but": {"wildcard": "*/lib/*"}}], ["a/b"], ["a/lib/b", ...]),
        ([{"numeric": ["=", 3]}], [3, 3.0], [4, "3", True, None, ...]),
        ([{"numeric": [">", 0, "<=", 5]}], [0.1, 5, [9, 1]], [0, 5.1, "1", ...]),
        ([{"numeric": [">=", -1.5]}], [-1.5, 10**400], [-2]),
        ([{"wildcard": "a*c"}], ["ac", "abc", "a*c", "acc"], ["abcd", "a", "xac", 1, ...]),
        ([{"wildcard": "*"}], ["", "x"], [None, ...]),
        ([{"wildcard": "*b*d"}], ["bd", "abcd", "bbdd"], ["db", "bdx"]),
        ([{"wildcard": "aa*aa"}], ["aaaa", "aabaa"], ["aaa", "aa"]),
        ([{"wildcard": r"a\*\\b"}], [r"a*\b"], [r"axx\b", "ab"]),
        ([{"prefix": "a"}, "z", {"numeric": ["<", 0]}], ["ab", "z", -1], ["b", 0]),
    ],
)
def test_a_condition(condition: Any, yes: list[Any], no: list[Any]) -> None:
    """A condition on one field holds for any value there; of an array one item is enough."""
    assert [value for value in yes if not matches(condition, value)] == []
    assert [value for value in no if matches(condition, value)] == []


def test_all_fields_must_match() -> None:
    """All fields of a pattern must match, given as paths or nested as in EventBridge."""
    for pattern in (
        {"payload.detail.state": ["running"], "payload.detail.n": [1], "header.channel": [{"prefix": "aws"}]},
        {"payload": {"detail": {"state": ["running"], "n": [1]}}, "header": {"channel": [{"prefix": "aws"}]}},
        {"payload.detail": {"state": ["running"], "n": [1]}, "header.channel": [{"prefix": "aws"}]},
    ):
        view = {"payload": {"detail": {"state": "running", "n": 1}}, "header": {"channel": "aws.ec2"}}
        assert Pattern(pattern)(view)
        assert not Pattern(pattern)({**view, "header": {"channel": "other"}})
        assert not Pattern(pattern)({**view, "payload": {"detail": {"state": "running"}}})
        assert not Pattern(pattern)({**view, "payload": {"detail": 3}})


def test_one_of_several_patterns_must_match_with_or() -> None:
    """One of the patterns of ``$or`` must match, at the top or deeper, besides all other fields."""
    top = Pattern({"payload.a": [1], "$or": [{"payload.b": [2]}, {"payload.c": [3]}]})
    deep = Pattern({"payload": {"a": [1], "$or": [{"b": [2]}, {"c": [3]}]}})
    for pattern in (top, deep):
        assert pattern({"payload": {"a": 1, "b": 2}})
        assert pattern({"payload": {"a": 1, "c": 3}})
        assert not pattern({"payload": {"a": 1}})
        assert not pattern({"payload": {"b": 2, "c": 3}})


def test_fields_in_an_array_match_in_one_object() -> None:
    """Several fields inside an array must match in the same object."""
    pattern = Pattern({"payload.items.name": ["a"], "payload.items.size": [1]})
    assert pattern({"payload": {"items": [{"name": "b", "size": 1}, {"name": "a", "size": 1}]}})
    assert not pattern({"payload": {"items": [{"name": "a", "size": 2}, {"name": "b", "size": 1}]}})
    assert Pattern({"payload.items.name": [{"exists": False}]})({"payload": {"items": []}})


def test_keys_with_dots_are_nested() -> None:
    """Below the top level a key with dots is one key, not a path."""
    pattern = Pattern({"payload.labels": {"app.kubernetes.io/name": ["a"]}})
    assert pattern({"payload": {"labels": {"app.kubernetes.io/name": "a"}}})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ({}, "bad where={}"),
        ([], r"bad where=\[\]"),
        ({"detail.state": ["a"]}, "'detail' is none of payload, header, schema, attributes"),
        ({"payload.a": "a"}, "payload.a: give a list of values"),
        ({"payload.a": []}, "payload.a: give a list of values"),
        ({"payload.a": {}}, "it is empty|give a list"),
        ({"payload.a": [{}]}, "payload.a: give a text"),
        ({"payload.a": [[1]]}, "payload.a: give a text"),
        ({"payload.a": [float("nan")]}, "payload.a: give a text"),
        ({"payload.a": [{"prefx": "a"}]}, "the operators are anything-but"),
        ({"payload.a": [{"prefix": "a", "suffix": "b"}]}, "payload.a: give a text"),
        ({"payload.a": [{"prefix": 1}]}, "prefix takes a text"),
        ({"payload.a": [{"suffix": ""}]}, "suffix takes a text"),
        ({"payload.a": [{"exists": "yes"}]}, "exists takes"),
        ({"payload.a": [{"numeric": [">"]}]}, "numeric takes"),
        ({"payload.a": [{"numeric": ["~", 3]}]}, "numeric takes"),
        ({"payload.a": [{"numeric": [[], 3]}]}, "numeric takes"),
        ({"payload.a": [{"numeric": [">", "3"]}]}, "numeric takes"),
        ({"payload.a": [{"wildcard": "a**b"}]}, "two '\\*' in a row"),
        ({"payload.a": [{"wildcard": r"a\b"}]}, "a backslash"),
        ({"payload.a": [{"anything-but": []}]}, "anything-but takes"),
        ({"payload.a": [{"anything-but": {"exists": True}}]}, "anything-but takes"),
        ({"payload.a": [{"anything-but": [[1]]}]}, "anything-but takes"),
        ({"payload.a": [{"equals-ignore-case": 1}]}, "equals-ignore-case takes"),
        ({"payload..a": [1]}, "bad path 'payload..a'"),
        ({3: [1]}, "bad path 3"),
        ({"payload.a": [1], "payload": {"a": [2]}}, "two conditions for 'a'"),
        ({"payload.a": [1], "payload.a.b": [2]}, "another condition|two conditions"),
        ({"payload.a.b": [1], "payload.a": [2]}, "two conditions for 'a'"),
        ({"$or": []}, r"bad \$or|give a list|bad where"),
        ({"payload": {"$or": [3]}}, r"bad \$or"),
    ],
)
def test_a_bad_pattern_is_an_error_where_it_is_made(pattern: Any, text: str) -> None:
    """A bad pattern is an error where it is made, and names the cause."""
    with pytest.raises(ConfigurationError, match=text):
        Pattern(pattern)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3),
    max_leaves=10,
)


@given(document=JSON, condition=st.sampled_from(["a", 1, None, True, {"anything-but": "a"}, {"numeric": ["<", 2]}]))
def test_any_document_matches_or_not(document: Any, condition: Any) -> None:
    """For any document the pattern matches, or each mismatch has a reason on one line."""
    pattern = Pattern({"payload.a.b": [condition], "payload.x": [{"exists": False}]})
    failing = pattern.failing({"payload": document})
    assert bool(failing) is not pattern({"payload": document})
    assert all(reason.isprintable() for reason in failing)


@given(pieces=st.lists(st.text("ab", max_size=3), min_size=2, max_size=4), text=st.text("ab", max_size=10))
def test_a_wildcard_is_what_a_regular_expression_says(pieces: list[str], text: str) -> None:
    """A wildcard matches what the equivalent regular expression matches."""
    import re

    if "" in pieces[1:-1]:
        return
    assert matches([{"wildcard": "*".join(pieces)}], text) == bool(re.fullmatch(".*".join(pieces), text))


def test_a_hostile_text_does_not_keep_a_wildcard_busy() -> None:
    """A hostile text does not slow a wildcard down, as it would a regular expression with ten stars."""
    with cpu_within(1.0):
        assert not matches([{"wildcard": "*".join(["a"] * 10) + "*c*b"}], "a" * 1_000_000 + "b")


def test_what_does_not_match_says_why() -> None:
    """Each field that does not match is named with its value."""
    pattern = Pattern({"payload.detail.state": ["running"], "payload.n": [{"numeric": [">", 3]}], "payload.o": ["x"]})
    view = {"payload": {"detail": {"state": "stopped"}, "o": {}}}
    assert pattern.failing(view) == [
        "payload.detail.state is 'stopped', not 'running'",
        'payload.n is missing, not {"numeric": [">", 3]}',
        "payload.o is an object, not 'x'",
    ]


def test_attributes_that_are_not_known_refuse_nothing() -> None:
    """Conditions on unknown attributes do not refuse an event, such as a replayed dead letter."""
    pattern = Pattern({"attributes.tenant": ["a"], "payload.n": [1]})
    assert pattern({"attributes": UNKNOWN, "payload": {"n": 1}})
    assert pattern.failing({"attributes": UNKNOWN, "payload": {"n": 2}}) == ["payload.n is 2, not 1"]


def test_the_view_of_an_event() -> None:
    """The view of an event has payload, header, schema, and message attributes of SQS and SNS."""
    given = {
        "tenant": {"Type": "String", "Value": "a"},
        "raw": {"Type": "Binary", "Value": "AQI="},
        "tags": {"Type": "String.Array", "Value": '["x", 3]'},
        "bad": {"Type": "Binary", "Value": "!"},
        "worse": {"Type": "String.Array", "Value": "[" * 100_000},
        "none": "a",
    }
    body = json.dumps({**json.loads(sample("sns-s3")), "MessageAttributes": given})
    ((event, _),) = reader_of(auto)(body)
    view = view_of(event, {"own": "b"})
    assert view["attributes"] == {"tenant": "a", "raw": b"\x01\x02", "tags": ["x", 3], "own": "b"}
    assert view["payload"]["s3"]["bucket"]["name"] == view["header"]["channel"]
    assert (view["schema"], view["header"]["decoder"]) == ("2.1", "s3")
    assert view["header"]["context"]["sns"]["TopicArn"] == json.loads(body)["TopicArn"]
