"""The order of a FIFO topic, over scripted queues: what is started, when, and what goes back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.consumers.delivery import Delivery, settle
from balog_celery.consumers.keeper import Keeper
from balog_celery.consumers.lanes import Lanes
from balog_celery.consumers.stats import Stats
from balog_celery.queues import EntryFailure, Message
from fakes import FakeQueue


class Setting:
    """Lanes over a queue, with threads that run, and what was started."""

    def __init__(self, visibility: int = 30) -> None:
        self.queue = FakeQueue("topic.fifo")
        self.keeper = Keeper(self.queue, visibility, Stats())
        self.lanes = Lanes("topic.fifo", self.keeper, self._start)
        self.started: list[Delivery] = []
        self.changed = threading.Condition()
        self.on_start: Callable[[Delivery], None] = lambda delivery: None
        self.keeper.start()
        self.lanes.start()

    def _start(self, deliveries: Sequence[Delivery]) -> None:
        groups = [delivery.message.group for delivery in deliveries]
        assert len(set(groups)) == len(groups)
        with self.changed:
            self.started += deliveries
            self.changed.notify_all()
        for delivery in deliveries:
            self.on_start(delivery)
        with self.changed:
            self.changed.notify_all()

    def wait_for_start(self, *names: str) -> list[Delivery]:
        """Wait until exactly these were started, whatever their order."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.started) >= len(names), 60)
            assert sorted(self.names()) == sorted(names)
            return [next(one for one in self.started if one.message.handle == name) for name in names]

    def names(self) -> list[str]:
        return [delivery.message.handle for delivery in self.started]

    def close(self) -> None:
        self.lanes.stop()
        self.lanes.join(time.monotonic() + 60)
        assert self.keeper.close(time.monotonic() + 60) == 0


@pytest.fixture
def setting() -> Iterator[Setting]:
    """Lanes that run."""
    setting = Setting()
    yield setting
    setting.close()


def messages(*names: str) -> list[Message]:
    """Messages whose group is the first letter of their handle."""
    return [Message("body", name, f"id-{name}", time.monotonic(), group=name[0]) for name in names]


def test_one_of_a_group_is_under_way_and_groups_beside_one_another(setting: Setting) -> None:
    """The next begins when SQS has deleted the one before."""
    setting.lanes.add(messages("a1", "a2", "b1", "a3"))
    a1, _ = setting.wait_for_start("a1", "b1")
    settle([a1], refused=False)
    *_, a2 = setting.wait_for_start("a1", "b1", "a2")
    assert setting.queue.deleted == ["a1"]
    settle([a2], refused=False)
    setting.wait_for_start("a1", "b1", "a2", "a3")
    assert setting.queue.deleted == ["a1", "a2"]


def test_the_next_waits_for_a_delete_that_fails_for_now(setting: Setting) -> None:
    """However often it is tried: a crash then would give the deleted one again."""
    failures = iter([True, True, False])
    started_at_call: list[list[str]] = []

    def delete(handles: list[str]) -> list[EntryFailure]:
        started_at_call.append(setting.names())
        return [EntryFailure(0, "InternalError", "", False)] if next(failures) else []

    setting.queue.on["delete"] = delete
    setting.lanes.add(messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], refused=False)
    setting.wait_for_start("a1", "a2")
    assert started_at_call == [["a1"]] * 3


def test_what_comes_while_the_delete_of_the_last_is_under_way_waits_for_it(setting: Setting) -> None:
    """SQS has carried it out, and gives the next; we have not read its answer yet."""

    def delete(handles: list[str]) -> None:
        if handles == ["a1"]:
            setting.lanes.add(messages("a2", "a3"))
            assert setting.names() == ["a1"]

    setting.queue.on["delete"] = delete
    setting.lanes.add(messages("a1"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], refused=False)
    _, a2 = setting.wait_for_start("a1", "a2")
    settle([a2], refused=False)
    setting.wait_for_start("a1", "a2", "a3")


def test_a_refused_delivery_takes_its_group_with_it(setting: Setting) -> None:
    """The first one first; other groups do not notice."""
    setting.lanes.add(messages("a1", "a2", "b1", "b2", "a3"))
    a1, b1 = setting.wait_for_start("a1", "b1")
    settle([a1], refused=True)
    setting.queue.wait_for(lambda: setting.queue.returned == ["a1", "a2", "a3"])
    settle([b1], refused=False)
    setting.wait_for_start("a1", "b1", "b2")
    setting.lanes.add(messages("a1"))
    setting.wait_for_start("a1", "b1", "b2", "a1")


def test_a_delete_that_comes_too_late_ends_the_lane(setting: Setting) -> None:
    """The message will come again, so nothing behind it may begin."""
    setting.queue.on["delete"] = lambda handles: [EntryFailure(0, "ReceiptHandleIsInvalid", "", True)]
    setting.lanes.add(messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], refused=False)
    setting.queue.wait_for(lambda: setting.queue.returned == ["a2"])
    assert setting.names() == ["a1"]


def test_what_is_left_to_its_lease_keeps_its_group(setting: Setting) -> None:
    """It is neither deleted nor given back; what is behind it is."""
    setting.on_start = setting.lanes.leave
    setting.lanes.add(messages("a1", "a2"))
    setting.queue.wait_for(lambda: setting.queue.returned == ["a2"])
    assert setting.names() == ["a1"]
    assert setting.keeper.drain(time.monotonic() + 60)
    assert setting.queue.deleted == []


def test_what_has_lost_its_lease_is_not_started(setting: Setting) -> None:
    """Another engine may have it; a handle of before says nothing."""
    old, new = messages("a1", "a2")
    setting.queue.on["extend"] = lambda handles: [EntryFailure(0, "InvalidParameterValue", "", True)]
    setting.lanes.add([Message("body", "a1", "id", old.received - 1000, group="a"), new])
    setting.queue.wait_for(lambda: setting.queue.returned == ["a2"])
    assert setting.names() == []


def test_what_comes_anew_replaces_what_waits(setting: Setting) -> None:
    """SQS took it for lost, or it would not give it; the first goes on, and is waited for."""
    setting.lanes.add(messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    setting.lanes.add([Message("body", "a1-again", "id-a1", time.monotonic(), group="a")])
    settle([a1], refused=False)
    setting.wait_for_start("a1", "a1-again")
    assert setting.queue.returned == []


def test_a_stop_gives_back_what_has_not_begun(setting: Setting) -> None:
    """In order; what runs may end."""
    setting.lanes.add(messages("a1", "a2", "a3"))
    (a1,) = setting.wait_for_start("a1")
    setting.lanes.stop()
    setting.queue.wait_for(lambda: setting.queue.returned == ["a2", "a3"])
    setting.lanes.add(messages("a4"))
    setting.queue.wait_for(lambda: setting.queue.returned == ["a2", "a3", "a4"])
    settle([a1], refused=False)
    assert setting.keeper.drain(time.monotonic() + 60)
    assert (setting.names(), setting.queue.deleted) == (["a1"], ["a1"])


def test_an_error_of_ours_gives_the_group_back(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """And the thread goes on."""

    def fail(delivery: Delivery) -> None:
        if delivery.message.handle == "a1":
            raise ValueError("bug")

    setting.on_start = fail
    with caplog.at_level(logging.ERROR):
        setting.lanes.add(messages("a1", "a2"))
        setting.queue.wait_for(lambda: setting.queue.returned == ["a1", "a2"])
    assert "they come again" in caplog.text
    setting.lanes.add(messages("b1"))
    setting.wait_for_start("a1", "b1")


def test_lanes_hold_no_more_than_they_may(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room again when something of them has ended."""
    monkeypatch.setattr("balog_celery.consumers.lanes.MAX_HELD", 2)
    assert setting.lanes.wait_for_room(0)
    setting.lanes.add(messages("a1", "a2"))
    assert not setting.lanes.wait_for_room(0)
    (a1,) = setting.wait_for_start("a1")
    settle([a1], refused=False)
    assert setting.lanes.wait_for_room(60)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    fates=st.lists(st.sampled_from(["done", "done", "refused"]), max_size=30),
    seed=st.integers(0, 2**32),
)
def test_whatever_ends_first_a_group_keeps_its_order(sizes: list[int], fates: list[str], seed: int) -> None:
    """Against a queue that gives a group's messages again, from the first that is left, when all came back."""
    setting, order = Setting(), random.Random(seed)
    left = {group: [f"{group}{number}" for number in range(size)] for group, size in zip("abcd", sizes, strict=False)}
    total = sum(sizes)
    under_way: list[Delivery] = []
    ran: list[str] = []
    setting.on_start = under_way.append
    remaining = iter(fates)
    try:
        for group in left:
            setting.lanes.add(messages(*left[group]))
        while len(setting.queue.deleted) < total:
            with setting.changed:
                assert setting.changed.wait_for(lambda: under_way, 60)
            groups = [delivery.message.group for delivery in under_way]
            assert len(set(groups)) == len(groups)
            delivery = under_way.pop(order.randrange(len(under_way)))
            name, group = delivery.message.handle, delivery.message.group
            assert name == left[group][0]
            ran.append(name)
            if next(remaining, "done") == "done":
                left[group].pop(0)
                settle([delivery], refused=False)
                setting.queue.wait_for(lambda name=name: name in setting.queue.deleted)
            else:
                back = len(setting.queue.returned) + len(left[group])
                settle([delivery], refused=True)
                setting.queue.wait_for(lambda back=back: len(setting.queue.returned) == back)
                setting.lanes.add(messages(*left[group]))
    finally:
        setting.close()
    for group, size in zip("abcd", sizes, strict=False):
        first = list(dict.fromkeys(name for name in ran if name[0] == group))
        assert first == [f"{group}{number}" for number in range(size)]
