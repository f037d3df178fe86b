"""The same error in dead letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.dead_letters.grouping import error_kind

TEMPLATES = [
    "KeyError('order {}')",
    'KeyError("order {}")',
    "ValueError('no user {} in \\'shop\\'')",
    "user {}: not found",
    "TimeoutError: no answer from {}:443",
    "the row (id)=({}) exists",
    "mail to {}@example.org bounced",
    "no item {}.",
]


@pytest.mark.parametrize("template", TEMPLATES)
@given(values=st.tuples(*[st.from_regex(r"[a-f]?[0-9]{1,9}", fullmatch=True) | st.uuids().map(str)] * 2))
def test_values_do_not_tell_errors_apart(template: str, values: tuple[str, str]) -> None:
    """Numbers, ids and UUIDs."""
    first, second = (error_kind(template.format(value)) for value in values)
    assert first == second


def test_different_errors_are_told_apart() -> None:
    """By their type and by their words, also if a name has a digit."""
    errors = [
        "ValueError('no user')",
        "KeyError('no user')",
        "ValueError('no order')",
        "S3Error('no user')",
        "EC2Error('no user')",
    ]
    assert len({error_kind(error) for error in errors}) == len(errors)
    assert error_kind("S3Error('no user 7')") == "S3Error: no user …"
    assert error_kind("") == ""
