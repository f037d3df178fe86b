"""``concurrency`` of consumers: its values, and what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from balog_celery.consumers import Consumer
from balog_celery.consumers.concurrency import Concurrency
from balog_celery.errors import ConfigurationError


def process(event: dict[str, Any]) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (None, None),
        (1, Concurrency(1)),
        (2, Concurrency(2)),
        ((10, "cluster"), Concurrency(10, in_cluster=True)),
        ([10, "cluster"], Concurrency(10, in_cluster=True)),
    ],
)
def test_a_limit_is_for_each_worker_or_for_all(given: Any, limit: Concurrency | None) -> None:
    """A number is for each worker; with ``"cluster"`` it is for all."""
    assert Consumer(process, "orders", concurrency=given).limit == limit


@pytest.mark.parametrize(
    "given", [0, -1, True, "2", 2.0, (), (2, "worker"), ("cluster", 2), (0, "cluster"), (2, "cluster", 3), {}]
)
def test_a_wrong_limit_is_an_error_where_it_was_written(given: Any) -> None:
    """The error names the value, the topic and what to give."""
    with pytest.raises(ConfigurationError) as raised:
        Consumer(process, "orders", concurrency=given)
    text = str(raised.value)
    assert text.startswith(f"bad concurrency={given!r} for a consumer of 'orders': give how many may run at once")
    assert "\n" not in text
