"""Control commands, events and limits, tried with a worker whose pool is busy, and what it tells when it ends."""

from __future__ import annotations

import time
from signal import SIGTERM

from compatibility_checks import Checks, adder
from compatibility_lab import Lab

CONTROL: Checks = []
tries = adder(CONTROL)


@tries("task-received, task-started, task-succeeded")
def events_of_a_success(lab: Lab) -> None:
    has_events(lab, "answers", {"task-received", "task-started", "task-succeeded"})


@tries("task-retried")
def events_of_a_retry(lab: Lab) -> None:
    has_events(lab, "flaky", {"task-retried", "task-succeeded"})


@tries("task-failed")
def events_of_a_failure(lab: Lab) -> None:
    has_events(lab, "in_vain", {"task-failed"})


def has_events(lab: Lab, name: str, kinds: set[str]) -> None:
    """Check that there were events of the task of a consumer."""
    task_id = lab.task_of(name)
    lab.until(lambda: kinds <= lab.kinds(task_id), f"{kinds} of {name}")


@tries("worker-heartbeat")
def a_heartbeat(lab: Lab) -> None:
    lab.until(lambda: any(event["type"] == "worker-heartbeat" for event in list(lab.events)), "a heartbeat")


@tries("inspect ping")
def ping(lab: Lab) -> None:
    assert lab.ask("ping") == {"ok": "pong"}


@tries("inspect registered")
def registered(lab: Lab) -> None:
    assert any(name.startswith("features.base.answers") for name in lab.ask("registered"))


@tries("inspect stats")
def stats(lab: Lab) -> None:
    assert lab.ask("stats")["total"]["features.base.answers"] == 1


@tries("inspect conf")
def conf(lab: Lab) -> None:
    assert lab.ask("conf")["balog_dispatch"] == lab.dispatch


@tries("inspect active_queues")
def active_queues(lab: Lab) -> None:
    names = {queue["name"] for queue in lab.ask("active_queues")}
    assert {lab.queue, f"{lab.topic.name}-other"} <= names
    assert f"{lab.topic.name}-excluded" not in names


@tries("inspect report")
def report(lab: Lab) -> None:
    assert "balog_dispatch" in str(lab.ask("report"))


@tries("inspect scheduled")
def scheduled(lab: Lab) -> None:
    task_id = lab.task_of("patient")
    lab.until(lambda: task_id in str(lab.ask("scheduled")), "the retry")


@tries("rate_limit=...")
def a_rate_limit(lab: Lab) -> None:
    lab.send("limited", count=2)
    is_limited(lab, "limited")


@tries("control rate_limit")
def a_rate_limit_of_later(lab: Lab) -> None:
    assert "ok" in lab.ask("rate_limit", task_name="features.routes.limited_later", rate_limit="1/h")
    lab.send("limited_later", count=2)
    is_limited(lab, "limited_later")


def is_limited(lab: Lab, name: str) -> None:
    """Check that one task of a consumer has run, and the others wait."""
    for number in range(2):
        lab.until_received(name, f"{name}-{number}")
    lab.send_as(f"after-{name}", "quick")
    lab.until_noted("quick", f"after-{name}")
    lab.until_noted(name)
    assert len(lab.noted(name)) == 1


@tries("control time_limit")
def a_time_limit_of_later(lab: Lab) -> str | None:
    lab.send_as("before", "limited_in_time", seconds=0)
    lab.until_noted("outlived", "before")
    assert "ok" in lab.ask("time_limit", task_name="features.routes.limited_in_time", soft=1, hard=500)
    lab.send_as("later", "limited_in_time", seconds=4)
    lab.until(lambda: "later" in lab.dead() or lab.noted("outlived", "later"), "the end")
    return None if "later" in lab.dead() else "Celery changes the limits of no task that was published"


@tries("-O fair")
def short_tasks_pass_a_long_one(lab: Lab) -> None:
    with lab.holding("fair"):
        lab.send("quick", count=10)
        lab.until_noted("quick", count=10)


@tries(
    "-c 2",
    "inspect active",
    "task_track_started",
    "inspect reserved",
    "inspect query_task",
    "expires=...",
    "revoke",
    "inspect revoked",
    "task_revoked",
    "task-revoked",
)
def a_busy_pool(lab: Lab) -> None:
    with lab.holding("busy-0", "busy-1"):
        task_id = lab.task_of("hold", "busy-0")
        assert {task["id"] for task in lab.ask("active")} == {lab.task_of("hold", f"busy-{n}") for n in range(2)}
        lab.until(lambda: lab.app.AsyncResult(task_id).state == "STARTED", "the state")
        lab.send_as("waits", "quick")
        lab.send_as("revoked", "quick")
        lab.send("expires")
        waits, revoked = lab.until_received("quick", "waits"), lab.until_received("quick", "revoked")
        # One that is received too late is revoked at once, and not told as received.
        lab.until(lambda: lab.received("expires", "expires-0") or has_expired(lab), "the one that expires")
        lab.until(lambda: {waits, revoked} <= {task["id"] for task in lab.ask("reserved")}, "the reserved")
        assert lab.ask("query_task", ids=[waits])[waits][0] == "reserved"
        lab.ask("revoke", task_id=revoked)
        assert revoked in lab.ask("revoked")
        received = time.monotonic()
        lab.until(lambda: time.monotonic() - received > 0.5, "the expiry")
    lab.until_noted("quick", "waits")
    lab.until(lambda: "task-revoked" in lab.kinds(revoked), "the revoked task")
    lab.until(lambda: has_expired(lab), "the expired task")
    lab.until_noted("signal task_revoked", "features.base.quick")
    assert not lab.noted("quick", "revoked")
    assert not lab.noted("expires")


def has_expired(lab: Lab) -> bool:
    """Return whether the worker has revoked the task whose time was over."""
    return bool(lab.noted("signal task_revoked", "features.ends.expires"))


@tries("revoke(terminate=True)")
def terminate(lab: Lab) -> None:
    with lab.holding("survives"):
        lab.send_as("terminated", "hold")
        lab.until_noted("hold", "terminated")
        task_id = lab.task_of("hold", "terminated")
        lab.ask("revoke", task_id=task_id, terminate=True, signal="SIGKILL")
        lab.until(lambda: "task-revoked" in lab.kinds(task_id), "the terminated task")
    assert not lab.noted("held", "terminated")


@tries("--max-memory-per-child")
def a_large_child_is_replaced(lab: Lab) -> None:
    lab.send("eats")
    (eaten,) = lab.until_noted("eats")
    lab.until(
        lambda: eaten["pid"] in {entry["pid"] for entry in lab.noted("signal worker_process_shutdown")},
        "the end of the child",
    )


@tries("--max-tasks-per-child")
def children_are_replaced(lab: Lab) -> None:
    before = len(lab.noted("quick"))
    lab.send("quick", count=100)
    entries = lab.until_noted("quick", count=before + 100)[before:]
    pids = [entry["pid"] for entry in entries]
    assert max(map(pids.count, pids)) <= 40


@tries("pool_grow")
def grow(lab: Lab) -> None:
    assert "ok" in lab.ask("pool_grow", n=1)
    with lab.holding("grown-0", "grown-1", "grown-2"):
        pass


@tries("pool_shrink")
def shrink(lab: Lab) -> None:
    assert "ok" in lab.ask("pool_shrink", n=1)
    with lab.holding("shrunk-0", "shrunk-1"):
        lab.send_as("shrunk-2", "quick")
        task_id = lab.until_received("quick", "shrunk-2")
        lab.until(lambda: task_id in {task["id"] for task in lab.ask("reserved")}, "the one that waits")
        assert not lab.noted("quick", "shrunk-2")
    lab.until_noted("quick", "shrunk-2")


@tries("pool_restart")
def restart(lab: Lab) -> None:
    assert "ok" in lab.ask("pool_restart", modules=None, reload=False)
    lab.send_as("restarted", "quick")
    lab.until_noted("quick", "restarted")


@tries("-X", "add_consumer", "task_queues")
def a_queue_that_is_added(lab: Lab) -> None:
    name = f"{lab.topic.name}-excluded"
    lab.send("excluded")
    lab.until(lambda: lab.length(name) == 1, "the task on the broker")
    assert not lab.noted("excluded")
    assert "ok" in lab.ask("add_consumer", queue=name)
    lab.until_noted("excluded")
    lab.send_as("added", "excluded")
    lab.until_noted("excluded", "added")


@tries("cancel_consumer")
def a_queue_that_is_cancelled(lab: Lab) -> None:
    name = f"{lab.topic.name}-other"
    assert "ok" in lab.ask("cancel_consumer", queue=name)
    lab.until(lambda: name not in str(lab.ask("active_queues")), "the cancelled queue")
    if lab.dispatch == "hand-off":
        lab.until(lambda: "no longer consumes" in str(lab.ask("balog")), "the pause")
    lab.send_elsewhere("cancelled")
    if lab.dispatch == "publish":
        lab.until(lambda: lab.length(name) == 1, "the task on the broker")
    assert not lab.noted("cancelled")
    assert "ok" in lab.ask("add_consumer", queue=name)
    lab.until_noted("cancelled")


END: Checks = []
at_the_end = adder(END)


@at_the_end("a warm shutdown")
def sigterm(lab: Lab) -> None:
    lab.program.signal(SIGTERM)
    assert lab.program.wait(90) == 0


@at_the_end("worker_shutting_down", "worker_shutdown", "worker_process_shutdown")
def signals_of_the_end(lab: Lab) -> None:
    for name in ("worker_shutting_down", "worker_shutdown", "worker_process_shutdown"):
        lab.until_noted(f"signal {name}")


@at_the_end("before_task_publish, after_task_publish", "task-sent")
def signals_of_publishing(lab: Lab) -> str | None:
    heard = lab.noted("signal before_task_publish", "features.base.answers")
    heard = heard and lab.noted("signal after_task_publish", "features.base.answers")
    sent = any(e["type"] == "task-sent" and e["name"] == "features.base.answers" for e in lab.events)
    assert bool(heard) == sent
    return None if sent else "no broker carries the task"
