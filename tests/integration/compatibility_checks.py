"""What consumers note when they use features of tasks: each check waits until it has seen a feature work."""

from __future__ import annotations

from collections.abc import Callable

from compatibility_lab import Lab

Check = Callable[[Lab], "str | None"]
#: Checks in their order, each with the features that it tries.
Checks = list[tuple[tuple[str, ...], Check]]


def adder(checks: Checks) -> Callable[..., Callable[[Check], Check]]:
    """Return a decorator that adds a check, with its features, to a list."""

    def tries(*features: str) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            checks.append((features, check))
            return check

        return add

    return tries


def run(checks: Checks, lab: Lab) -> dict[str, str]:
    """Return the cells of the features that *checks* try.

    A check returns nothing if all is as for an ordinary task, or why not.
    """
    cells = {}
    for features, check in checks:
        try:
            why = check(lab)
        except Exception as error:
            why = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        cells.update(dict.fromkeys(features, "yes" if why is None else f"no: {why}"))
    return cells


#: Lines of the ledger that show a feature: names, with the event's id or the words that were noted.
NOTED: dict[str, list[tuple[str, str | None]]] = {
    "soft_time_limit": [("softly", None)],
    "acks_late=False": [("early", None)],
    "a receiver that raises": [("unheard", None)],
    "bind=True": [("answers", None)],
    "compression=...": [("compressed", None)],
    "base=..., __call__": [("__call__", "features.calls.hooked")],
    "before_start": [("before_start", "features.calls.hooked")],
    "on_success": [("on_success", "features.calls.hooked")],
    "on_retry": [("on_retry", "features.calls.hooked")],
    "on_failure": [("on_failure", "features.calls.hooked")],
    "after_return": [("after_return", "SUCCESS"), ("after_return", "FAILURE")],
    "shared_task": [("shared", None)],
    "current_task": [("current", "features.calls.unbound")],
    "delay()": [("noted", "delay")],
    "group": [("noted", "group 0"), ("noted", "group 1")],
    "chain": [("noted", "3 chain")],
    "chord": [("noted", "[2, 4] chord")],
    "link": [("noted", "7 link")],
    "link_error": [("noted", "link_error")],
    "stamping": [("stamped", "t")],
    "self.replace()": [("noted", "replaced")],
    "task_serializer = 'pickle'": [("sized", "set [1, 2]")],
    "serializer yaml": [("noted", "yaml")],
    "-B": [("tick", "beat")],
    "task_annotations": [("annotation", "77")],
    "worker_init": [("signal worker_init", None)],
    "worker_ready": [("signal worker_ready", None)],
    "worker_process_init": [("signal worker_process_init", None)],
    "celeryd_after_setup": [("signal celeryd_after_setup", None)],
    "after_setup_logger": [("signal after_setup_logger", None)],
    "heartbeat_sent": [("signal heartbeat_sent", None)],
    "task_received": [("signal task_received", "features.base.answers")],
    "task_prerun": [("signal task_prerun", "features.base.answers")],
    "task_postrun": [("signal task_postrun", "features.base.answers")],
    "task_success": [("signal task_success", "features.base.answers")],
    "task_failure": [("signal task_failure", "features.ends.in_vain")],
    "task_retry": [("signal task_retry", "features.ends.flaky")],
}

#: The values of ``request.retries`` of all attempts at an event.
ATTEMPTS = {
    "autoretry_for": ("flaky", [0, 1, 2]),
    "retry_jitter, retry_backoff_max": ("jitter", [0, 1]),
    "max_retries=None": ("endless", [0, 1, 2, 3, 4, 5]),
    "self.retry()": ("retries_itself", [0, 1]),
    "Retry": ("retries_by_hand", [0, 1]),
    "Reject(requeue=True)": ("requeues", [0, 0]),
    "Ignore": ("ignores", [0]),
}

#: Consumers whose events become dead letters, and after how many attempts at least.
DEAD = {
    "max_retries": ("in_vain", 2),
    "dont_autoretry_for": ("spared", 1),
    "Reject(requeue=False)": ("rejects", 1),
    "time_limit": ("hard", 1),
    "retry_on_worker_lost": ("exits", 2),
    "a result that cannot be serialised": ("unserialisable", 1),
}

#: What the checks of tasks need, sent before the first of them.
EVENTS = [
    "answers",
    "backoff",
    "calls",
    "chosen",
    "compressed",
    "annotated",
    "early",
    "endless",
    "exits",
    "expected",
    "flaky",
    "globbed_task",
    "hard",
    "ignores",
    "in_vain",
    "jitter",
    "patient",
    "prior",
    "queued",
    "rejects",
    "replaces",
    "requests",
    "requeues",
    "retries_by_hand",
    "retries_itself",
    "returns_to_its_queue",
    "elsewhere_again",
    "routed_by_name",
    "shared",
    "soft",
    "spared",
    "unbound",
    "unheard",
    "unserialisable",
]

TASKS: Checks = []
tries = adder(TASKS)


def noted(lines: list[tuple[str, str | None]]) -> Check:
    """Return a check for lines of the ledger."""

    def check(lab: Lab) -> None:
        for name, event_id in lines:
            lab.until_noted(name, event_id)

    return check


def attempted(name: str, retries: list[int]) -> Check:
    """Return a check that there were these attempts at an event, and no others."""

    def check(lab: Lab) -> None:
        lab.until(lambda: [entry["retries"] for entry in lab.noted(name)] == retries, f"{retries} of {name}")

    return check


def died(name: str, attempts: int) -> Check:
    """Return a check that an event became a dead letter."""

    def check(lab: Lab) -> None:
        lab.until_dead(f"{name}-0")
        assert len(lab.noted(name)) >= attempts

    return check


for feature, lines in NOTED.items():
    tries(feature)(noted(lines))
for feature, (name, retries) in ATTEMPTS.items():
    tries(feature)(attempted(name, retries))
for feature, (name, attempts) in DEAD.items():
    tries(feature)(died(name, attempts))


@tries("prefork")
def runs_in_a_child(lab: Lab) -> None:
    assert lab.until_noted("answers")[0]["pid"] != lab.program.pid


@tries("retry_backoff")
def waits_before_a_retry(lab: Lab) -> None:
    first, second = lab.until_noted("backoff", count=2)
    assert second["at"] - first["at"] > 1.5, "it did not wait"


@tries("throws")
def an_expected_error_is_logged_without_a_traceback(lab: Lab) -> None:
    lab.until_dead("expected-0")
    lab.until(lambda: "raised expected: KeyError" in lab.program.output, "the line of the log")


@tries("self.retry(queue=...)")
def a_retry_may_go_elsewhere(lab: Lab) -> None:
    lab.until_noted("retried_to", f"{lab.topic.name}-other")


@tries("a published retry returns to its queue")
def a_retry_goes_where_its_task_came_from(lab: Lab) -> None:
    lab.until_noted("returned_to", f"{lab.topic.name}-other")


@tries("queue=...")
def a_consumer_has_a_queue(lab: Lab) -> None:
    goes_to_other(lab, "queue")


@tries("task_create_missing_queues")
def a_queue_is_created_for_a_consumer(lab: Lab) -> None:
    lab.send("missing")
    lab.until(lambda: lab.length(f"{lab.topic.name}-missing") == 1, "the task in a queue that no worker declares")


@tries("task_unknown")
def a_task_that_the_worker_does_not_have_is_told(lab: Lab) -> None:
    lab.app.send_task("features.nowhere", queue=lab.queue)
    lab.until_noted("signal task_unknown")


@tries("task_rejected")
def a_message_that_is_no_task_is_told(lab: Lab) -> None:
    with lab.app.connection_for_write() as connection:
        connection.Producer(serializer="json").publish({}, exchange=lab.queue, routing_key=lab.queue)
    lab.until_noted("signal task_rejected")


@tries("task_routes, a dict")
def a_dict_routes(lab: Lab) -> None:
    goes_to_other(lab, "name")


@tries("task_routes, a glob")
def a_glob_routes(lab: Lab) -> None:
    goes_to_other(lab, "glob")


@tries("task_routes, a function")
def a_function_routes(lab: Lab) -> None:
    goes_to_other(lab, "function")


def goes_to_other(lab: Lab, way: str) -> None:
    """Check that the request of a task that is routed in some way has the queue."""
    assert lab.until_noted("route", way)[0]["to"] == f"{lab.topic.name}-other"


@tries("priority=...")
def the_priority_is_in_the_request(lab: Lab) -> None:
    lab.until_noted("priority")
    assert lab.noted("priority")[0]["event"] == "7"


@tries("task_default_queue", "request.delivery_info")
def the_default_queue_is_in_the_request(lab: Lab) -> None:
    assert requests(lab)[0]["delivery_info"]["routing_key"] == lab.queue


@tries("request.id, root_id, correlation_id")
def the_task_is_the_root(lab: Lab) -> None:
    ours, ordinary = requests(lab)
    assert ours["id"] == ours["root_id"] == ours["correlation_id"]
    assert ours["parent_id"] is None
    assert (ordinary["root_id"], ordinary["parent_id"]) == (ours["id"], ours["id"])


@tries("request.hostname, timelimit, is_eager, called_directly")
def other_attributes_are_those_of_an_ordinary_task(lab: Lab) -> None:
    ours, ordinary = requests(lab)
    for name in ("hostname", "timelimit", "is_eager", "called_directly", "retries", "eta", "expires"):
        assert ours[name] == ordinary[name], name


@tries("request.headers")
def the_headers_are_those_of_an_ordinary_task(lab: Lab) -> str | None:
    ours, ordinary = requests(lab)
    missing = sorted((ordinary["headers"] or {}).keys() - (ours["headers"] or {}).keys())
    return f"no {', '.join(missing)}" if missing else None


@tries("request.argsrepr")
def the_arguments_name_the_event(lab: Lab) -> None:
    assert "requests-0" in requests(lab)[0]["argsrepr"]


def requests(lab: Lab) -> tuple[dict[str, object], dict[str, object]]:
    """Return the requests of a consumer and of an ordinary task."""
    return lab.until_noted("requested")[0], lab.until_noted("ordinary")[0]


@tries("result_backend Redis")
def the_result_is_found_by_the_id_of_the_task(lab: Lab) -> None:
    lab.until_noted("answers")
    result = lab.app.AsyncResult(lab.task_of("answers"))
    lab.until(lambda: result.state == "SUCCESS", "the result")
    assert result.result == 42


@tries("result_extended")
def the_result_tells_the_task(lab: Lab) -> None:
    result = lab.app.AsyncResult(lab.task_of("answers"))
    lab.until(lambda: result.state == "SUCCESS", "the result")
    assert (result.name, result.worker) == ("features.base.answers", lab.worker)
