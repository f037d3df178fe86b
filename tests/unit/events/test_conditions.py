"""Conditions on versions and on cls_type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from balog_celery.errors import ConfigurationError, VersionConditionError
from balog_celery.events.conditions import (
    MAX_VERSION,
    VersionCondition,
    cls_types,
    matches,
    may_match,
    parse_version,
    version_condition,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "versions.jsonl"
JUDGED = [case for line in GOLDEN.read_text().splitlines() if "match" in (case := json.loads(line))]


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: f"{case['condition']} {case['schema']}")
def test_every_verdict_of_the_original_is_kept(case: dict[str, str]) -> None:
    """A condition and a version that the original could compare give the same result."""
    assert VersionCondition(case["condition"])(Version(case["schema"])) is case["match"]


def test_there_are_golden_verdicts() -> None:
    """The table of the original's results is not empty."""
    assert len(JUDGED) > 150


@pytest.mark.parametrize("text", ["", "1.0", "=1.0", "<>1.0", ">>1.0", "<", ">=", "==*", ">=1.x", "===1.0", "<1.0,", 5])
def test_a_condition_that_cannot_be_read_is_an_error(text: str) -> None:
    """The error for an unreadable condition names it and shows how to write one."""
    with pytest.raises(VersionConditionError, match=r"bad version condition .*>=1\.0,<2\.0"):
        VersionCondition([text])


@pytest.mark.parametrize(
    ("condition", "version", "matches"),
    [
        (">=1.0,<2.0", "1.5", True),
        (">=1.0,<2.0", "2.0", False),
        ("~=1.2", "1.9", True),
        ("~=1.2", "2.0", False),
        ("==1.*", "1.7rc1", True),
        ("!=1.0", "1.0.0", False),
        (" >= 1.0 ", "1", True),
        ("<1.0", "1.0.dev1", True),
        (">1.0", "1.0.post1", True),
    ],
)
def test_conditions_that_the_original_did_not_know(condition: str, version: str, matches: bool) -> None:
    """Several conditions in one text, PEP 440's operators, and spaces are read."""
    assert VersionCondition(condition)(Version(version)) is matches


def test_several_conditions_must_all_hold() -> None:
    """All conditions of a tuple must hold."""
    condition = VersionCondition((">=1.0", "<2.0,!=1.5"))
    assert [condition(Version(text)) for text in ("0.9", "1.0", "1.5", "2.0")] == [False, True, False, False]


def test_no_condition_means_any_version() -> None:
    """None matches any version; an empty condition is a mistake."""
    assert version_condition(None) is None
    for empty in ("", (), [], [""]):
        with pytest.raises(VersionConditionError, match="it is empty"):
            version_condition(empty)


def test_a_schema_that_is_no_version_cannot_be_parsed() -> None:
    """A schema that is not a version is parsed as None, without an error."""
    assert parse_version("garbage") is None
    assert parse_version("01.0\n") == Version("1.0")


@pytest.mark.parametrize("text", ["1" * MAX_VERSION, "10" + ".0" * 99, "1+" + "a" * (MAX_VERSION - 2)])
def test_a_schema_that_is_longer_than_any_version_is_none(text: str) -> None:
    """A schema that is longer than any version is parsed as None, so it is neither compared nor cached."""
    assert parse_version(text) == Version(text)
    for more in (1, 5000, 100_000):
        assert parse_version(text + text[-1] * more) is None


@pytest.mark.parametrize("operator", ["<", "==", "!=", "~=", ">="])
def test_a_condition_on_such_a_version_is_an_error(operator: str) -> None:
    """A condition with a version that cannot be read is an error."""
    with pytest.raises(VersionConditionError, match="its version has more than 200 characters"):
        VersionCondition(f"{operator}1.{'1' * 5000}")


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), {"a", "b"}, frozenset("ab"), iter("ab"), {"a": 1, "b": 2}])
def test_cls_type_may_be_any_iterable(value: object) -> None:
    """Types may be given in any iterable."""
    assert cls_types(value) == {"a", "b"}  # type: ignore[arg-type]


def test_one_cls_type_is_a_text() -> None:
    """A text is one type, not its letters; None is any type, and an empty collection is a mistake."""
    assert cls_types("metrics") == {"metrics"}
    assert cls_types(None) is None
    with pytest.raises(ConfigurationError, match="it names no type"):
        cls_types(())


def test_a_trailing_star_is_a_prefix() -> None:
    """A trailing star matches a prefix; a star elsewhere is an error at decoration."""
    assert cls_types(["aws.s3.ObjectCreated:*", "*"]) == {"aws.s3.ObjectCreated:*", "*"}
    for wrong in ("*.created", "a*b", "**"):
        with pytest.raises(ConfigurationError, match=r"bad cls_type '.*': '\*' can only be its last character"):
            cls_types(wrong)


@pytest.mark.parametrize("value", ["", [""], [1], 5, ["a", None]])
def test_a_bad_cls_type_is_an_error(value: object) -> None:
    """A bad cls_type is an error at decoration."""
    with pytest.raises(ConfigurationError, match="bad cls_type"):
        cls_types(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "condition", [">2,<1", "<1,>=1", ">1.0,<1.0", "==1.*,==2.*", "~=1.2,<1.2", "==1.0,!=1.0", "==1.*,!=1.*", "<0.dev0"]
)
def test_a_condition_that_no_version_meets_is_known(condition: str) -> None:
    """A contradictory condition is recognised."""
    assert not VersionCondition(condition).possible()


@pytest.mark.parametrize(
    "condition",
    [
        ">1,<2",
        ">=1,<=1",
        ">1.0,<1.0.1",
        "!=1.*,<1.0.post1",
        "~=1.2,!=1.2",
        "==1.*,>1.9999",
        "<0.1",
        ">1!0",
        ">1a1,<1a2",
    ],
)
def test_a_condition_that_some_version_meets_is_not_blamed(condition: str) -> None:
    """A condition that some version meets is not reported, however narrow it is."""
    assert VersionCondition(condition).possible()


_release = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
_versions = st.builds(str.__add__, _release, st.sampled_from(["", "", "a1", "rc2", ".post1", ".dev3"]))
_parts = st.one_of(
    st.builds(str.__add__, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _versions),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), _release),
    st.builds("~={}.{}".format, _release, st.integers(0, 3)),
)


@given(st.lists(_parts, min_size=1, max_size=4), _versions)
def test_what_a_version_meets_is_possible(parts: list[str], version: str) -> None:
    """A condition that some version meets is possible."""
    condition = VersionCondition(parts)
    assert not condition(Version(version)) or condition.possible()


def test_a_condition_says_which_of_its_parts_fail() -> None:
    """The failing parts of a condition are returned as they were written."""
    assert VersionCondition(">=1.0,<2.0,!=3").failing(Version("3")) == ("<2.0", "!=3")


_TYPES = st.text("ab", max_size=3)


@given(_TYPES.map(lambda text: text or "a"), _TYPES.map("{}*".format) | _TYPES.map(lambda text: text or "a"), _TYPES)
def test_two_conditions_may_match_if_a_type_meets_both(one: str, other: str, cls_type: str) -> None:
    """Whichever of them is a prefix."""
    for first, second in ((one, other), (other, one), (other, other)):
        stems = first.removesuffix("*"), second.removesuffix("*"), cls_type
        meets_both = any(matches(first, stem) and matches(second, stem) for stem in stems)
        assert may_match(first, second) or not meets_both
        assert not may_match(first, second) or any(matches(first, stem) and matches(second, stem) for stem in stems[:2])
