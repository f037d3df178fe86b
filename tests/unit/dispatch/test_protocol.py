"""The hand-off protocol: what one side encodes the other decodes, also in another release."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.dispatch.protocol import (
    Alive,
    Closed,
    Done,
    Message,
    Open,
    Publish,
    Released,
    Remaining,
    Task,
    Version,
    Waiting,
    decode,
    encode,
)

NUMBERS = st.integers(1)
TEXTS = st.text()
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Task, NUMBERS, TEXTS, TEXTS, TEXTS, st.one_of(TEXTS, st.lists(TEXTS)), st.dictionaries(TEXTS, st.integers())
    ),
    st.builds(Version, NUMBERS),
    st.builds(Open, NUMBERS, st.lists(TEXTS)),
    st.builds(Remaining, NUMBERS, st.lists(NUMBERS)),
    st.builds(Waiting, NUMBERS),
    st.builds(Done, NUMBERS),
    st.builds(Released, NUMBERS),
    st.sampled_from([Closed(), Publish(), Alive()]),
)


@given(MESSAGES, st.lists(st.integers()))
def test_a_message_arrives_as_it_was_sent(message: Message, added: list[int]) -> None:
    """A message is decoded as it was encoded, also with additional fields of a later release."""
    line = json.loads(json.dumps([*encode(message), *added]))
    decoded = decode(line)
    assert type(decoded) is type(message)
    assert decoded == message


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda values: st.lists(values) | st.dictionaries(TEXTS, values)
)


@given(st.lists(JSON))
def test_a_line_of_an_unknown_kind_is_skipped(line: list[Any]) -> None:
    """A line of an unknown kind is skipped, whatever its fields are."""
    assert decode(["unknown", *line]) is None
    assert decode([None, *line]) is None
    assert decode([line]) is None
    assert decode([]) is None


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Task(1, "id", "name", "(shown,)", "text", {"a": 1}), ["task", 1, "id", "name", "(shown,)", "text", {"a": 1}]),
        (Open(12, ["celery"], ["a"], 2), ["open", 12, ["celery"], ["a"], 2]),
        (Publish(), ["publish"]),
        (Closed(), ["closed"]),
        (Waiting(1), ["waiting", 1]),
        (Remaining(1, [0, 2]), ["left", 1, [0, 2]]),
        (Done(1), ["done", 1]),
        (Released(1), ["refused", 1]),
        (Alive(), ["alive"]),
        (Version(1), ["version", 1]),
    ],
    ids=str,
)
def test_the_names_on_the_wire_stay(message: Message, line: list[Any]) -> None:
    """A worker that runs during an upgrade starts the engine of the new release."""
    assert list(encode(message)) == line
    assert decode(line) == message
