"""Every way in which a task can end: its event is finished, retried, back in SQS, or a dead letter.

The ways are those of ``celery/app/trace.py`` and ``celery/worker/request.py``: what a function may do, what may be done
to it, and what may fail around it. Each is crossed with a pool, a dispatch, and what cannot be reached meanwhile.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from project import QUICK_RESTORE, Project, Start, Topic, stop

import servers
from sample_events import event_text

CONSUMERS = """
import asyncio, json, os, pathlib, signal, sys, time

import celery
from celery import signals
from celery.exceptions import Ignore, Reject, Retry
from balog_celery.errors import BatchFailure
from balog_celery.consumers import consumer_config

LEDGER = os.environ["LEDGER"]
HOLD = pathlib.Path(LEDGER).with_name("hold")


def runs(name):
    with open(LEDGER) as ledger:
        return sum(json.loads(line)["consumer"] == name for line in ledger)


def way(**options):
    def decorate(function):
        name = function.__name__

        def run(event):
            with open(LEDGER, "a") as ledger:
                ledger.write(json.dumps({"consumer": name, "event": name}) + "\\n")
            while HOLD.exists():
                time.sleep(0.02)
            return function(celery.current_task, runs(name))

        run.__name__ = run.__qualname__ = name
        options.setdefault("ignore_result", False)
        return consumer_config(topic=os.environ["TOPIC"], cls_type=name, name=name, **options)(run)

    return decorate


@way()
def returns(task, run):
    return 1


@way()
def returns_what_cannot_be_stored(task, run):
    return object()


@way()
def fails(task, run):
    raise ValueError("no")


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__("no")
        self.held = lambda: one


@way()
def fails_unpicklably(task, run):
    raise Unpicklable(1, 2)


@way()
def cancelled(task, run):
    async def wait():
        asyncio.current_task().cancel()
        await asyncio.sleep(60)

    asyncio.run(wait())


@way()
def generator_exit(task, run):
    raise GeneratorExit


class Own(BaseException):
    pass


@way()
def own_base_exception(task, run):
    raise Own


@way(autoretry_for=(Exception,), max_retries=3)
def own_base_exception_beside_autoretry(task, run):
    raise Own


@way()
def out_of_memory(task, run):
    raise MemoryError


@way(max_retries=1, default_retry_delay=0)
def exits(task, run):
    sys.exit(3)


@way(max_retries=1, default_retry_delay=0)
def interrupted(task, run):
    raise KeyboardInterrupt


@way(soft_time_limit=1, time_limit=60)
def soft_time_limit(task, run):
    time.sleep(30)


@way()
def ignored(task, run):
    raise Ignore


@way()
def rejected(task, run):
    raise Reject("no")


@way()
def requeued(task, run):
    if run == 1:
        raise Reject("again", requeue=True)


@way(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)
def retried_in_vain(task, run):
    raise ValueError


@way(max_retries=3)
def retried(task, run):
    if run == 1:
        raise task.retry(countdown=0)


@way(max_retries=3)
def retried_with_other_headers(task, run):
    if run == 1:
        raise task.retry(countdown=0, headers={"x": "y"})


@way(max_retries=3)
def retried_without_raising(task, run):
    if run == 1:
        task.retry(countdown=0, throw=False)


@way(max_retries=3)
def retry_swallowed(task, run):
    if run == 1:
        try:
            task.retry(countdown=0)
        except Retry:
            pass


class Two(Exception):
    # It can be pickled, but not unpickled.
    def __init__(self, one, two):
        super().__init__("two")


class Shy(Exception):
    def __repr__(self):
        raise ValueError("no")


@way()
def fails_without_a_repr(task, run):
    raise Shy


@way()
def rejected_with_what_cannot_be_pickled(task, run):
    raise Reject(Unpicklable(1, 2))


@way()
def rejected_with_what_cannot_be_unpickled(task, run):
    raise Reject(Two(1, 2))


@way()
def ignored_with_what_cannot_be_unpickled(task, run):
    raise Ignore(Two(1, 2))


@way(max_retries=3)
def retried_with_what_cannot_be_unpickled(task, run):
    if run == 1:
        raise task.retry(exc=Two(1, 2), countdown=0)


@way(max_retries=3)
def retried_at_no_number(task, run):
    raise task.retry(countdown=float("nan"))


@way(max_retries=3)
def retried_with_what_is_no_json(task, run):
    raise task.retry(args=(object(),))


@way()
def requeued_after_it_called_itself(task, run):
    if run == 1:
        try:
            task(task.request.args[0])
        except ValueError:
            raise Reject("again", requeue=True)
    if run == 2:
        raise ValueError("the inner call")


@way()
def ignored_while_a_receiver_aborts(task, run):
    raise Ignore


@way(max_retries=3)
def retry_by_hand(task, run):
    if run == 1:
        raise Retry("by hand", when=0)


@way(max_retries=3, default_retry_delay=0)
def retry_by_hand_at_no_time(task, run):
    if run == 1:
        raise Retry


def after_fork(*_, **__):
    raise ValueError("a receiver")


def raise_own(sender, **_):
    raise Own("a receiver")


@way()
def prerun_receiver_fails(task, run):
    pass


@way()
def postrun_receiver_aborts(task, run):
    pass


@way()
def success_receiver_aborts(task, run):
    pass


@way()
def failure_receiver_aborts(task, run):
    raise ValueError("no")


@way(max_retries=1)
def retry_receiver_aborts(task, run):
    if run == 1:
        raise task.retry(countdown=0)


def only(name, receiver):
    def receive(sender, **more):
        if sender.name.endswith("." + name):
            receiver(sender, **more)

    return receive


signals.task_prerun.connect(only("prerun_receiver_fails", after_fork), weak=False)
signals.task_postrun.connect(only("postrun_receiver_aborts", raise_own), weak=False)
signals.task_postrun.connect(only("ignored_while_a_receiver_aborts", raise_own), weak=False)
signals.task_success.connect(only("success_receiver_aborts", raise_own), weak=False)
signals.task_failure.connect(only("failure_receiver_aborts", raise_own), weak=False)
signals.task_retry.connect(only("retry_receiver_aborts", raise_own), weak=False)


if os.environ["POOL"] == "prefork":

    @way(max_retries=1, default_retry_delay=0)
    def child_exits(task, run):
        os._exit(7)

    @way(max_retries=1, default_retry_delay=0)
    def child_killed(task, run):
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ["POOL"] in ("prefork", "gevent"):

    @way(time_limit=2)
    def hard_time_limit(task, run):
        time.sleep(30)


if os.environ["POOL"] == "prefork" and not os.environ.get("BROKER_FAILS"):
    # What is acknowledged early has nobody else to remember it.

    @way(time_limit=2, acks_late=False)
    def hard_time_limit_acknowledged_early(task, run):
        time.sleep(30)

    @way(max_retries=1, default_retry_delay=0, acks_late=False)
    def child_exits_acknowledged_early(task, run):
        os._exit(7)


if os.environ["POOL"] == "gevent":
    import gevent

    @way()
    def gevent_timeout(task, run):
        with gevent.Timeout(0.1):
            gevent.sleep(30)

    @way(time_limit=60)
    def gevent_timeout_below_the_limit(task, run):
        with gevent.Timeout(0.1):
            gevent.sleep(30)


@consumer_config(
    topic=os.environ["TOPIC"], cls_type="batch", name="batch", batch=3, batch_wait=20,
    max_retries=1, default_retry_delay=0, ignore_result=False,
)
def batch(events):
    with open(LEDGER, "a") as ledger:
        for event in events:
            ledger.write(json.dumps({"consumer": "batch", "event": event["header"]["id"]}) + "\\n")
    while HOLD.exists():
        time.sleep(0.02)
    bad = [event["header"]["id"] for event in events if "bad" in event["header"]["id"]]
    if bad:
        raise BatchFailure(bad)


if os.environ.get("SQS_FAILS"):
    # SQS itself does not fail on demand.
    from balog_celery.errors import QueueError
    from balog_celery.queues import SQSQueue

    send = SQSQueue.send

    def unreachable(self, messages):
        if not pathlib.Path(LEDGER).with_name("reachable").exists():
            raise QueueError("it cannot be reached")
        return send(self, messages)

    SQSQueue.send = unreachable
"""


@dataclass(frozen=True)
class End:
    """The expected end of an event.

    :param runs: how often its function runs.
    :param dead: whether it is a dead letter in the end.
    """

    runs: int
    dead: bool = False


DONE, DEAD = End(1), End(1, dead=True)
ENDS = {
    "returns": DONE,
    "returns_what_cannot_be_stored": DEAD,
    "fails": DEAD,
    "fails_unpicklably": DEAD,
    "cancelled": DEAD,
    "generator_exit": DEAD,
    "own_base_exception": DEAD,
    "own_base_exception_beside_autoretry": DEAD,
    "out_of_memory": DEAD,
    "exits": End(2, dead=True),
    "interrupted": End(2, dead=True),
    "soft_time_limit": DEAD,
    "ignored": DONE,
    "rejected": DEAD,
    "requeued": End(2),
    "retried_in_vain": End(3, dead=True),
    "retried": End(2),
    "retried_with_other_headers": End(2),
    "retried_without_raising": End(2),
    "retry_swallowed": End(2),
    "fails_without_a_repr": DEAD,
    "rejected_with_what_cannot_be_pickled": DEAD,
    "rejected_with_what_cannot_be_unpickled": DEAD,
    "ignored_with_what_cannot_be_unpickled": DONE,
    "retried_with_what_cannot_be_unpickled": End(2),
    "retried_at_no_number": DEAD,
    "retried_with_what_is_no_json": DEAD,
    "requeued_after_it_called_itself": End(3),
    "ignored_while_a_receiver_aborts": DONE,
    "retry_by_hand": End(2),
    "retry_by_hand_at_no_time": End(2),
    "prerun_receiver_fails": DONE,
    "postrun_receiver_aborts": DONE,
    "success_receiver_aborts": DONE,
    "failure_receiver_aborts": DEAD,
    "retry_receiver_aborts": End(2),
    "child_exits": End(2, dead=True),
    "child_killed": End(2, dead=True),
    "hard_time_limit": DEAD,
    "hard_time_limit_acknowledged_early": DEAD,
    "child_exits_acknowledged_early": End(2, dead=True),
    "gevent_timeout": DEAD,
    "gevent_timeout_below_the_limit": DEAD,
    "batch-good": DONE,
    "batch-bad": End(2, dead=True),
    "batch-worse": DONE,
}
#: What needs a pool of children, or of greenlets.
ACKNOWLEDGED_EARLY = {"hard_time_limit_acknowledged_early", "child_exits_acknowledged_early"}
NEED_A_CHILD = {"child_exits", "child_killed", "soft_time_limit", *ACKNOWLEDGED_EARLY}
NEED_GREENLETS = {"gevent_timeout", "gevent_timeout_below_the_limit"}
#: Celery's pool gives a job to another child if it has not read, before the death of its child, that the job began.
LOSE_THEIR_CHILD = {"child_exits", "child_killed", "child_exits_acknowledged_early"}
#: Elsewhere these are failures like any other.
WITHOUT_A_CHILD = {"exits": DEAD, "interrupted": DEAD}


@dataclass(frozen=True)
class Case:
    """How the worker runs, and what it cannot reach.

    :param lost: ``backend``, ``broker`` and ``sqs``: what cannot be reached while the tasks end.
    """

    pool: str = "prefork"
    dispatch: str = "hand-off"
    lost: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.pool, self.dispatch, self.lost and f"no-{self.lost}")))

    @property
    def ends(self) -> dict[str, End]:
        """Return the expected end of each event."""
        ends = dict(ENDS) if self.pool == "prefork" else ENDS | WITHOUT_A_CHILD
        missing = set() if self.pool == "prefork" else NEED_A_CHILD
        missing |= set() if self.pool == "gevent" else NEED_GREENLETS
        missing |= ACKNOWLEDGED_EARLY if self.lost == "broker" else set()
        missing |= set() if self.pool in ("prefork", "gevent") else {"hard_time_limit"}
        ends = {name: end for name, end in ends.items() if name not in missing}
        if self.lost == "backend":
            # Celery asks for the old one first, and never comes to serialise the new one.
            ends["returns_what_cannot_be_stored"] = DONE
        return ends


CASES = [
    Case(),
    Case(dispatch="publish"),
    Case(lost="backend"),
    Case(lost="backend", dispatch="publish"),
    Case(lost="sqs"),
    Case(lost="sqs", dispatch="publish"),
    Case(lost="broker"),
    Case(pool="threads", lost="backend"),
    Case(pool="solo", lost="backend"),
    # Without an event loop the worker is sent its tasks by the broker.
    Case(pool="gevent", lost="backend"),
]


class Events:
    """The events of one test: what became of them so far."""

    def __init__(self, project: Project, topic: Topic) -> None:
        self._project = project
        self._topic = topic
        self._letters: Counter[str] = Counter()

    def ends(self) -> dict[str, End]:
        runs = Counter(entry["event"] for entry in self._project.entries())
        answer = self._topic.client.receive_message(
            QueueUrl=self._topic.dead_url, MaxNumberOfMessages=10, VisibilityTimeout=600
        )
        self._letters.update(json.loads(letter["Body"])["header"]["id"] for letter in answer.get("Messages", []))
        assert not [name for name, letters in self._letters.items() if letters > 1], self._letters
        return {name: End(runs[name], name in self._letters) for name in {*runs, *self._letters}}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def own_broker(case: Case) -> Iterator[servers.Valkey]:
    """A broker to be killed."""
    with servers.Valkey() as server:
        yield server


@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=str, indirect=True)
def test_however_a_task_ends_nothing_is_lost(
    case: Case,
    project: Project,
    topic: Topic,
    start: Start,
    own_broker: servers.Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However a task ends, each event is finished or one dead letter, and the worker serves the next one."""
    # Given a worker whose result backend, broker or SQS cannot be reached.
    monkeypatch.setenv("POOL", case.pool)
    (project.folder / "proj" / "consumers.py").write_text(CONSUMERS)
    project.configure(
        f"""
        broker_url = {own_broker.url!r}
        balog_dispatch = {case.dispatch!r}
        balog_visibility_timeout = 10
        task_track_started = True
        result_backend = {"redis://127.0.0.1:1/0" if case.lost == "backend" else f"file://{project.folder}"!r}
        result_backend_transport_options = {{"retry_policy": {{"max_retries": 1, "interval_start": 0}}}}
        """
    )
    if case.lost == "broker":
        # Elsewhere kombu restores nothing: a task that waits in the worker for longer would run twice.
        project.add(QUICK_RESTORE)
    hold, reachable = project.folder / "hold", project.folder / "reachable"
    if case.lost == "sqs":
        monkeypatch.setenv("SQS_FAILS", "yes")
    if case.lost == "broker":
        monkeypatch.setenv("BROKER_FAILS", "yes")
        hold.touch()
    # When the tasks end in every way that there is.
    topic.send(*(event_text(name, name.partition("-")[0]) for name in case.ends))
    worker = start("worker", "-l", "INFO", "-P", case.pool, "-c", "1" if case.pool == "solo" else "4")
    if case.lost == "broker":
        project.wait_for(lambda runs: len(runs) >= 4)
        own_broker.kill()
        hold.unlink()
        worker.wait_for("Connection to broker lost")
        own_broker.start()
    elif case.lost == "sqs":
        worker.wait_for("did not take an event")
        reachable.touch()
    # Then each has come to its end, once.
    events = Events(project, topic)
    check = at_least if case.lost == "broker" else exactly
    wait_for(lambda: check(events.ends(), case.ends))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    # And every place in the worker is free again.
    topic.send(*(event_text(f"after-{number}", "returns") for number in range(30)))
    project.wait_for(lambda runs: runs["returns", "returns"] >= case.ends["returns"].runs + 30)
    assert stop(worker) == 0


def wait_for(differences: Callable[[], list[Any]]) -> None:
    """Wait until no expected event is open."""
    found: list[Any] = []

    def none() -> bool:
        found[:] = differences()
        return not found

    try:
        servers.wait_until(none, 150)
    except TimeoutError:
        raise AssertionError(f"(event, what became of it, what should have): {found}") from None


def exactly(ends: dict[str, End], expected: dict[str, End]) -> list[Any]:
    lost = {name: end for name, end in expected.items() if name in LOSE_THEIR_CHILD}
    return at_least(ends, lost) + [
        (name, ends.get(name), end) for name, end in expected.items() if name not in lost and ends.get(name) != end
    ]


def at_least(ends: dict[str, End], expected: dict[str, End]) -> list[Any]:
    """Return the events that are open. One that runs while its broker or its child is lost may run again."""
    return [
        (name, ends.get(name), end)
        for name, end in expected.items()
        if (got := ends.get(name)) is None or got.runs < end.runs or got.dead != end.dead
    ]


def test_every_way_is_tried() -> None:
    """The table and the project have the same consumers."""
    named = {line.removeprefix("def ").partition("(")[0] for line in CONSUMERS.splitlines() if "(task, run)" in line}
    named = {name.strip().removeprefix("def ") for name in named}
    assert named | {"batch-good", "batch-bad", "batch-worse"} == set(ENDS)
    assert os.environ.get("SQS_FAILS") is None
