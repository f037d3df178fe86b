"""The fault benchmark on a small scale.

No event is lost when processes are killed or frozen, and calls delayed or failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import servers
from balog_celery.pytest_plugin import missing

FAULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "faults.py"

#: What must have gone wrong at least once for a run to have shown anything.
SQS_FAULTS = {
    "delayed",
    "delivered_twice",
    "dropped_after",
    "entry_done",
    "entry_not_done",
    "outage",
}
PROCESS_FAULTS = {
    "broker_frozen",
    "broker_killed",
    "child_killed",
    "engine_killed",
    "group_killed",
    "worker_killed",
    "worker_terminated",
}
#: The same of the kinds of fault that kill no process of ours.
OTHER_FAULTS = {
    "backend_frozen",
    "backend_killed",
    "nonsense_done",
    "nonsense_not_done",
    "queue_deleted",
}


def run(folder: Path, *options: str, seconds: int) -> tuple[int, dict[str, Any]]:
    """Run the benchmark; return its exit code and its figures. All of its processes end with it."""
    figures = folder / "figures.json"
    argv = [sys.executable, FAULTS, "--json", figures, "--seconds", str(seconds), *options]
    with servers.Program(argv, env={"PYTHONPATH": None}, cwd=folder, name="faults") as program:
        code = program.wait(seconds + 30)
        print(program.output)  # shown if the test failed
    return code, json.loads(figures.read_text())


def kinds(figures: dict[str, Any]) -> set[str]:
    """The kinds of fault that there were."""
    return {
        kind.removesuffix("_ignored").removesuffix("_refused") for kind, count in figures["faults"].items() if count
    }


def right(figures: dict[str, Any]) -> bool:
    """Whether every duplicate has a cause, and every group was served in order."""
    return "unexplained" not in figures["duplicates_by_cause"] and figures["disordered"] == 0


def ended(figures: dict[str, Any]) -> int:
    """How many pairs of event and consumer have ended; in one of two ways."""
    return sum(figures["finished"].values()) + figures["dead"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("dispatch", "events", "batch"), [("hand-off", 2000, 10), ("publish", 1000, 0)])
def test_no_event_is_lost_under_faults(tmp_path: Path, dispatch: str, events: int, batch: int) -> None:
    """Under faults each event reaches every matching consumer, or is a dead letter of that consumer.

    One of the consumers of what is handed over takes batches, the others single events.
    """
    given = ["--dispatch", dispatch, "--events", str(events), "--seed", "1", "--grace", "60", "--batch", str(batch)]
    code, figures = run(tmp_path, *given, "--faults", "sqs,processes,broker", seconds=150)
    assert kinds(figures) >= SQS_FAULTS | PROCESS_FAULTS
    assert kinds(figures) & {"error_500", "error_503", "throttled"}
    assert (figures["sent"], figures["remaining"], figures["unexpected"]) == (events, 0, 0)
    if dispatch == "publish":
        # kombu's Redis transport has a gap of its own (see fallen_through in fault_brokers.py): counted, and no more.
        assert figures["lost"] == figures["lost_in_transport"]
        assert figures["lost"] <= 5
    else:
        assert figures["lost"] == 0
    assert ended(figures) + figures["lost"] == figures["expected"]
    assert (figures["batches"] > 0) == (batch > 0)
    assert right(figures)
    assert code == (1 if figures["lost"] else 0)


@pytest.mark.timeout(200)
def test_no_event_is_lost_when_others_go_away_or_make_no_sense(tmp_path: Path) -> None:
    """No event is lost with a failing result backend, BaseExceptions, deleted bindings and foreign answers."""
    given = ["--faults", "backend,base-exceptions,queue-deleted,nonsense"]
    code, figures = run(tmp_path, *given, "--events", "300", "--seed", "1", "--grace", "90", seconds=150)
    assert kinds(figures) >= OTHER_FAULTS
    # These fail however often they are run, so each of their events is a dead letter, and never nothing.
    assert figures["dead_by"].keys() >= {"exiting", "hanging", "raising", "rejecting", "stubborn", "together"}
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert figures["hangs"] is None
    assert right(figures)
    assert ended(figures) == figures["expected"]
    assert code == 0


@pytest.mark.timeout(200)
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
    code, figures = run(tmp_path, "--faults", faults, "--events", "300", "--seed", "1", "--grace", "60", seconds=150)
    assert kinds(figures) >= wanted
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert ended(figures) == figures["expected"]
    assert right(figures)
    assert code == 0


@pytest.mark.timeout(200)
@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_no_event_is_lost_with_other_pools(tmp_path: Path, pool: str) -> None:
    """No event is lost or out of order in pools of threads and greenlets whose processes are killed."""
    given = ["--pool", pool, "--faults", "processes,sqs,fifo", "--events", "300", "--seed", "1", "--grace", "60"]
    code, figures = run(tmp_path, *given, seconds=150)
    assert kinds(figures) >= {"engine_killed", "worker_killed", "worker_terminated", "group_killed"}
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert ended(figures) == figures["expected"]
    assert right(figures)
    assert code == 0


def test_a_kind_of_fault_that_never_happened_is_named(tmp_path: Path) -> None:
    """A run reports the kinds of fault that did not happen: a pool of threads has no children to kill or to replace."""
    given = ["--faults", "memory,fifo", "--pool", "threads", "--batch", "0"]
    _, figures = run(tmp_path, *given, "--events", "50", "--seed", "1", "--grace", "30", seconds=75)
    assert figures["never_happened"] == {"memory": ["hungry"]}


def test_a_duplicate_without_a_cause_is_unexplained(tmp_path: Path) -> None:
    """The benchmark can fail: a second run without a cause is reported as unexplained."""
    given = ["--faults", "memory", "--run-twice", "--batch", "0"]
    code, figures = run(tmp_path, *given, "--events", "50", "--seed", "1", "--grace", "30", seconds=75)
    assert figures["duplicates_by_cause"]["unexplained"] > 0
    assert code == 1


@pytest.mark.rabbitmq
@pytest.mark.timeout(200)
def test_no_event_is_lost_when_the_queues_of_rabbitmq_are_deleted(tmp_path: Path) -> None:
    """No event is lost although RabbitMQ confirms unroutable tasks."""
    if not servers.RabbitMQ.available():
        missing("rabbitmq-server is not installed")
    given = ["--faults", "queue-deleted", "--broker", "rabbitmq", "--dispatch", "publish", "--gap", "0.2"]
    code, figures = run(tmp_path, *given, "--events", "300", "--seed", "1", "--grace", "90", seconds=150)
    assert figures["faults"]["queue_deleted"] > 0
    assert (figures["sent"], figures["lost"], figures["remaining"], figures["unexpected"]) == (300, 0, 0, 0)
    assert code == 0


@pytest.mark.timeout(200)
def test_an_engine_that_deletes_first_loses_events(tmp_path: Path) -> None:
    """The benchmark can fail: an engine that deletes before it dispatches loses events."""
    given = ["--faults", "sqs,processes,broker", "--delete-before-dispatch"]
    code, figures = run(tmp_path, *given, "--events", "600", "--seed", "1", "--grace", "60", seconds=150)
    assert code == 1
    assert figures["lost"] - figures["lost_in_transport"] > 0
