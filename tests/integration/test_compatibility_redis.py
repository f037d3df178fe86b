"""The compatibility table's columns of Redis: what workers show is what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from compatibility_lab import Place
from compatibility_run import cells_of

import servers
from compatibility_page import differences


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_the_table_says_what_workers_on_redis_do(
    tmp_path: Path, sqs: servers.Sqs, broker: servers.Valkey, dispatch: str
) -> None:
    """A feature that stops working for consumers, or begins to, fails until the page says so."""
    # Given
    place = Place(tmp_path, sqs, broker.url, broker.url, dispatch)
    # When
    seen = cells_of(place)
    # Then
    assert differences(f"{dispatch}, Redis", seen) == []
