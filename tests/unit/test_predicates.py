"""Version conditions and cls_type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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
