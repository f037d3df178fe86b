"""Leases, deletes and returns, against a scripted queue: no real SQS fails on demand."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servers
from balog_celery.consumers import keeper as keeper_module
from balog_celery.consumers.delivery import Delivery, Job, settle
from balog_celery.consumers.keeper import Keeper
from balog_celery.consumers.stats import Stats
from balog_celery.errors import QueueError
from balog_celery.queues import EntryFailure, Message
from balog_celery.records import decode
from fakes import FakeQueue, event_text

Make = Callable[..., Keeper]
STALE = "ReceiptHandleIsInvalid"


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes started keepers, and ends them."""
    made: list[Keeper] = []

    def start(queue: FakeQueue, visibility: int = 30, stats: Stats | None = None) -> Keeper:
        keeper = Keeper(queue, visibility, stats or Stats())
        keeper.start()
        made.append(keeper)
        return keeper

    yield start
    for keeper in made:
        keeper.close(time.monotonic() + 60)


def deliver(keeper: Keeper, handle: str, jobs: int = 1, received: float | None = None) -> Delivery:
    message = Message("body", handle, f"m{handle}", time.monotonic() if received is None else received)
    delivery = Delivery(message, jobs, keeper.settle)
    keeper.hold([delivery])
    return delivery


def calls(queue: FakeQueue, what: str) -> list[Any]:
    return [argument for name, argument in queue.calls if name == what]


def test_ten_deletes_go_in_one_call_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting as fewer would."""
    monkeypatch.setattr(keeper_module, "LINGER", 3600)
    queue = FakeQueue()
    keeper = make(queue)
    for number in range(10):
        settle([deliver(keeper, str(number))], refused=False)
    queue.wait_for(lambda: len(queue.deleted) == 10)
    assert calls(queue, "delete") == [[str(number) for number in range(10)]]


def test_what_is_settled_together_is_carried_out_in_tens(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full ones at once, the rest in company; one that was refused makes all go at once."""
    queue = FakeQueue()
    keeper = make(queue)
    monkeypatch.setattr(keeper, "_linger", 3600)
    settle([deliver(keeper, str(number)) for number in range(25)], refused=False)
    queue.wait_for(lambda: len(queue.deleted) == 20)
    assert [len(handles) for handles in calls(queue, "delete")] == [10, 10]
    refused, good = deliver(keeper, "refused", jobs=2), deliver(keeper, "good")
    settle([refused], refused=True)
    settle([good, refused], refused=False)
    queue.wait_for(lambda: len(queue.deleted) == 26 and queue.returned == ["refused"])


def test_a_lease_wakes_the_thread_only_if_it_is_due_before_the_others(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each receive would, otherwise."""
    keeper = make(FakeQueue())
    wakes: list[str] = []
    monkeypatch.setattr(keeper._wake, "notify_all", lambda: wakes.append("") or keeper._wake.notify(9))
    servers.wait_until(lambda: keeper._looks_at == math.inf, what="the thread to begin")
    now = time.monotonic()
    deliver(keeper, "first", received=now)
    servers.wait_until(lambda: keeper._looks_at < math.inf, what="the thread to wait")
    for number in range(3):
        deliver(keeper, str(number), received=now + 1)
    assert len(wakes) == 1
    deliver(keeper, "old", received=now - 5)
    assert len(wakes) == 2


def test_fewer_deletes_wait_for_company_but_not_for_ever(make: Make) -> None:
    """They go together, after a second."""
    queue = FakeQueue()
    keeper = make(queue)
    with keeper._wake:  # it looks when all of them are there
        for number in range(3):
            settle([deliver(keeper, str(number))], refused=False)
    queue.wait_for(lambda: len(queue.deleted) == 3)
    assert len(calls(queue, "delete")) == 1
    assert keeper.drain(time.monotonic() + 60)


def test_a_refused_delivery_is_given_back_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With visibility 0, and without a delete."""
    monkeypatch.setattr(keeper_module, "LINGER", 3600)
    queue = FakeQueue()
    keeper = make(queue)
    settle([deliver(keeper, "a")], refused=True)
    queue.wait_for(lambda: queue.returned == ["a"])
    assert not queue.deleted


def test_what_is_to_come_again_later_is_left_to_its_visibility(make: Make) -> None:
    """Neither deleted nor given back, and its lease is kept no longer; whatever else was in the message."""
    queue = FakeQueue()
    keeper = make(queue, visibility=4)
    later, other = deliver(keeper, "later", jobs=2), deliver(keeper, "other")
    Job(later, decode(event_text()), "", None, {}).leave()  # type: ignore[arg-type]
    assert keeper.in_flight == 2
    settle([later], refused=False)
    assert (keeper.in_flight, keeper.owed) == (1, 0)
    queue.wait_for(lambda: "other" in queue.extended, 30)
    settle([other], refused=False)
    queue.wait_for(lambda: queue.deleted == ["other"], 30)
    assert keeper.close(time.monotonic() + 60) == 0
    assert set(queue.extended) == {"other"}
    assert not queue.returned


def test_a_short_lease_is_extended_again_in_time(make: Make) -> None:
    """Each time when half of it is over, not when it ends."""
    queue = FakeQueue()
    keeper = make(queue, visibility=1)
    delivery = deliver(keeper, "a")
    for extensions in range(1, 4):
        queue.wait_for(lambda: len(queue.extended) >= extensions, 30)  # noqa: B023
        servers.wait_until(lambda: delivery.due - time.monotonic() <= 0.5, 10)
        with keeper._wake:
            assert keeper._lease_at <= delivery.due


def test_what_is_in_flight_keeps_its_lease(make: Make) -> None:
    """Well before its visibility ends, again and again."""
    queue = FakeQueue()
    keeper = make(queue, visibility=1)
    delivery = deliver(keeper, "a")
    queue.wait_for(lambda: len(queue.extended) >= 2)
    settle([delivery], refused=False)
    queue.wait_for(lambda: queue.deleted == ["a"])
    assert keeper.drain(time.monotonic() + 60)


def test_leases_are_extended_ten_at_a_time(make: Make) -> None:
    """SQS takes no more."""
    queue = FakeQueue()
    keeper = make(queue, visibility=2)
    with keeper._wake:  # it looks when all of them are there
        for number in range(25):
            deliver(keeper, str(number), received=time.monotonic() - 1.5)
    queue.wait_for(lambda: len(set(queue.extended)) == 25)
    assert max(map(len, calls(queue, "extend"))) == 10


def test_a_lease_ends_after_twelve_hours(make: Make) -> None:
    """SQS would refuse to extend it; it is let go of, and the delivery may still be settled."""
    queue = FakeQueue()
    keeper = make(queue)
    delivery = deliver(keeper, "a", received=time.monotonic() - 43_190)
    assert keeper.drain(time.monotonic() + 60)
    assert not queue.extended
    settle([delivery], refused=False)
    queue.wait_for(lambda: queue.deleted == ["a"])


def test_a_failed_entry_is_tried_again_and_a_stale_handle_is_not(make: Make) -> None:
    """Each by its own code; the others of the batch are done."""
    queue = FakeQueue()
    stats = Stats()
    answers = [
        [EntryFailure(0, "InternalError", "", False), EntryFailure(1, STALE, "", True)],
    ]
    queue.on["delete"] = lambda handles: answers.pop() if answers else None
    keeper = make(queue, stats=stats)
    with keeper._wake:  # it looks when all of them are there
        for handle in "abc":
            settle([deliver(keeper, handle)], refused=False)
    queue.wait_for(lambda: sorted(queue.deleted) == ["a", "c"])
    assert keeper.drain(time.monotonic() + 60)
    assert calls(queue, "delete") == [["a", "b", "c"], ["a"]]
    assert stats.of("topic")["stale_handles"] == 1


@pytest.mark.parametrize("error", [QueueError("SQS is down", "ServiceUnavailable"), ValueError("a bug")])
def test_a_failed_call_is_tried_again(make: Make, error: Exception) -> None:
    """Whatever it raised: a delete that is owed stays owed."""
    queue = FakeQueue()
    problems = [error]

    def delete(handles: list[str]) -> None:
        if problems:
            raise problems.pop()

    queue.on["delete"] = delete
    keeper = make(queue)
    settle([deliver(keeper, "a")], refused=False)
    queue.wait_for(lambda: queue.deleted == ["a"])
    assert keeper.drain(time.monotonic() + 60)


def test_a_failed_extension_is_tried_again_and_keeps_nobody_waiting(make: Make) -> None:
    """The entry that failed is extended at the next try, the stale one is let go of."""
    queue = FakeQueue()
    answers = [[EntryFailure(0, "Throttled", "", False), EntryFailure(1, STALE, "", True)]]
    queue.on["extend"] = lambda handles: answers.pop() if answers else None
    keeper = make(queue, visibility=4)
    received = time.monotonic() - 3
    with keeper._wake:  # it looks when all of them are there
        for handle in "abc":
            deliver(keeper, handle, received=received)
    queue.wait_for(lambda: {"a", "c"} <= set(queue.extended))
    assert keeper.in_flight == 2


def test_closing_flushes_what_is_owed_and_gives_back_the_rest(make: Make) -> None:
    """Nothing waits for company any more."""
    queue = FakeQueue()
    keeper = make(queue)
    settle([deliver(keeper, "done")], refused=False)
    running = deliver(keeper, "running", jobs=2)
    assert keeper.close(time.monotonic() + 60) == 0
    assert queue.deleted == ["done"]
    assert queue.returned == ["running"]
    settle([running], refused=False)


def test_trouble_with_what_is_owed_is_told_until_it_is_over(make: Make) -> None:
    """With its words, and for how long it has lasted."""
    queue = FakeQueue()
    refuse = threading.Event()
    refuse.set()

    def refused(handles: list[str]) -> None:
        if refuse.is_set():
            raise QueueError("no permission")

    queue.on["delete"] = refused
    keeper = make(queue)
    assert keeper.status() == {
        "in_flight": 0,
        "oldest": 0.0,
        "owed": 0,
        "keeping_trouble": "",
        "keeping_fails_for": 0.0,
    }
    settle([deliver(keeper, "a")], refused=False)
    servers.wait_until(lambda: keeper.status()["keeping_trouble"] == "no permission", 10)
    servers.wait_until(lambda: keeper.status()["keeping_fails_for"] > 0.0, 10)
    assert keeper.status()["owed"] in (0, 1)
    refuse.clear()
    queue.wait_for(lambda: queue.deleted == ["a"], 30)
    servers.wait_until(lambda: keeper.status()["keeping_trouble"] == "", 10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced_and_what_it_owed_is_still_owed(make: Make) -> None:
    """Whatever it died of."""
    queue = FakeQueue()
    stats = Stats()
    dies = [SystemExit()]

    def die_once(handles: list[str]) -> None:
        if dies:
            raise dies.pop()

    queue.on["delete"] = die_once
    keeper = make(queue, stats=stats)
    for number in range(10):
        settle([deliver(keeper, str(number))], refused=False)
    keeper._thread.join(10)
    assert keeper.owed == 10
    keeper.ensure_alive()
    queue.wait_for(lambda: len(queue.deleted) == 10)
    keeper.ensure_alive()
    assert stats.of("topic")["restarted"] == 1


def test_who_waits_for_deletes_waits_no_longer_than_they_take(make: Make) -> None:
    """A poller whose keeper has fallen behind goes on when that has caught up."""
    queue = FakeQueue()
    may_delete = threading.Event()
    queue.on["delete"] = lambda _handles: may_delete.wait(60) and None
    keeper = make(queue)
    for number in range(35):
        settle([deliver(keeper, str(number))], refused=False)
    assert not keeper.wait_until_owed(10, 0.01)
    caught_up: list[bool] = []
    waiting = threading.Thread(target=lambda: caught_up.append(keeper.wait_until_owed(10, 3600)))
    waiting.start()
    may_delete.set()
    waiting.join(30)
    assert caught_up == [True]
    assert keeper.wait_until_owed(10, 0)


def test_closing_says_what_it_could_not_do(make: Make) -> None:
    """SQS's visibility timeout has it then."""
    queue = FakeQueue()

    def refuse(handles: list[str]) -> None:
        raise QueueError("down")

    queue.on["delete"] = refuse
    keeper = make(queue)
    settle([deliver(keeper, "a")], refused=False)
    assert keeper.close(time.monotonic() + 0.3) in (0, 1)
    assert not queue.deleted
    queue.on.clear()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["ok", "again", "stale"])), min_size=1, max_size=60))
def test_every_delivery_is_deleted_or_returned_as_it_was_settled(plan: list[tuple[bool, str]]) -> None:
    """Whatever fails once: no handle is lost, and none is deleted that was refused."""
    queue = FakeQueue()
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

    queue.on["delete"] = queue.on["return"] = answer
    keeper = Keeper(queue, 30, Stats())
    keeper._backoff._first = 0.001
    keeper.start()
    for number, (refused, _) in enumerate(plan):
        settle([deliver(keeper, str(number))], refused=refused)
    assert keeper.close(time.monotonic() + 60) == 0
    alive = {str(number): refused for number, (refused, kind) in enumerate(plan) if kind != "stale"}
    assert sorted(queue.deleted) == sorted(handle for handle, refused in alive.items() if not refused)
    assert sorted(queue.returned) == sorted(handle for handle, refused in alive.items() if refused)


def test_one_that_was_received_long_ago_does_not_wait_for_others(make: Make) -> None:
    """Its lease is extended when that is due, though the keeper sleeps until another's is."""
    queue = FakeQueue()
    keeper = make(queue, visibility=600)
    deliver(keeper, "young")
    servers.wait_until(lambda: keeper._looks_at > time.monotonic(), what="the keeper's sleep")
    deliver(keeper, "old", received=time.monotonic() - 400)
    queue.wait_for(lambda: queue.extended == ["old"])


def test_a_failed_extension_does_not_wait_for_those_of_others(make: Make) -> None:
    """It is tried again long before its lease ends, although the others need none for a while."""
    queue = FakeQueue()
    answers = [[EntryFailure(0, "Throttled", "", False)]]
    queue.on["extend"] = lambda handles: answers.pop() if answers else None
    keeper = make(queue, visibility=3600)
    deliver(keeper, "a", received=time.monotonic() - 1799.5)
    deliver(keeper, "b")
    queue.wait_for(lambda: bool(calls(queue, "extend")))
    with keeper._wake:
        assert keeper._wait() <= 3600 / 8
