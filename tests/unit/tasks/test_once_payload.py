"""``once``: the same id with another payload is another event, and is never skipped in silence."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.tasks.idempotency import digest_of
from balog_celery.testing import ConsumerHarness
from sample_events import event_text

CONSUMER = """
from balog_celery.consumers import consumer_config

@consumer_config("t", once=True, autoretry_for=(Exception,), max_retries=5)
def f(event):
    return event["payload"]["n"]
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConsumerHarness]:
    """With a consumer that has ``once``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "once_payload.py").write_text(CONSUMER)
    yield ConsumerHarness("once_payload")
    sys.modules.pop("once_payload", None)


def test_the_same_id_with_another_payload_is_a_dead_letter(
    harness: ConsumerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """And a warning; the same payload is skipped, however its keys are ordered."""
    # Given
    first = event_text("LG1", "order", n=1, m=2)
    assert harness.feed(first)["f"].result == 1
    # When
    reordered = json.loads(first)
    reordered["payload"] = dict(reversed(reordered["payload"].items()))
    again, other = harness.feed(json.dumps(reordered)), harness.feed(event_text("LG1", "order", n=3), throw=False)
    # Then
    assert (again["f"].skipped, again.dead_letters) == (True, [])
    (letter,) = other.dead_letters
    assert "with the id LG1 and another payload" in letter.error
    assert (json.loads(letter.body)["payload"]["n"], other["f"].retries) == (3, ())
    assert any("with the id LG1 and another payload" in record.message for record in caplog.records)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_an_event_with_a_byte_order_mark_is_processed(
    harness: ConsumerHarness, capfd: pytest.CaptureFixture[str]
) -> None:
    """What can be read has a digest."""
    assert digest_of("\ufeff" + event_text("x")) == digest_of(event_text("x"))


@given(JSON, JSON)
def test_payloads_have_one_digest_only_if_they_are_equal(one: object, other: object) -> None:
    """Of any JSON."""
    digests = [digest_of(json.dumps({"payload": payload})) for payload in (one, other)]
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digests[0] == digests[1]) == same
