"""The fault benchmark with rarer faults and other pools, on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runs import ended, kinds, right, run

#: What must have gone wrong at least once where no process of ours is killed.
OTHER_FAULTS = {
    "backend_frozen",
    "backend_killed",
    "nonsense_done",
    "nonsense_not_done",
    "queue_deleted",
}


@pytest.mark.timeout(330)
def test_no_event_is_lost_when_others_go_away_or_make_no_sense(tmp_path: Path) -> None:
    """No event is lost with a failing result backend, BaseExceptions, deleted bindings and foreign answers."""
    given = ["--faults", "backend,base-exceptions,queue-deleted,nonsense"]
    code, figures = run(tmp_path, *given, "--events", "300", "--seed", "1", "--grace", "90", seconds=280)
    assert kinds(figures) >= OTHER_FAULTS
    # These fail however often they are run, so each of their events is a dead letter, and never nothing.
    assert figures["dead_by"].keys() >= {"exiting", "hanging", "raising", "rejecting", "stubborn", "together"}
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert figures["hangs"] is None
    assert right(figures)
    assert ended(figures) == figures["expected"]
    assert code == 0


@pytest.mark.timeout(330)
@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        (
            "slow,permissions,credentials,clock,fifo,memory",
            {"slow", "hanging", "denied_DeleteMessage", "denied_ChangeMessageVisibility", "clock_jumped"},
        ),
        (
            "stopped,replaced,autoscale,broker-emptied,fifo",
            {"engine_stopped", "worker_stopped", "worker_replaced", "broker_emptied"},
        ),
        (
            "dns,disk,versions,pauses,fifo",
            {"names_failed", "disk_full", "engine_of_another_release", "worker_of_another_release", "versions_mixed"}
            | {"rate_limit", "cancel_consumer", "add_consumer"},
        ),
    ],
    ids=["sqs", "processes", "machine"],
)
def test_no_event_is_lost_or_disordered_under_harder_faults(tmp_path: Path, faults: str, wanted: set[str]) -> None:
    """No event is lost or out of order with slow calls, stops, failing names, a full disk, or mixed releases."""
    code, figures = run(tmp_path, "--faults", faults, "--events", "300", "--seed", "1", "--grace", "60", seconds=280)
    assert kinds(figures) >= wanted
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert ended(figures) == figures["expected"]
    assert right(figures)
    assert code == 0


@pytest.mark.timeout(330)
def test_no_event_is_lost_with_a_pool_of_greenlets(tmp_path: Path) -> None:
    """No event is lost or out of order with gevent whose processes are killed."""
    given = ["--pool", "gevent", "--faults", "processes,sqs,fifo", "--events", "300", "--seed", "1", "--grace", "60"]
    code, figures = run(tmp_path, *given, seconds=280)
    assert kinds(figures) >= {"engine_killed", "worker_killed", "worker_terminated", "group_killed"}
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert ended(figures) == figures["expected"]
    assert right(figures)
    assert code == 0
