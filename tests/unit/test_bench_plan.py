"""The benchmark of ``balog plan``: real workers and simulated ones are the same, and no result hides another."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, whose modules are found from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_plan")


def test_each_case_has_a_name_of_its_own(bench: Any) -> None:
    """The results of two cases are not written under one name."""
    for cases in (bench.CASES, bench.WAYS):
        assert len({case.name for case in cases}) == len(cases)


def test_each_way_of_events_is_compared_with_one_and_two_workers(bench: Any) -> None:
    """Hand-off has 1, 2 and 4 workers; batches, chunks, FIFO topics and published tasks have 1 and 2."""
    workers: dict[str, set[int]] = {}
    for case in bench.CASES:
        if case.seconds:
            workers.setdefault(case.what, set()).add(case.workers)
    assert workers.pop("hand-off") == {1, 2, 4}
    assert {what.split()[0] for what in workers} == {"batches", "chunks", "10", "publish,"}
    assert all(counts == {1, 2} for counts in workers.values())
