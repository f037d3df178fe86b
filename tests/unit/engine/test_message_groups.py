"""The order of FIFO topics over scripted queues: which messages are started and which are released."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.consumers.delivery import Delivery, Settlement, settle
from balog_celery.engine.acknowledger import Acknowledger
from balog_celery.engine.message_groups import MessageGroups
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout
from balog_celery.sqs.messages import EntryFailure, Message
from scripted_sqs.observed import ObservedQueue


class Setting:
    """Message groups over a queue, with running threads, and the deliveries that were started."""

    def __init__(self, visibility: int = 30) -> None:
        self.queue = ObservedQueue("topic.fifo")
        self.extender = VisibilityExtender(self.queue, VisibilityTimeout(self.queue, visibility), TopicStats())
        self.acknowledger = Acknowledger(self.queue, self.extender, TopicStats())
        self.groups = MessageGroups("topic.fifo", self.extender, self.acknowledger, self._start)
        self.started: list[Delivery] = []
        self.changed = threading.Condition()
        self.on_start: Callable[[Delivery], None] = lambda delivery: None
        self.extender.start()
        self.acknowledger.start()
        self.groups.start()

    def _start(self, deliveries: Sequence[Delivery]) -> None:
        groups = [delivery.message.group for delivery in deliveries]
        assert len(set(groups)) == len(groups)
        with self.changed:
            self.started += deliveries
            self.changed.notify_all()
        try:
            for delivery in deliveries:
                self.on_start(delivery)
        except ValueError:
            for delivery in deliveries:
                delivery.settle_now(Settlement.RELEASE)
            raise
        with self.changed:
            self.changed.notify_all()

    def messages(self, *names: str) -> list[Message]:
        """Receive messages, whose group is the first letter of their name, for the first time or again."""
        for name in names:
            if not self.queue.holds(name):
                self.queue.put("body", name=name, group=name[0])
        return [self.queue.take(name) for name in names]

    def wait_for_start(self, *names: str) -> list[Delivery]:
        """Wait until exactly these messages were started, in any order."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.started) >= len(names), 60)
            assert sorted(self.names()) == sorted(names)
            return [next(one for one in self.started if self.name_of(one) == name) for name in names]

    def names(self) -> list[str]:
        return [self.name_of(delivery) for delivery in self.started]

    def name_of(self, delivery: Delivery) -> str:
        return self.queue.name_of(delivery.message.handle)

    def close(self) -> None:
        self.groups.stop()
        self.groups.join(time.monotonic() + 60)
        assert self.acknowledger.close(time.monotonic() + 60) == 0
        self.extender.close(time.monotonic() + 60)


@pytest.fixture
def setting() -> Iterator[Setting]:
    """Message groups with running threads."""
    setting = Setting()
    yield setting
    setting.close()


def test_one_of_a_group_is_under_way_and_groups_beside_one_another(setting: Setting) -> None:
    """Groups run in parallel; the next message of a group starts when SQS has deleted the one before."""
    setting.groups.add(setting.messages("a1", "a2", "b1", "a3"))
    a1, _ = setting.wait_for_start("a1", "b1")
    settle([a1], Settlement.ACKNOWLEDGE)
    *_, a2 = setting.wait_for_start("a1", "b1", "a2")
    assert setting.queue.deleted == ["a1"]
    settle([a2], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "b1", "a2", "a3")
    assert setting.queue.deleted == ["a1", "a2"]


def test_a_message_received_while_another_of_its_group_runs_waits_for_it(setting: Setting) -> None:
    """Two messages of a group never run at the same time, in any order of receives; other groups go on."""
    # Given a message that runs
    setting.groups.add(setting.messages("a1"))
    (a1,) = setting.wait_for_start("a1")

    # When another of its group is received, and then one of another group
    setting.groups.add(setting.messages("a2"))
    setting.groups.add(setting.messages("b1"))

    # Then the one of its group starts only after its delete
    setting.wait_for_start("a1", "b1")
    settle([a1], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "b1", "a2")
    assert setting.queue.deleted == ["a1"]


def test_the_next_waits_for_a_delete_that_fails_for_now(setting: Setting) -> None:
    """The next message of a group waits while the delete before it fails: a crash would bring that one back."""
    failures = iter([True, True, False])
    started_at_call: list[list[str]] = []

    def delete(handles: list[str]) -> list[EntryFailure]:
        started_at_call.append(setting.names())
        return [EntryFailure(0, "InternalError", "", False)] if next(failures) else []

    setting.queue.on["delete"] = delete
    setting.groups.add(setting.messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "a2")
    assert started_at_call == [["a1"]] * 3


def test_what_comes_while_the_delete_of_the_last_is_under_way_waits_for_it(setting: Setting) -> None:
    """A message that arrives during the delete of the one before waits for its answer."""

    def delete(handles: list[str]) -> None:
        if handles == ["a1"]:
            setting.groups.add(setting.messages("a2", "a3"))
            assert setting.names() == ["a1"]

    setting.queue.on["delete"] = delete
    setting.groups.add(setting.messages("a1"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], Settlement.ACKNOWLEDGE)
    _, a2 = setting.wait_for_start("a1", "a2")
    settle([a2], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "a2", "a3")


def test_a_refused_delivery_takes_its_group_with_it(setting: Setting) -> None:
    """A released delivery releases its group, in order, and no other."""
    setting.groups.add(setting.messages("a1", "a2", "b1", "b2", "a3"))
    a1, b1 = setting.wait_for_start("a1", "b1")
    settle([a1], Settlement.RELEASE)
    setting.queue.wait_for(lambda: setting.queue.released == ["a1", "a2", "a3"])
    settle([b1], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "b1", "b2")
    setting.groups.add(setting.messages("a1"))
    setting.wait_for_start("a1", "b1", "b2", "a1")


def test_a_delete_that_comes_too_late_ends_its_group(setting: Setting) -> None:
    """After a delete that came too late, the rest of the group is released."""
    setting.queue.on["delete"] = lambda names: setting.queue.lapse("a1")
    setting.groups.add(setting.messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], Settlement.ACKNOWLEDGE)
    setting.queue.wait_for(lambda: setting.queue.released == ["a2"])
    assert setting.names() == ["a1"]


def test_a_delivery_that_expires_holds_its_group(setting: Setting) -> None:
    """An expired delivery blocks its group: those behind it are released."""
    setting.on_start = lambda delivery: delivery.settle_now(Settlement.EXPIRE)
    setting.groups.add(setting.messages("a1", "a2"))
    setting.queue.wait_for(lambda: setting.queue.released == ["a2"])
    assert setting.names() == ["a1"]
    assert setting.extender.drain(time.monotonic() + 60)
    assert setting.queue.deleted == []


def test_a_delivery_whose_visibility_has_lapsed_is_not_started(setting: Setting) -> None:
    """A delivery whose visibility has lapsed is not started, because another engine may have it."""
    old, new = setting.messages("a1", "a2")
    setting.queue.lapse("a1")
    setting.groups.add([old._replace(received=old.received - 1000), new])
    setting.queue.wait_for(lambda: setting.queue.released == ["a2"])
    assert setting.names() == []


def test_a_group_that_comes_again_keeps_its_place_and_its_order(setting: Setting) -> None:
    """A group that is received again keeps its order: the running message goes on, and none is started twice."""
    # Given a group of which the first is under way, and another group
    setting.groups.add(setting.messages("a1", "a2", "a3", "b1"))
    a1, b1 = setting.wait_for_start("a1", "b1")
    # When all of it comes again, and something that comes after it, and the other group goes on
    setting.groups.add(setting.messages("a1", "a2", "a3", "a4"))
    settle([b1], Settlement.ACKNOWLEDGE)
    setting.groups.add(setting.messages("b2"))
    # Then what is started afterwards is of the other group only
    *_, b2 = setting.wait_for_start("a1", "b1", "b2")
    settle([b2], Settlement.ACKNOWLEDGE)
    # And what waits is started in turn, each when the one before it was deleted by its new handle
    settle([a1], Settlement.ACKNOWLEDGE)
    for name, before in (("a2", "a1"), ("a3", "a2"), ("a4", "a3")):
        with setting.changed:
            assert setting.changed.wait_for(lambda: setting.names()[-1] == name, 60)  # noqa: B023
        assert before in setting.queue.deleted
        settle([setting.started[-1]], Settlement.ACKNOWLEDGE)
    setting.queue.wait_for(lambda: "a4" in setting.queue.deleted)
    assert len(setting.started) == 6
    assert setting.queue.released == []


def test_what_comes_after_those_that_wait_replaces_them(setting: Setting) -> None:
    """Waiting messages that another engine has processed are replaced by the new receive."""
    setting.groups.add(setting.messages("a1", "a2", "a3", "b1"))
    a1, b1 = setting.wait_for_start("a1", "b1")
    setting.groups.add(setting.messages("a4"))
    # Whatever the thread would have started wrongly, it would have started before this.
    settle([b1], Settlement.ACKNOWLEDGE)
    setting.groups.add(setting.messages("b2"))
    setting.wait_for_start("a1", "b1", "b2")
    settle([a1], Settlement.ACKNOWLEDGE)
    setting.wait_for_start("a1", "b1", "b2", "a4")
    assert setting.queue.released == []


def test_what_comes_again_while_its_delete_is_under_way_is_deleted_again(setting: Setting) -> None:
    """A message that is received again during its delete is deleted again before the next of its group starts."""
    # Given a delete that the queue refuses, as the handle is an old one by then
    calls: list[list[str]] = []

    def delete(names: list[str]) -> None:
        calls.append(names)
        if len(calls) == 1:
            setting.groups.add(setting.messages("a1", "a2"))

    setting.queue.on["delete"] = delete
    setting.groups.add(setting.messages("a1", "a2"))
    (a1,) = setting.wait_for_start("a1")
    settle([a1], Settlement.ACKNOWLEDGE)
    with setting.changed:
        assert setting.changed.wait_for(lambda: len(setting.started) == 2, 60)
    assert calls == [["a1"], ["a1"]]
    assert setting.names()[-1] == "a2"
    assert setting.queue.released == []


def test_what_comes_again_after_a_stop_is_not_released_while_it_runs(setting: Setting) -> None:
    """After a stop, a running message that is received again may finish, and new ones are released."""
    setting.groups.add(setting.messages("a1"))
    (a1,) = setting.wait_for_start("a1")
    setting.groups.stop()
    setting.groups.add(setting.messages("a1", "a2"))
    setting.queue.wait_for(lambda: setting.queue.released == ["a2"])
    settle([a1], Settlement.ACKNOWLEDGE)
    setting.queue.wait_for(lambda: setting.queue.deleted == ["a1"])


def test_a_stop_gives_back_what_has_not_begun(setting: Setting) -> None:
    """A stop releases the messages that have not started, in order; running ones may finish."""
    setting.groups.add(setting.messages("a1", "a2", "a3"))
    (a1,) = setting.wait_for_start("a1")
    setting.groups.stop()
    setting.queue.wait_for(lambda: setting.queue.released == ["a2", "a3"])
    setting.groups.add(setting.messages("a4"))
    setting.queue.wait_for(lambda: setting.queue.released == ["a2", "a3", "a4"])
    settle([a1], Settlement.ACKNOWLEDGE)
    assert setting.extender.drain(time.monotonic() + 60)
    assert (setting.names(), setting.queue.deleted) == (["a1"], ["a1"])


def test_an_error_of_ours_gives_the_group_back(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error releases the group, and the thread goes on."""

    def fail(delivery: Delivery) -> None:
        if setting.name_of(delivery) == "a1":
            raise ValueError("bug")

    setting.on_start = fail
    with caplog.at_level(logging.ERROR):
        setting.groups.add(setting.messages("a1", "a2"))
        setting.queue.wait_for(lambda: setting.queue.released == ["a1", "a2"])
        setting.groups.add(setting.messages("b1"))
        setting.wait_for_start("a1", "b1")
    assert "they will be received again" in caplog.text


def test_receives_wait_while_the_groups_are_full(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receives wait while too many messages are held, and go on when one has ended."""
    monkeypatch.setattr("balog_celery.engine.message_groups.MAX_HELD", 2)
    assert setting.groups.wait_for_room(0)
    setting.groups.add(setting.messages("a1", "a2"))
    assert not setting.groups.wait_for_room(0)
    (a1,) = setting.wait_for_start("a1")
    settle([a1], Settlement.ACKNOWLEDGE)
    assert setting.groups.wait_for_room(60)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    fates=st.lists(st.sampled_from(["done", "done", "refused"]), max_size=30),
    seed=st.integers(0, 2**32),
)
def test_whatever_ends_first_a_group_keeps_its_order(sizes: list[int], fates: list[str], seed: int) -> None:
    """In any order of ends and redeliveries, each group keeps its order."""
    setting, order = Setting(), random.Random(seed)
    left = {group: [f"{group}{number}" for number in range(size)] for group, size in zip("abcd", sizes, strict=False)}
    total = sum(sizes)
    under_way: list[Delivery] = []
    ran: list[str] = []
    setting.on_start = under_way.append
    remaining = iter(fates)
    try:
        for group in left:
            setting.groups.add(setting.messages(*left[group]))
        while len(setting.queue.deleted) < total:
            with setting.changed:
                assert setting.changed.wait_for(lambda: under_way, 60)
            groups = [delivery.message.group for delivery in under_way]
            assert len(set(groups)) == len(groups)
            delivery = under_way.pop(order.randrange(len(under_way)))
            name, group = setting.name_of(delivery), delivery.message.group
            assert name == left[group][0]
            ran.append(name)
            if next(remaining, "done") == "done":
                left[group].pop(0)
                settle([delivery], Settlement.ACKNOWLEDGE)
                setting.queue.wait_for(lambda name=name: name in setting.queue.deleted)
            else:
                back = len(setting.queue.released) + len(left[group])
                settle([delivery], Settlement.RELEASE)
                setting.queue.wait_for(lambda back=back: len(setting.queue.released) == back)
                setting.groups.add(setting.messages(*left[group]))
    finally:
        setting.close()
    for group, size in zip("abcd", sizes, strict=False):
        first = list(dict.fromkeys(name for name in ran if name[0] == group))
        assert first == [f"{group}{number}" for number in range(size)]
