"""Lone surrogates in the attributes of a message, as brokers and other servers than AWS's may deliver them."""

from __future__ import annotations

import pytest

from balog_celery.events.mark import MARK, identity, read_mark
from balog_celery.sqs.messages import OutgoingMessage, TypedValue


def test_a_message_with_them_has_a_size() -> None:
    """So that it can become a dead letter."""
    typed = TypedValue("String.\ud800", "\ud800")
    assert OutgoingMessage("\ud800", {"\ud800": "\ud800", "t": typed}).size() == 3 + 3 + 6 + 3 + 1 + 10 + 3


@pytest.mark.parametrize("text", ["\ud800", '{"message_id": "\ud800"}', "{", "5", ""])
def test_a_mark_that_cannot_be_read_is_none(text: str) -> None:
    """Nothing is raised, and the message keeps its own identity."""
    assert read_mark({MARK: text}) == {}
    assert identity("m", 5, {MARK: text}) == ("m", 5)
