"""Text from outside in a log line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.text import brief, count_of, duration, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with spaces and 'quotes'", "plain, with spaces and 'quotes'"),
        ("Grüße, 東京", "Grüße, 東京"),
        ("one\ntwo\r\n", "one\\ntwo\\r\\n"),
        ("tab\tand\x00null", "tab\\tand\\x00null"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("next\x85line\u2028and\u2029paragraph", "next\\x85line\\u2028and\\u2029paragraph"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("half a pair \ud800", "half a pair \\ud800"),
        ("", ""),
    ],
)
def test_what_could_forge_or_break_a_line_is_escaped(text: str, shown: str) -> None:
    """Line breaks, terminal escapes and invisible characters are escaped, and other text is kept."""
    assert printable(text) == shown
    assert printable_lines(text) == shown.replace("\\n", "\n")


@pytest.mark.parametrize(("number", "text"), [(0, "0 topics"), (1, "1 topic"), (2, "2 topics")])
def test_one_has_no_plural(number: int, text: str) -> None:
    """A noun has its plural unless it is one."""
    assert count_of(number, "topic") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.05, "50 ms"), (1.25, "1.2 s"), (59, "59 s"), (150, "2 min"), (7200, "2 h"), (28_722_693, "332 d")],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    """A duration has the unit in which people say it."""
    assert duration(seconds) == text


def test_any_object_will_do() -> None:
    """Any object is shown by its ``str()``."""
    assert printable(ValueError("no\nway")) == "no\\nway"
    assert printable(None) == "None"
    assert printable(b"\n") == "b'\\n'"


def test_long_text_is_cut() -> None:
    """Long text is cut to the limit, including three dots."""
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 197 + "..."
    assert printable("abcdefghij", 5) == "ab..."


@given(st.text(max_size=50), st.integers(3, 60))
def test_whatever_comes_the_result_is_one_printable_line(text: str, limit: int) -> None:
    """The result is always one printable line, and printable text is returned unchanged."""
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode()
    if text.isprintable() and len(text) <= limit:
        assert shown == text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("refused"), "OSError: refused"),
        (ValueError("Port could not be cast to integer value as 'hunter2'"), "ValueError"),
        (UnicodeEncodeError("ascii", "hunter2", 0, 1, "no"), "UnicodeEncodeError"),
        (KeyError("redis://:hunter2@h"), "KeyError"),
        (OSError("two\nlines"), "OSError: two\\nlines"),
    ],
)
def test_an_error_in_brief_has_no_part_of_a_url(error: Exception, told: str) -> None:
    """A ValueError may be of what parses one."""
    assert brief(error) == told
