"""Version conditions and cls_type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from balog_celery.consumers.predicates import VersionCondition, cls_types, parse_version, version_condition
from balog_celery.errors import ConfigurationError, VersionConditionError

GOLDEN = Path(__file__).parent.parent / "golden" / "versions.jsonl"
JUDGED = [case for line in GOLDEN.read_text().splitlines() if "match" in (case := json.loads(line))]


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: f"{case['condition']} {case['schema']}")
def test_every_verdict_of_the_original_is_kept(case: dict[str, str]) -> None:
    """A condition and a version that the original could compare give the same result here."""
    assert VersionCondition(case["condition"])(Version(case["schema"])) is case["match"]


def test_there_are_golden_verdicts() -> None:
    """The table above is not empty."""
    assert len(JUDGED) > 150


@pytest.mark.parametrize("text", ["", "1.0", "=1.0", "<>1.0", ">>1.0", "<", ">=", "==*", ">=1.x", "===1.0", "<1.0,", 5])
def test_a_condition_that_cannot_be_read_is_an_error(text: str) -> None:
    """The error names the condition and shows how one is written."""
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
    """Several conditions in one text, PEP 440's operators, and blanks are read."""
    assert VersionCondition(condition)(Version(version)) is matches


def test_several_conditions_must_all_hold() -> None:
    """A tuple of conditions means "and"."""
    condition = VersionCondition((">=1.0", "<2.0,!=1.5"))
    assert [condition(Version(text)) for text in ("0.9", "1.0", "1.5", "2.0")] == [False, True, False, False]


@pytest.mark.parametrize("nothing", [None, (), []])
def test_no_condition_means_any_version(nothing: object) -> None:
    """None and an empty collection ask for nothing."""
    assert version_condition(nothing) is None  # type: ignore[arg-type]


def test_a_schema_that_is_no_version_cannot_be_parsed() -> None:
    """It is None, not an error: an event must not stop the loop."""
    assert parse_version("garbage") is None
    assert parse_version("01.0\n") == Version("1.0")


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), {"a", "b"}, frozenset("ab"), iter("ab"), {"a": 1, "b": 2}])
def test_cls_type_may_be_any_iterable(value: object) -> None:
    """A list, a tuple, a set, an iterator, the keys of a dict."""
    assert cls_types(value) == {"a", "b"}  # type: ignore[arg-type]


def test_one_cls_type_is_a_text() -> None:
    """A text is one type, not its letters; None and an empty collection are any type."""
    assert cls_types("metrics") == {"metrics"}
    assert cls_types(None) is None
    assert cls_types(()) is None


def test_a_trailing_star_is_a_prefix() -> None:
    """Anywhere else it is an error, told at decoration."""
    assert cls_types(["aws.s3.ObjectCreated:*", "*"]) == {"aws.s3.ObjectCreated:*", "*"}
    for wrong in ("*.created", "a*b", "**"):
        with pytest.raises(ConfigurationError, match=r"bad cls_type '.*': '\*' can only be its last character"):
            cls_types(wrong)


@pytest.mark.parametrize("value", ["", [""], [1], 5, ["a", None]])
def test_a_bad_cls_type_is_an_error(value: object) -> None:
    """It is told at decoration."""
    with pytest.raises(ConfigurationError, match="bad cls_type"):
        cls_types(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "condition", [">2,<1", "<1,>=1", ">1.0,<1.0", "==1.*,==2.*", "~=1.2,<1.2", "==1.0,!=1.0", "==1.*,!=1.*", "<0.dev0"]
)
def test_a_condition_that_no_version_meets_is_known(condition: str) -> None:
    """Whatever contradicts itself."""
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
    """However small what it leaves."""
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
    """No condition is blamed that some version meets."""
    condition = VersionCondition(parts)
    assert not condition(Version(version)) or condition.possible()


def test_a_condition_says_which_of_its_parts_fail() -> None:
    """As they were written."""
    assert VersionCondition(">=1.0,<2.0,!=3").failing(Version("3")) == ("<2.0", "!=3")
