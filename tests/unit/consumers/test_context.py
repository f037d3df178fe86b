"""The context of an event in its task's headers."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers.context import EventContext, batch_headers
from balog_celery.dead_letters.original import OriginalMessage
from balog_celery.sqs.messages import TypedValue

TEXTS = st.text()
MILLISECONDS = st.integers(0, 2**53)
VALUES = st.text(min_size=1)
TYPED = st.builds(TypedValue, st.sampled_from(["Number", "String.url"]), VALUES) | st.builds(
    TypedValue, st.sampled_from(["Binary", "Binary.png"]), st.binary(min_size=1)
)
ORIGINALS = st.builds(
    OriginalMessage, TEXTS, MILLISECONDS, st.none() | TEXTS, st.dictionaries(TEXTS, VALUES | TYPED), st.booleans()
)
CONTEXTS = st.builds(
    EventContext, TEXTS, TEXTS, st.dictionaries(TEXTS, MILLISECONDS), MILLISECONDS, st.integers(0), TEXTS, ORIGINALS
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(["id", "cls_type", "first", "count"]), values),
    max_leaves=8,
)


@given(CONTEXTS)
def test_a_context_is_read_as_it_was_written(context: EventContext) -> None:
    """A context is read from headers as it was written, and other headers are ignored."""
    assert EventContext.from_headers({**context.to_headers(), "traceparent": "00-1-2-01"}) == context


@given(
    st.fixed_dictionaries(
        {}, optional={f"balog_{name}": ANYTHING for name in ("event", "times", "receives", "group", "kept", "later")}
    )
)
def test_headers_of_another_release_are_read_as_far_as_they_are_understood(headers: dict[str, Any]) -> None:
    """Unknown or malformed headers of another release get their defaults."""
    context = EventContext.from_headers(headers)
    assert isinstance(context.event_id, str)
    assert isinstance(context.cls_type, str)
    assert isinstance(context.group, str)
    assert isinstance(context.first_received, int)
    assert isinstance(context.receive_count, int)
    assert all(isinstance(time, int) for time in context.times.values())


def test_without_headers_everything_has_its_default() -> None:
    """A task without the headers, published by hand or by an earlier release, gets the defaults."""
    assert EventContext.from_headers({}) == EventContext()


def test_the_names_on_the_wire_stay() -> None:
    """Tasks wait in queues during an upgrade, and users read ``balog_times``."""
    context = EventContext("e", "log", {"emitted": 1}, 2, 3, "g", OriginalMessage("m", 4))
    assert context.to_headers() == {
        "balog_event": {"id": "e", "cls_type": "log"},
        "balog_times": {"emitted": 1},
        "balog_receives": {"first": 2, "count": 3},
        "balog_group": "g",
        "balog_kept": {"e": {"id": "m", "sent": 4}},
    }
    assert "balog_group" not in EventContext().to_headers()


def test_a_batch_has_no_headers_that_name_one_event() -> None:
    """A dead letter of another event would repeat them."""
    first = {
        **EventContext("e", "log", {"emitted": 1}, 2, 3, "g", OriginalMessage("m")).to_headers(),
        "traceparent": "00-1-2-01",
    }
    second = EventContext("f", "log", {"emitted": 2}, 2, 3, "h", OriginalMessage("n")).to_headers()
    headers = batch_headers([first, second])
    assert headers == {
        "balog_times": {"emitted": 1},
        "balog_group": "g",
        "traceparent": "00-1-2-01",
        "balog_kept": {"e": {"id": "m", "sent": 0}, "f": {"id": "n", "sent": 0}},
    }
    assert EventContext.from_headers(headers, "f").original == OriginalMessage("n")
