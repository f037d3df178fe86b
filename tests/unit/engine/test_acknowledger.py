"""Deletes and releases, against a scripted queue: no real SQS fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servers
from balog_celery.backoff import Backoff
from balog_celery.consumers.delivery import Delivery, Job, Settlement, settle
from balog_celery.engine.acknowledger import Acknowledger
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout
from balog_celery.errors import AccessDenied, QueueError
from balog_celery.events.records import decode
from balog_celery.sqs.messages import EntryFailure
from engines import is_running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

STALE = "ReceiptHandleIsInvalid"


class Setting:
    """A queue with a visibility extender and an acknowledger."""

    def __init__(self, queue: ObservedQueue, visibility: int = 30, linger: float = 0.1) -> None:
        self.queue = queue
        self.stats = TopicStats()
        self.extender = VisibilityExtender(queue, VisibilityTimeout(queue, visibility), self.stats)
        self.acknowledger = Acknowledger(queue, self.extender, self.stats, linger=linger)
        self.extender.start()
        self.acknowledger.start()

    def deliver(self, name: str, jobs: int = 1) -> Delivery:
        self.queue.put("body", name=name)
        delivery = Delivery(self.queue.take(name, self.extender.visibility.seconds), jobs, self.acknowledger.settle)
        self.extender.hold([delivery])
        return delivery

    def in_flight(self) -> int:
        return int(self.extender.status()["in_flight"])

    def outages(self) -> dict[str, Any]:
        return dict(self.acknowledger.status()["outages"])

    def close(self) -> int:
        left = self.acknowledger.close(time.monotonic() + 60)
        self.extender.close(time.monotonic() + 60)
        return left


Make = Callable[..., Setting]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes settings whose threads run, and ends them."""
    made: list[Setting] = []

    def start(queue: ObservedQueue, visibility: int = 30, linger: float = 0.1) -> Setting:
        made.append(Setting(queue, visibility, linger))
        return made[-1]

    yield start
    for setting in made:
        setting.close()


def test_ten_deletes_go_in_one_call_at_once(make: Make) -> None:
    """Ten deletes go in one call without waiting."""
    setting = make(ObservedQueue(), linger=3600.0)
    for number in range(10):
        settle([setting.deliver(str(number))], Settlement.ACKNOWLEDGE)
    setting.queue.wait_for(lambda: len(setting.queue.deleted) == 10)
    assert setting.queue.calls_of("delete") == [[str(number) for number in range(10)]]


def test_what_is_settled_together_is_carried_out_in_tens(make: Make) -> None:
    """Settled deliveries are deleted in tens: full calls at once, the rest later."""
    setting = make(ObservedQueue(), linger=3600.0)
    queue = setting.queue
    settle([setting.deliver(str(number)) for number in range(25)], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: len(queue.deleted) == 20)
    assert [len(handles) for handles in queue.calls_of("delete")] == [10, 10]
    refused, good = setting.deliver("refused", jobs=2), setting.deliver("good")
    settle([refused], Settlement.RELEASE)
    settle([good, refused], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: len(queue.deleted) == 26 and queue.released == ["refused"])


def test_fewer_deletes_wait_for_company_but_not_for_ever(make: Make) -> None:
    """Fewer than ten deletes go together after a second."""
    setting = make(ObservedQueue())
    settle([setting.deliver(str(number)) for number in range(3)], Settlement.ACKNOWLEDGE)
    setting.queue.wait_for(lambda: len(setting.queue.deleted) == 3)
    assert len(setting.queue.calls_of("delete")) == 1
    assert setting.extender.drain(time.monotonic() + 60)


def test_a_refused_delivery_is_released_at_once(make: Make) -> None:
    """A released delivery becomes visible at once by one call, and is not deleted."""
    setting = make(ObservedQueue(), linger=3600.0)
    settle([setting.deliver("a")], Settlement.RELEASE)
    setting.queue.wait_for(lambda: setting.queue.released == ["a"])
    assert not setting.queue.deleted


def test_what_is_to_come_again_later_is_left_to_its_visibility(make: Make) -> None:
    """An expired delivery is neither deleted nor released nor extended, whatever its other jobs' settlements."""
    setting = make(ObservedQueue(), visibility=4)
    queue = setting.queue
    later, other = setting.deliver("later", jobs=2), setting.deliver("other")
    Job(later, decode(event_text()), "", None, {}).expire()  # type: ignore[arg-type]
    assert setting.in_flight() == 2
    settle([later], Settlement.ACKNOWLEDGE)
    assert (setting.in_flight(), setting.acknowledger.pending) == (1, 0)
    queue.wait_for(lambda: "other" in queue.extended, 30)
    settle([other], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: queue.deleted == ["other"], 30)
    assert setting.close() == 0
    assert set(queue.extended) == {"other"}
    assert not queue.released


def test_a_failed_entry_is_tried_again_and_a_stale_handle_is_not(make: Make) -> None:
    """A failed entry is retried, a stale handle is not, each by its own code; the other entries are done."""
    queue = ObservedQueue()
    answers = [[EntryFailure(0, "InternalError", "", False), EntryFailure(1, STALE, "", True)]]
    queue.on["delete"] = lambda handles: answers.pop() if answers else None
    setting = make(queue)
    settle([setting.deliver(handle) for handle in "abc"], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: sorted(queue.deleted) == ["a", "c"])
    assert setting.extender.drain(time.monotonic() + 60)
    assert queue.calls_of("delete") == [["a", "b", "c"], ["a"]]
    servers.wait_until(lambda: setting.stats.counts().get("deleted") == 2, what="the count")
    assert setting.stats.counts()["stale_handles"] == 1


@pytest.mark.parametrize("error", [QueueError("SQS is down", "ServiceUnavailable"), ValueError("a bug")])
def test_a_failed_call_is_tried_again(make: Make, error: Exception) -> None:
    """A failed call is retried, whatever it raised, and its deletes stay pending."""
    queue = ObservedQueue()
    problems = [error]

    def delete(handles: list[str]) -> None:
        if problems:
            raise problems.pop()

    queue.on["delete"] = delete
    setting = make(queue)
    settle([setting.deliver("a")], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: queue.deleted == ["a"])
    assert setting.extender.drain(time.monotonic() + 60)


def denied(handles: list[str]) -> None:
    raise AccessDenied("not allowed")


def test_deletes_that_fail_are_an_outage_though_all_else_works(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Failing deletes are an outage, logged once and in the status until it ends, though extensions work."""
    # Given a queue that refuses deletes, and messages that are extended every third of a second
    caplog.set_level("INFO")
    queue = ObservedQueue()
    queue.on["delete"] = denied
    setting = make(queue, visibility=2)
    settle([setting.deliver("done")], Settlement.ACKNOWLEDGE)
    # When extensions and releases go on working for some tries
    queue.wait_for(lambda: len(queue.calls_of("delete")) >= 3 and len(queue.extended) >= 3)
    settle([setting.deliver("back")], Settlement.RELEASE)
    queue.wait_for(lambda: queue.released == ["back"])
    # Then it is one outage since the first failure
    assert setting.outages().keys() == {"delete"}
    assert setting.outages()["delete"]["error"] == "not allowed"
    assert setting.outages()["delete"]["fails_for"] > 0.5
    assert setting.extender.status()["outages"] == {}
    # And it ends when a delete works, not before
    queue.on.clear()
    queue.wait_for(lambda: queue.deleted == ["done"])
    servers.wait_until(lambda: setting.outages() == {}, what="the end of the outage")
    said = [record.message for record in caplog.records if record.message.startswith("deleting from topic")]
    assert len(said) == 2
    assert said[0] == "deleting from topic failed, retrying: not allowed"
    assert said[1].startswith("deleting from topic works again")


@pytest.mark.parametrize("kind", ["delete", "return"])
def test_what_the_queue_refuses_delays_no_others_and_is_one_outage(
    make: Make, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Given two messages that the queue refuses while it takes others, one outage lasts until both are done."""
    caplog.set_level("INFO")
    queue, cured = ObservedQueue(), threading.Event()
    call, settlement = ("delete", Settlement.ACKNOWLEDGE) if kind == "delete" else ("release", Settlement.RELEASE)

    def answer(handles: list[str]) -> list[EntryFailure]:
        bad = [index for index, handle in enumerate(handles) if handle.startswith("bad") and not cured.is_set()]
        return [EntryFailure(index, "InternalError", "", False) for index in bad]

    queue.on[call] = answer
    setting = make(queue)
    done = queue.deleted if kind == "delete" else queue.released
    # When others come after each of their tries
    settle([setting.deliver("bad0")], settlement)
    for number in range(30):
        names = [f"good{number}", "bad1"] if number == 3 else [f"good{number}"]
        settle([setting.deliver(name) for name in names], settlement)
        queue.wait_for(lambda: f"good{number}" in done)  # noqa: B023
    servers.wait_until(lambda: setting.outages().keys() == {kind}, what="the outage")
    assert setting.outages()[kind]["error"] == "InternalError"
    cured.set()
    # Then all are done, and the log has its begin and its end
    queue.wait_for(lambda: {"bad0", "bad1"} <= set(done))
    servers.wait_until(lambda: setting.outages() == {}, what="the end of the outage")
    said = [record.message for record in caplog.records if "(single messages)" in record.message]
    assert len(said) == 2
    assert said[0].endswith("topic (single messages) failed, retrying: InternalError")
    assert "topic (single messages) works again, after" in said[1]
    assert not [record for record in caplog.records if "from topic failed" in record.message]


def test_releases_that_fail_do_not_hold_up_deletes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases and deletes have separate back-offs, so neither delays the other."""
    monkeypatch.setattr(Backoff, "failed", lambda self: 3600.0)
    for broken, works in (("release", "delete"), ("delete", "release")):
        queue = ObservedQueue()
        queue.on[broken] = denied
        outage = "return" if broken == "release" else broken
        setting = make(queue)
        settle([setting.deliver("a")], Settlement.RELEASE if broken == "release" else Settlement.ACKNOWLEDGE)
        servers.wait_until(lambda: setting.outages().keys() == {outage}, what="the outage")  # noqa: B023
        settle([setting.deliver("b")], Settlement.RELEASE if works == "release" else Settlement.ACKNOWLEDGE)
        done = queue.released if works == "release" else queue.deleted
        queue.wait_for(lambda: done == ["b"])  # noqa: B023
        assert setting.outages().keys() == {outage}
        queue.on.clear()


def test_a_delete_that_hangs_lets_no_other_visibility_lapse(make: Make) -> None:
    """A hanging delete does not delay extensions, which have their own thread."""
    queue = ObservedQueue()
    answered = threading.Event()
    queue.on["delete"] = lambda _handles: answered.wait(60) and None
    setting = make(queue, visibility=2)
    running = setting.deliver("running")
    settle([setting.deliver("done")], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: queue.extended.count("running") >= 3)
    assert not setting.extender.has_lapsed(running)
    # What is being deleted is kept as well, as long as it is not known that it is gone.
    assert queue.extended.count("done") >= 2
    answered.set()
    queue.wait_for(lambda: queue.deleted == ["done"])


@pytest.mark.parametrize("while_it_hangs", [True, False])
def test_what_comes_again_while_its_delete_is_pending_is_deleted_by_its_new_handle(
    make: Make, while_it_hangs: bool
) -> None:
    """A message that is received again while its delete is pending is deleted by its new handle, and not dispatched."""
    # Given a delete that waits for company, or is under way
    queue = ObservedQueue()
    answered = threading.Event()
    queue.on["delete"] = lambda _names: answered.wait(60) and None
    setting = make(queue)
    settle([setting.deliver("a")], Settlement.ACKNOWLEDGE)
    if while_it_hangs:
        queue.wait_for(lambda: queue.calls_of("delete") == [["a"]])
    # When the message is received again, which makes the handle of that delete stale
    message = queue.take("a")
    assert setting.extender.hold([Delivery(message, 1, setting.acknowledger.settle)]) == []
    answered.set()
    # Then it is deleted by the handle with which it came
    queue.wait_for(lambda: queue.deleted == ["a"])
    assert setting.extender.drain(time.monotonic() + 60)
    assert setting.stats.counts()["received_again"] == 1


def test_what_was_released_and_has_come_again_is_not_released_again(make: Make) -> None:
    """A message that was released and received again is a new delivery: its old handle is not used."""
    # Given a release that fails
    queue = ObservedQueue()
    queue.on["release"] = denied
    setting = make(queue)
    settle([setting.deliver("a")], Settlement.RELEASE)
    queue.wait_for(lambda: bool(queue.calls_of("release")))
    # When the message has come again
    again = Delivery(queue.take("a"), 1, setting.acknowledger.settle)
    assert setting.extender.hold([again]) == [again]
    queue.on.clear()
    # Then nothing is left to be released, and the new delivery goes its way
    servers.wait_until(lambda: setting.acknowledger.pending == 0, what="the release")
    assert queue.released == []
    settle([again], Settlement.ACKNOWLEDGE)
    queue.wait_for(lambda: queue.deleted == ["a"])


def test_a_release_whose_visibility_has_ended_is_over(make: Make) -> None:
    """A release whose visibility has ended is dropped, because the message is visible already."""
    queue = ObservedQueue()
    queue.on["release"] = denied
    setting = make(queue, visibility=2)
    settle([setting.deliver("a")], Settlement.RELEASE)
    queue.wait_for(lambda: bool(queue.calls_of("release")))
    servers.wait_until(lambda: setting.acknowledger.pending == 0, 60, "the end of its visibility")


def test_closing_makes_the_calls_that_are_pending(make: Make) -> None:
    """Closing makes the pending calls without waiting for more."""
    setting = make(ObservedQueue(), linger=3600.0)
    settle([setting.deliver("back")], Settlement.RELEASE)
    settle([setting.deliver("done")], Settlement.ACKNOWLEDGE)
    assert setting.close() == 0
    assert (setting.queue.deleted, setting.queue.released) == (["done"], ["back"])


@pytest.mark.parametrize("fails_first", ["before", "while"])
def test_closing_waits_out_no_back_off(make: Make, monkeypatch: pytest.MonkeyPatch, fails_first: str) -> None:
    """Closing does not wait for a back-off, neither a current nor a new one."""
    # Given deletes that fail, with a back-off of an hour
    monkeypatch.setattr(Backoff, "failed", lambda self: 3600.0)
    queue = ObservedQueue()
    fails = iter([True, False]) if fails_first == "before" else iter([True, True, False])

    def delete(handles: list[str]) -> None:
        if next(fails):
            raise QueueError("down")

    queue.on["delete"] = delete
    setting = make(queue)
    settle([setting.deliver("a")], Settlement.ACKNOWLEDGE)
    servers.wait_until(lambda: "delete" in setting.outages(), what="the first failure")
    # When it closes
    begin = time.monotonic()
    assert setting.close() == 0
    # Then they are tried at once, and then every second
    assert queue.deleted == ["a"]
    assert time.monotonic() - begin < 30


def test_closing_says_what_it_could_not_do(make: Make) -> None:
    """Closing returns how many messages are left to the visibility timeout."""
    queue = ObservedQueue()
    queue.on["delete"] = denied
    setting = make(queue)
    settle([setting.deliver("a")], Settlement.ACKNOWLEDGE)
    assert setting.acknowledger.close(time.monotonic() + 0.3) == 1
    assert not queue.deleted
    queue.on.clear()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", ["delete", "release"])
def test_a_dead_thread_is_replaced_and_what_was_pending_still_is(make: Make, kind: str) -> None:
    """A dead thread is replaced, and its pending deletes are made."""
    queue = ObservedQueue()
    dies = [SystemExit()]

    def die_once(handles: list[str]) -> None:
        if dies:
            raise dies.pop()

    queue.on[kind] = die_once
    setting = make(queue)
    settle(
        [setting.deliver(str(number)) for number in range(10)],
        Settlement.RELEASE if kind == "release" else Settlement.ACKNOWLEDGE,
    )
    servers.wait_until(lambda: not is_running("acknowledger-topic"), what="its death")
    assert setting.acknowledger.pending == 10
    setting.acknowledger.ensure_alive()
    queue.wait_for(lambda: len(queue.deleted) + len(queue.released) == 10)
    setting.acknowledger.ensure_alive()
    assert setting.stats.counts()["restarted"] == 1


def test_who_waits_for_deletes_waits_no_longer_than_they_take(make: Make) -> None:
    """A poller that waits for pending deletes goes on when they are made."""
    queue = ObservedQueue()
    may_delete = threading.Event()
    queue.on["delete"] = lambda _handles: may_delete.wait(60) and None
    setting = make(queue)
    settle([setting.deliver(str(number)) for number in range(35)], Settlement.ACKNOWLEDGE)
    assert not setting.acknowledger.wait_until_pending(10, 0.01)
    caught_up: list[bool] = []
    waiting = threading.Thread(target=lambda: caught_up.append(setting.acknowledger.wait_until_pending(10, 3600)))
    waiting.start()
    may_delete.set()
    waiting.join(30)
    assert caught_up == [True]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["ok", "again", "stale"])), min_size=1, max_size=60))
def test_every_delivery_is_deleted_or_released_as_it_was_settled(plan: list[tuple[bool, str]]) -> None:
    """Each delivery is deleted or released as it was settled, although each call may fail once."""
    queue = ObservedQueue()
    trouble = {str(number): kind for number, (_, kind) in enumerate(plan)}

    def answer(handles: list[str]) -> list[EntryFailure]:
        failures = []
        for index, handle in enumerate(handles):
            kind = trouble.get(handle, "ok")
            if kind == "again":
                trouble[handle] = "ok"
                failures.append(EntryFailure(index, "InternalError", "", False))
            elif kind == "stale":
                failures.append(EntryFailure(index, STALE, "", True))
        return failures

    queue.on["delete"] = queue.on["release"] = answer
    setting = Setting(queue)
    for delivery, (refused, _) in zip([setting.deliver(str(one)) for one in range(len(plan))], plan, strict=True):
        settle([delivery], Settlement.RELEASE if refused else Settlement.ACKNOWLEDGE)
    assert setting.close() == 0
    assert setting.in_flight() == 0
    alive = {str(number): refused for number, (refused, kind) in enumerate(plan) if kind != "stale"}
    assert sorted(queue.deleted) == sorted(handle for handle, refused in alive.items() if not refused)
    assert sorted(queue.released) == sorted(handle for handle, refused in alive.items() if refused)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["receive", "acknowledge", "release"]), st.integers(0, 3)), max_size=60))
def test_whatever_comes_again_when_is_settled_once_for_each_time_it_is_new(plan: list[tuple[str, int]]) -> None:
    """In any order of receives, each new delivery is settled once, by the message's last handle."""
    queue = ObservedQueue("topic", ["body"] * 4)
    setting = Setting(queue)
    running: dict[str, Delivery] = {}
    ended: dict[str, str] = {}
    for action, which in [*plan, *(("acknowledge", which) for which in range(4))]:
        name = f"m{which + 1}"
        if action == "receive" and queue.holds(name):
            delivery = Delivery(queue.take(name), 1, setting.acknowledger.settle)
            new = setting.extender.hold([delivery])
            # While it runs here it is never new.
            assert not (new and name in running)
            if new:
                running[name] = delivery
                ended.pop(name, None)
        elif name in running:
            settle([running.pop(name)], Settlement.RELEASE if action == "release" else Settlement.ACKNOWLEDGE)
            ended[name] = action
    assert setting.close() == 0
    assert setting.in_flight() == 0
    for name, how in ended.items():
        assert name in (queue.deleted if how == "acknowledge" else queue.released)
    assert queue.in_flight() == []
