"""Deletes that a poller sends beside its receives, against a scripted SQS over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servers
from balog_celery.consumers.delivery import Delivery, Settlement, State, settle
from balog_celery.engine.acknowledger import Acknowledger
from balog_celery.engine.engine import Engine
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout
from balog_celery.sqs import clients
from balog_celery.sqs.messages import EntryFailure, OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from engines import hub_of, running
from sample_events import event_text
from scripted_sqs.errors import ApiError
from scripted_sqs.nonsense import forms
from scripted_sqs.raw import KEYS
from scripted_sqs.script import Fault
from scripted_sqs.server import RunningSqs, serving_sqs

pytestmark = pytest.mark.usefixtures("own_clients")
NEVER = 3600.0
DELETE = "DeleteMessageBatch"
FAULTS = [
    Fault(DELETE, hang_up=True),
    Fault(DELETE, hang_up=True, carried_out=True),
    Fault(DELETE, error=ApiError("InternalFailure", status=500)),
    Fault(DELETE, error=ApiError("AccessDenied", status=403), times=4),
    Fault(DELETE, error=ApiError("InternalError", status=500), entries=range(10)),
    Fault(DELETE, error=ApiError("InternalError", status=500), entries=[3, 7]),
    *(Fault(DELETE, form=form, carried_out=done) for form in forms(DELETE) for done in (False, True)),
]


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSqs]:
    """A scripted SQS; boto3's client retries at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with serving_sqs() as sqs:
        yield sqs


class Setting:
    """A queue with an acknowledger whose thread runs, and this thread as its poller."""

    def __init__(
        self, sqs: RunningSqs, name: str = "topic", linger: float = NEVER, make: type[SQSQueue] = SQSQueue
    ) -> None:
        self.sqs = sqs
        self.queue = make(name, region="us-east-1", endpoint_url=sqs.endpoint, **KEYS)
        self.queue.create()
        self.stats = TopicStats()
        self.extender = VisibilityExtender(self.queue, VisibilityTimeout(self.queue, 30), self.stats)
        self.acknowledger = Acknowledger(self.queue, self.extender, self.stats, linger=linger)
        self.acknowledger.start()

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *_: object) -> None:
        self.sqs.script.release()
        assert self.close() == 0

    def close(self) -> int:
        return self.acknowledger.close(time.monotonic() + 60)

    def receive(self, count: int) -> list[Delivery]:
        """Send, receive and hold *count* messages."""
        deliveries: list[Delivery] = []
        for number in range(count):
            self.queue.send([OutgoingMessage(str(number), group="g")])
        while len(deliveries) < count:
            messages = self.queue.receive(10, 0, 30)
            deliveries += self.extender.hold([Delivery(one, 1, self.acknowledger.settle) for one in messages])
        return deliveries

    def attend(self, count: int) -> list[Delivery]:
        """Receive *count* messages as a poller that goes on, and settle them."""
        deliveries = self.receive(count)
        self.acknowledger.finish_deletes(is_attending=True)
        settle(deliveries, Settlement.ACKNOWLEDGE)
        return deliveries

    def go_on(self) -> bool:
        """Start and finish deletes as a poller that goes on; return whether none are pending."""
        self.acknowledger.finish_deletes(is_attending=True)
        self.acknowledger.start_deletes()
        return self.acknowledger.pending == 0

    def finish(self, but: int = 0) -> None:
        """Read answers as the poller, until no more than *but* deletes are pending."""

        def has_finished() -> bool:
            self.acknowledger.finish_deletes(is_attending=False)
            return self.acknowledger.pending == but

        servers.wait_until(has_finished, 30, "the answers")

    def deletes(self) -> list[int]:
        """How many messages each call was to delete."""
        return [len(asked["Entries"]) for asked in self.sqs.script.calls_of(DELETE)]

    @property
    def left(self) -> int:
        """How many messages the queue holds."""
        return len(self.sqs.store.queues[self.queue.name])


def states(deliveries: list[Delivery]) -> set[State]:
    return {delivery.state for delivery in deliveries}


def test_full_deletes_are_sent_by_the_poller_and_the_rest_waits(sqs: RunningSqs) -> None:
    """A poller sends deletes of ten, and reads their answers; those that are fewer wait for others."""
    with Setting(sqs) as setting:
        deliveries = setting.attend(25)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: setting.deletes() == [10, 10])
        assert setting.acknowledger.pending == 25
        setting.finish(but=5)
        assert setting.stats.counts()["deleted"] == 20
    assert setting.deletes() == [10, 10, 5]
    assert states(deliveries) == {State.DELETED}
    assert not setting.extender.held()


def test_the_thread_reads_the_answers_that_the_poller_leaves(sqs: RunningSqs) -> None:
    """Where the poller waits for messages, or has died, the thread soon reads the answer."""
    with Setting(sqs) as setting:
        deliveries = setting.attend(10)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: setting.acknowledger.pending == 0)
        assert states(deliveries) == {State.DELETED}
        assert setting.deletes() == [10]


def test_the_thread_reads_an_answer_whose_request_took_long(sqs: RunningSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that takes longer to send than the thread looks for more work is not forgotten."""
    start = SQSQueue.start_delete

    def slow(queue: SQSQueue, handles: Sequence[str]) -> Any:
        time.sleep(0.3)
        return start(queue, handles)

    monkeypatch.setattr(SQSQueue, "start_delete", slow)
    with Setting(sqs, linger=0.05) as setting:
        setting.attend(10)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: setting.acknowledger.pending == 0)


@pytest.mark.parametrize("how", ["receives nothing", "waits for messages"])
def test_a_poller_that_waits_leaves_full_deletes_to_the_thread(sqs: RunningSqs, how: str) -> None:
    """The thread makes full deletes at once unless the poller will soon start them."""
    with Setting(sqs) as setting:
        deliveries = setting.receive(20)
        setting.acknowledger.finish_deletes(is_attending=how == "waits for messages")
        setting.acknowledger.start_deletes()
        if how == "receives nothing":
            setting.acknowledger.finish_deletes(is_attending=False)
        settle(deliveries, Settlement.ACKNOWLEDGE)
        servers.wait_until(lambda: setting.acknowledger.pending == 0)


def test_a_late_answer_keeps_no_poller(sqs: RunningSqs) -> None:
    """A poller goes on while an answer has not come, and takes it later."""
    with Setting(sqs) as setting:
        sqs.script.add(Fault(DELETE, hang=True))
        deliveries = setting.attend(10)
        setting.acknowledger.start_deletes()
        setting.acknowledger.finish_deletes(is_attending=True)
        assert states(deliveries) == {State.DELETING}
        sqs.script.release()
        sqs.store.advance(0)
        setting.finish()
        assert states(deliveries) == {State.DELETED}


def test_few_deletes_are_under_way_at_a_time(sqs: RunningSqs) -> None:
    """Those of a batch of 100 are started together, each on a connection of its own; the rest is deleted later."""
    with Setting(sqs) as setting:
        sqs.script.add(Fault(DELETE, hang=True, times=None))
        setting.attend(200)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: len(setting.deletes()) >= 10)
        assert len(setting.deletes()) <= 11  # one of them is the thread's
        sqs.script.release()
        sqs.store.advance(0)
        servers.wait_until(setting.go_on)
        assert setting.left == 0
        assert setting.deletes() == [10] * 20


def test_while_answers_do_not_come_no_more_deletes_are_started(sqs: RunningSqs) -> None:
    """A poller that goes on receiving while deletes hang has few connections on which it waits for answers."""
    with Setting(sqs) as setting:
        sqs.script.add(Fault(DELETE, hang=True, times=None))
        # Given a delete on whose answer the thread waits, and one that should have been answered
        for number in (1, 2):
            setting.attend(10)
            setting.acknowledger.start_deletes()
            servers.wait_until(lambda number=number: len(setting.deletes()) == number)
            late = time.monotonic() + 0.2
            servers.wait_until(lambda late=late: time.monotonic() > late)
        # When the poller goes on
        for _ in range(3):
            setting.attend(10)
            setting.acknowledger.start_deletes()
        # Then it starts no more, and all are made in the end
        assert setting.deletes() == [10, 10]
        sqs.script.release()
        sqs.store.advance(0)
        servers.wait_until(setting.go_on)
        assert setting.left == 0


def test_closing_waits_for_deletes_under_way(sqs: RunningSqs) -> None:
    """Closing reads the answers of deletes that were started."""
    with Setting(sqs) as setting:
        deliveries = setting.attend(10)
        setting.acknowledger.start_deletes()
        assert setting.close() == 0
        assert states(deliveries) == {State.DELETED}


def test_closing_waits_for_what_a_poller_has_just_taken(sqs: RunningSqs) -> None:
    """Its request cannot be sent, after the acknowledger was closed: the thread deletes it in the end."""
    closed: list[Future[int]] = []

    class Unsent(SQSQueue):
        def start_delete(self, handles: Sequence[str]) -> None:
            closed.append(pool.submit(setting.close))
            late = time.monotonic() + 0.3
            servers.wait_until(lambda: time.monotonic() > late)

    with Setting(sqs, make=Unsent) as setting, ThreadPoolExecutor(1) as pool:
        deliveries = setting.attend(10)
        setting.acknowledger.start_deletes()
        assert closed[0].result(60) == 0
        assert states(deliveries) == {State.DELETED}


def test_closing_ends_when_a_poller_has_made_the_last_delete(sqs: RunningSqs) -> None:
    """The thread has nothing to do then, and does not wait for the deadline."""
    closed: list[Future[int]] = []

    class Answered:
        def is_answered(self) -> bool:
            return True

        def finish(self) -> list[EntryFailure]:
            closed.append(pool.submit(setting.close))
            late = time.monotonic() + 0.3
            servers.wait_until(lambda: time.monotonic() > late)
            return []

    class Starting(SQSQueue):
        def start_delete(self, handles: Sequence[str]) -> Any:
            return Answered()

    with Setting(sqs, make=Starting) as setting, ThreadPoolExecutor(1) as pool:
        setting.attend(10)
        setting.acknowledger.start_deletes()
        setting.acknowledger.finish_deletes(is_attending=True)
        assert closed[0].result(30) == 0


@pytest.mark.parametrize("most", [1, 3, 9, 10])
def test_a_small_room_does_not_wait_for_deletes(sqs: RunningSqs, most: int) -> None:
    """Deletes that wait for nine others would keep a room for fewer messages full."""
    queue = SQSQueue("topic", region="us-east-1", endpoint_url=sqs.endpoint, **KEYS)
    queue.create()
    queue.send([OutgoingMessage(event_text(str(number))) for number in range(10)])

    def connect(topic: str) -> SQSQueue:
        return SQSQueue(topic, region="us-east-1", endpoint_url=sqs.endpoint, **KEYS)

    connect("topic-dead").create()
    with running(Engine(hub_of(lambda _event: None), connect, wait_time=1, max_in_flight=most, linger=NEVER)):
        servers.wait_until(lambda: len(sqs.store.queues["topic"]) == 0)


@pytest.mark.parametrize(
    "fault",
    FAULTS,
    ids=lambda fault: f"{fault.form or fault.error or 'hang up'}, {'done' if fault.carried_out else 'not done'}",
)
def test_what_a_started_delete_has_not_done_is_done_by_the_thread(sqs: RunningSqs, fault: Fault) -> None:
    """Whatever goes wrong, the thread makes the delete again, until SQS says that each message is deleted."""
    with Setting(sqs, linger=0.05) as setting:
        deliveries = setting.attend(10)
        sqs.script.add(fault)
        setting.acknowledger.start_deletes()
        setting.finish()
        assert states(deliveries) <= {State.DELETED, State.EXPIRED}
        assert setting.left == 0
        assert not setting.extender.held()
        assert setting.acknowledger.status()["outages"] == {}


def test_no_delete_is_started_while_deletes_fail(sqs: RunningSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """While deletes fail, only the thread tries, with its back-off."""
    # Given an outage, which a started delete has met first
    started: list[Sequence[str]] = []
    start = SQSQueue.start_delete
    monkeypatch.setattr(
        SQSQueue, "start_delete", lambda queue, handles: started.append(handles) or start(queue, handles)
    )
    with Setting(sqs, linger=0.05) as setting:
        sqs.script.fail(DELETE, "InternalFailure", status=500, times=None)
        setting.attend(10)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: setting.acknowledger.status()["outages"])
        assert len(started) == 1
        # When more are to be deleted
        setting.attend(10)
        setting.acknowledger.start_deletes()
        # Then the poller starts none, and all of them are made once SQS works again
        assert len(started) == 1
        sqs.script.release()
        setting.finish()
        assert setting.left == 0


def test_a_message_that_comes_again_meanwhile_is_deleted_by_its_new_handle(sqs: RunningSqs) -> None:
    """A message that is received again while its delete is under way is deleted by its new handle."""
    with Setting(sqs, linger=0.05) as setting:
        sqs.script.add(Fault(DELETE, delay=0.5))
        deliveries = setting.attend(10)
        setting.acknowledger.start_deletes()
        queue = sqs.store.queues["topic"]
        sqs.store.lapse(queue, next(iter(queue)))
        again = [Delivery(one, 1, setting.acknowledger.settle) for one in setting.queue.receive(10, 0, 30)]
        assert len(again) == 1
        assert setting.extender.hold(again) == []
        setting.finish()
        assert setting.left == 0
        assert states(deliveries) == {State.DELETED}


def test_a_fifo_queue_and_one_by_boto3_start_no_deletes(sqs: RunningSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes of a FIFO queue go one after the other; those that take boto3's client are the thread's."""
    with Setting(sqs, "topic.fifo") as setting:
        assert not setting.acknowledger.can_start_deletes
    monkeypatch.setattr(clients, "needs_client", lambda _client: "a test")
    clients.clients.forget()
    with Setting(sqs) as setting:
        deliveries = setting.attend(20)
        setting.acknowledger.start_deletes()
        servers.wait_until(lambda: setting.acknowledger.pending == 0)
        assert states(deliveries) == {State.DELETED}
        assert setting.deletes() == [10, 10]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("settle"), st.integers(1, 25)),
            st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
            st.tuples(st.sampled_from(["start", "finish", "lapse"]), st.none()),
        ),
        max_size=15,
    )
)
def test_every_message_is_deleted_whatever_happens_to_the_calls(plan: list[tuple[str, Any]]) -> None:
    """In any order of starts, answers, faults and lapses, each settled message is deleted in the end."""
    with serving_sqs() as sqs, Setting(sqs, linger=0.02) as setting:
        deliveries: list[Delivery] = []
        for action, more in plan:
            if action == "settle":
                deliveries += setting.attend(more)
            elif action == "fault":
                sqs.script.add(replace(more))
            elif action == "start":
                setting.acknowledger.start_deletes()
            elif action == "finish":
                setting.acknowledger.finish_deletes(is_attending=True)
            else:
                queue = sqs.store.queues["topic"]
                for message in queue:
                    sqs.store.lapse(queue, message)
        setting.acknowledger.start_deletes()
        sqs.script.release()
        setting.finish()
        assert states(deliveries) <= {State.DELETED, State.EXPIRED}
        assert setting.left == 0
    clients.clients.forget()


def test_a_delete_that_hangs_delays_no_receive(sqs: RunningSqs) -> None:
    """An engine goes on receiving while a delete of it hangs, and deletes each message in the end."""
    done: list[str] = []

    def note(event: Any) -> None:
        done.append(event["header"]["id"])

    def connect(topic: str) -> SQSQueue:
        return SQSQueue(topic, region="us-east-1", endpoint_url=sqs.endpoint, **KEYS)

    queue = connect("topic")
    queue.create()
    connect("topic-dead").create()
    for number in range(60):
        queue.send([OutgoingMessage(event_text(str(number)))])
    sqs.script.add(Fault(DELETE, hang=True))
    with running(Engine(hub_of(note), connect, wait_time=1)):
        servers.wait_until(lambda: len(done) == 60)
        sqs.script.release()
        sqs.store.advance(0)
        servers.wait_until(lambda: len(sqs.store.queues["topic"]) == 0)
    assert sorted(done, key=int) == [str(number) for number in range(60)]
