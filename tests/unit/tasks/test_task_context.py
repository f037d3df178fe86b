"""The context of a task that was handed over, in its message's properties."""

from __future__ import annotations

from celery.app.task import Context
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.tasks.context import HandOffContext


@given(st.floats(0, 1e12), st.lists(st.text()), st.none() | st.text())
def test_a_context_is_read_as_it_was_written(until: float, headers: list[str], failure: str | None) -> None:
    """A context is read from the message properties in the pool child and in the main process."""
    context = HandOffContext(until, tuple(headers), failure)
    properties = {"correlation_id": "i", **context.to_properties()}
    assert HandOffContext.from_properties(properties) == context
    assert HandOffContext.of(Context({"properties": properties})) == context


def test_a_task_from_a_broker_has_none() -> None:
    """A task from a broker, or called without a worker, has no context."""
    assert HandOffContext.from_properties({"correlation_id": "i"}) is None
    assert HandOffContext.from_properties(None) is None
    assert HandOffContext.of(Context({"properties": None})) is None
