"""Messages in flight and their extensions, against a scripted queue and a manual clock."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import servers
from balog_celery.consumers.delivery import Delivery, Settlement, State, settle
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout, visibility_of
from balog_celery.errors import AccessDenied, QueueError
from balog_celery.sqs.direct import time_for
from balog_celery.sqs.messages import EntryFailure, Message
from balog_celery.sqs.queues import SQSQueue
from engines import is_running
from scripted_sqs.clock import StoppedClock
from scripted_sqs.observed import ObservedQueue

STALE = "ReceiptHandleIsInvalid"
HOUR = 3600.0


class Setting:
    """A queue on a clock that the test moves, and an extender whose calls the test triggers."""

    def __init__(self, visibility: int = 30, queue: type[ObservedQueue] = ObservedQueue) -> None:
        self.clock = StoppedClock()
        self.queue = queue(clock=self.clock)
        self.stats = TopicStats()
        self.visibility = VisibilityTimeout(self.queue, visibility, clock=self.clock.now)
        self.extender = VisibilityExtender(self.queue, self.visibility, self.stats, clock=self.clock.now)
        self.settled: list[Delivery] = []

    def take(self, name: str) -> Delivery:
        """Receive a message, which is put into the queue if it is not there."""
        if not self.queue.holds(name):
            self.queue.put("body", name=name)
        return Delivery(self.queue.take(name, self.visibility.seconds), 1, self.settled.extend)

    def receive(self, *names: str) -> list[Delivery]:
        """Receive messages, and hold them."""
        return self.extender.hold([self.take(name) for name in names])

    def lapsed(self) -> list[str]:
        """Return the messages that are visible, in order."""
        return sorted(set(self.queue.remaining()) - set(self.queue.in_flight()))

    def go_on(self, seconds: float, *, stop_at_lapse: bool = True) -> None:
        """Move the clock on in steps, with each extension at its time."""
        end = self.clock.now() + seconds
        while (due := self.extender.extend_due()) <= end:
            assert due > self.clock.now() or self.extender.extend_due() > self.clock.now(), "it spins"
            self.clock.move_to(due)
            if stop_at_lapse:
                assert self.lapsed() == []
        self.clock.move_to(end)

    def extend_calls(self) -> list[list[str]]:
        return self.queue.calls_of("extend")


def test_what_is_in_flight_stays_invisible() -> None:
    """A message in flight is extended for hours, until it is forgotten."""
    setting = Setting()
    deliveries = setting.receive("a", "b")
    setting.go_on(3 * HOUR)
    assert setting.lapsed() == []
    assert not any(map(setting.extender.has_lapsed, deliveries))
    setting.extender.forget(deliveries[:1])
    setting.go_on(60, stop_at_lapse=False)
    assert setting.lapsed() == ["a"]
    assert setting.extender.status()["in_flight"] == 1


@pytest.mark.parametrize("visibility", [2, 3, 30, 3600, 43_200])
def test_the_first_extension_leaves_time_for_one_that_is_lost(visibility: int) -> None:
    """The first extension comes after a third of the visibility timeout, which leaves time for a lost call."""
    setting = Setting(visibility)
    setting.receive("a")
    assert setting.extender.extend_due() == pytest.approx(setting.clock.now() + visibility / 3)
    assert setting.extend_calls() == []
    setting.clock.advance(visibility / 3)
    setting.extender.extend_due()
    assert len(setting.extend_calls()) == 1


@given(visibility=st.integers(2, 43_200))
@example(visibility=2)
@example(visibility=3)
def test_extensions_that_hang_leave_time_for_another_one(visibility: int) -> None:
    """One that hangs for all of its time leaves as much for a second; of 3 s or more, two leave it for a third."""
    setting = Setting(visibility)
    setting.receive("a")
    hanging = 1 if visibility < 3 else 2
    calls: list[float] = []

    def take_all_the_time(_names: list[str]) -> None:
        entries = [{"VisibilityTimeout": visibility}]
        setting.clock.advance(time_for("ChangeMessageVisibilityBatch", {"Entries": entries}))
        calls.append(setting.clock.now())
        if len(calls) <= hanging:
            raise QueueError("no whole answer", "TimeoutError")

    setting.queue.on["extend"] = take_all_the_time
    while len(calls) <= hanging:
        setting.clock.move_to(setting.extender.extend_due())
        assert setting.lapsed() == []
    assert setting.queue.visible_at("a") > calls[-1]


@pytest.mark.parametrize("visibility", [30, 600, 4 * 3600, 10 * 3600, 43_200])
def test_a_message_is_kept_for_all_of_the_twelve_hours(visibility: int, caplog: pytest.LogCaptureFixture) -> None:
    """A message is extended until SQS's limit of 12 hours, then given up with a warning, and stays in flight."""
    # Given a message that stays in flight
    setting = Setting(visibility)
    (delivery,) = setting.receive("a")
    # When almost twelve hours have passed
    setting.go_on(12 * HOUR - 5)
    # Then it is invisible, and nobody has said otherwise
    assert setting.lapsed() == []
    assert "12 hours" not in caplog.text
    # And when they are over, it is not extended any more
    setting.go_on(HOUR, stop_at_lapse=False)
    calls = len(setting.extend_calls())
    assert caplog.text.count("1 message of topic in flight for 12 hours") == 1
    setting.go_on(24 * HOUR, stop_at_lapse=False)
    assert len(setting.extend_calls()) == calls
    # And no call was refused, nor made for nothing
    assert "stale_handles" not in setting.stats.counts()
    assert calls <= 3 * 12 * HOUR / visibility + 3
    assert setting.extender.has_lapsed(delivery)
    assert setting.extender.status()["in_flight"] == 1


def test_ten_go_in_one_call_and_those_that_are_nearly_due_with_them() -> None:
    """Ten messages go in one call, including those that are nearly due."""
    setting = Setting()
    for number in range(25):
        setting.receive(str(number))
        setting.clock.advance(0.01)
    setting.go_on(15)
    assert [len(handles) for handles in setting.extend_calls()] == [10, 10, 5]


def test_thousands_are_extended_the_most_urgent_first() -> None:
    """Of thousands of messages the most urgent are extended first, and failing ones delay no other."""
    setting = Setting()
    groups = [[f"{number}-{one}" for one in range(10)] for number in range(300)]
    for group in groups:
        setting.receive(*group)
        setting.clock.advance(0.01)
    setting.clock.advance(12)
    while setting.extender.extend_due() <= setting.clock.now():
        pass
    assert setting.extend_calls() == groups
    assert setting.lapsed() == []


@pytest.mark.parametrize("kind", ["raised", "bug", "all entries"])
def test_a_group_that_fails_keeps_no_other_from_being_extended(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Ten messages that fail do not keep others from being extended; they are retried with back-off, as one outage."""
    # Given two groups of ten, one of which cannot be extended
    caplog.set_level("INFO")
    setting = Setting()
    bad, good = [[f"{name}{number}" for number in range(10)] for name in ("bad", "good")]
    broken = [True]

    def fail(handles: list[str]) -> list[EntryFailure] | None:
        if handles[0] not in bad or not broken[0]:
            return None
        if kind == "all entries":
            return [EntryFailure(index, "InternalError", "", False) for index in range(len(handles))]
        raise QueueError("down") if kind == "raised" else ValueError("down")

    setting.queue.on["extend"] = fail
    setting.receive(*bad)
    setting.receive(*good)
    # When both are due
    setting.clock.advance(10)
    setting.extender.extend_due()
    # Then the other is extended in the same turn
    assert setting.extend_calls() == [bad, good]
    assert setting.queue.visible_at("good0") == setting.clock.now() + 30
    # And the bad one is, too, as soon as it can be, in time
    setting.go_on(10)
    broken[0] = False
    setting.go_on(9)
    assert setting.queue.visible_at("bad0") > setting.clock.now() + 15
    assert len(setting.extend_calls()) < 60
    assert setting.extender.status()["outages"] == {}


def test_an_outage_of_extensions_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An outage of extensions is logged at its begin and end, and is in the status with duration and reason."""
    caplog.set_level("INFO")
    setting = Setting()

    def denied(handles: list[str]) -> None:
        raise AccessDenied("not allowed")

    setting.queue.on["extend"] = denied
    setting.receive("a")
    setting.go_on(29)
    outage = setting.extender.status()["outages"]["extend"]
    assert outage["error"] == "not allowed"
    assert outage["fails_for"] == pytest.approx(19, abs=0.1)
    setting.queue.on.clear()
    setting.go_on(10, stop_at_lapse=False)
    assert setting.extender.status()["outages"] == {}
    said = [record.message for record in caplog.records if record.message.startswith("extending visibility in topic")]
    assert [message.split(",")[0] for message in said] == [
        "extending visibility in topic failed",
        "extending visibility in topic works again",
    ]


def test_an_entry_that_failed_is_tried_again_and_a_stale_one_is_not() -> None:
    """A failed entry is retried; one with a stale handle is not, but stays in flight, as its task still runs."""
    setting = Setting()
    answers = [[EntryFailure(0, "Throttled", "", False), EntryFailure(1, STALE, "", True)]]
    setting.queue.on["extend"] = lambda handles: answers.pop() if answers else None
    a, b, c = setting.receive("a", "b", "c")
    setting.clock.advance(10)
    setting.extender.extend_due()
    setting.go_on(4)
    assert setting.extend_calls() == [["a", "b", "c"], ["a"]]
    assert [setting.extender.has_lapsed(delivery) for delivery in (a, b, c)] == [False, True, False]
    assert setting.extender.status()["in_flight"] == 3
    assert setting.stats.counts() == {"extended": 2, "stale_handles": 1}


def test_what_is_settled_while_it_is_extended_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    """A message that is deleted during its extension is not reported as a failure."""
    setting = Setting()
    done, deleting = setting.receive("done", "deleting")
    settle([deleting], Settlement.ACKNOWLEDGE)
    deleting.move(State.DELETING)

    def extend(handles: list[str]) -> list[EntryFailure]:
        setting.extender.forget([done])
        return [EntryFailure(index, STALE, "", True) for index in range(len(handles))]

    setting.queue.on["extend"] = extend
    setting.clock.advance(10)
    setting.extender.extend_due()
    assert setting.stats.counts().get("stale_handles", 0) == 0
    assert not setting.extender.has_lapsed(deleting)
    assert caplog.text == ""


# What comes again while it is in flight


def test_a_message_that_is_still_in_flight_is_not_new(caplog: pytest.LogCaptureFixture) -> None:
    """A message that is received again while in flight keeps its delivery, with the new handle.

    It is logged and counted.
    """
    # Given a message whose visibility has lapsed while it runs
    setting = Setting()
    (delivery,) = setting.receive("a")
    setting.clock.advance(100)
    assert setting.extender.has_lapsed(delivery)
    # When it is received again, twice
    first = delivery.message
    for _ in range(2):
        again = setting.take("a")
        assert setting.extender.hold([again]) == []
    # Then nothing but handle, time and visibility of the delivery has changed
    assert delivery.message == first._replace(handle=again.message.handle, received=setting.clock.now())
    assert not setting.extender.has_lapsed(delivery)
    setting.go_on(60, stop_at_lapse=False)
    assert setting.queue.visible_at("a") > setting.clock.now()
    assert setting.extend_calls()[-1] == ["a"]
    # And it was counted each time, and logged once, with the cause
    assert setting.stats.counts()["received_again"] == 2
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "1 message of topic came again while in flight: the visibility timeout had" in warnings[0].message


def test_an_answer_about_an_old_handle_says_nothing_about_the_new_one() -> None:
    """A failed extension of an old handle does not affect the message's new handle."""
    setting = Setting()
    (delivery,) = setting.receive("a")

    def extend(names: list[str]) -> None:
        setting.extender.hold([setting.take("a")])  # before SQS carries the extension out, which it therefore refuses

    setting.queue.on["extend"] = extend
    setting.clock.advance(10)
    setting.extender.extend_due()
    assert not setting.extender.has_lapsed(delivery)
    setting.queue.on.clear()
    assert "stale_handles" not in setting.stats.counts()
    setting.go_on(29)


class Anonymous(ObservedQueue):
    """A queue as of a broker whose message ids say nothing."""

    has_unique_ids = False


def test_messages_of_one_id_are_not_one_where_ids_say_nothing() -> None:
    """Without unique ids, messages with one id or none are tracked separately."""
    setting = Setting(queue=Anonymous)
    deliveries = [setting.take(name) for name in ("a", "b")]
    for delivery in deliveries:
        delivery.message = delivery.message._replace(message_id="same")
    assert setting.extender.hold(deliveries) == deliveries
    assert setting.extender.status()["in_flight"] == 2
    setting.extender.forget(deliveries[:1])
    assert setting.extender.held() == deliveries[1:]
    setting.go_on(60, stop_at_lapse=False)
    assert setting.lapsed() == ["a"]


def test_one_that_comes_twice_in_a_receive_is_one() -> None:
    """A message that is twice in a receive is one delivery, with the last handle."""
    setting = Setting()
    deliveries = [setting.take("a"), setting.take("a")]
    last = deliveries[1].message.handle
    assert setting.extender.hold(deliveries) == deliveries[:1]
    assert deliveries[0].message.handle == last


def test_what_was_let_go_is_new_when_it_comes() -> None:
    """A message that was forgotten is a new delivery when it is received again."""
    setting = Setting()
    (old,) = setting.receive("a")
    setting.extender.forget([old])
    (new,) = setting.receive("a")
    assert new is not old
    assert setting.extender.has_come_again(old)
    assert not setting.extender.has_come_again(new)
    setting.extender.forget([old])
    assert setting.extender.held() == [new]


@settings(max_examples=50, deadline=None)
@given(
    visibility=st.sampled_from([2, 5, 30, 600, 4 * 3600, 43_200]),
    plan=st.lists(
        st.tuples(st.sampled_from(["receive", "settle", "fail", "works", "wait"]), st.floats(0.0, 1.0)), max_size=30
    ),
)
def test_nothing_lapses_within_twelve_hours_unless_calls_fail(visibility: int, plan: list[tuple[str, float]]) -> None:
    """No visibility lapses within twelve hours unless calls fail, in any order of receives and ends."""
    setting = Setting(visibility)
    held: dict[str, Delivery] = {}
    failed = False
    for number, (action, share) in enumerate(plan):
        if action == "receive":
            names = [f"{number}-{n}" for n in range(12)]
            held.update(zip(names, setting.receive(*names), strict=True))
        elif action == "settle" and held:
            gone = held.pop(sorted(held)[int(share * (len(held) - 1))])
            setting.extender.forget([gone])
            setting.queue.delete([gone.message.handle])
        elif action == "fail":
            failed = True
            setting.queue.on["extend"] = lambda handles: (_ for _ in ()).throw(QueueError("down"))
        elif action == "works":
            setting.queue.on.clear()
        setting.go_on(share * min(visibility, HOUR), stop_at_lapse=False)
        assert {setting.queue.name_of(one.message.handle) for one in setting.extender.held()} == held.keys()
        if not failed:
            assert setting.lapsed() == []
    assert len(setting.extend_calls()) < 3000


# Its thread, in real time


def test_the_thread_extends_what_is_due_before_what_it_waits_for() -> None:
    """The thread extends a message that was received long ago before it waits, and ends on request."""
    queue = ObservedQueue()
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, 600), TopicStats())
    extender.start()
    for name in ("young", "old"):
        queue.put("body", name=name)
    young, old = queue.take("young", 600), queue.take("old", 600)
    old = old._replace(received=old.received - 400)
    extender.hold([Delivery(young, 1, lambda _: None)])
    extender.hold([Delivery(old, 1, lambda _: None)])
    queue.wait_for(lambda: queue.extended == ["old"])
    extender.close(time.monotonic() + 60)
    assert not [thread for thread in threading.enumerate() if thread.name == "extender-topic"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced_and_goes_on_with_what_is_held() -> None:
    """A dead thread is replaced, and the messages in flight are extended, including those of its last call."""
    queue, stats = ObservedQueue(), TopicStats()
    dies = [SystemExit()]

    def die_once(handles: list[str]) -> None:
        if dies:
            raise dies.pop()

    queue.on["extend"] = die_once
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, 2), stats)
    extender.start()
    queue.put("body", name="a")
    extender.hold([Delivery(queue.take("a", 2), 1, lambda _: None)])
    servers.wait_until(lambda: not is_running("extender-topic"), what="its death")
    extender.ensure_alive()
    queue.wait_for(lambda: queue.extended == ["a"])
    assert stats.counts()["restarted"] == 1
    extender.close(time.monotonic() + 60)


def test_who_drains_waits_until_nothing_is_held() -> None:
    """`drain` waits until no message is in flight, or for its deadline."""
    extender = VisibilityExtender(ObservedQueue(), VisibilityTimeout(ObservedQueue(), 30), TopicStats())
    delivery = Delivery(Message("", "a", "m", time.monotonic()), 1, lambda _: None)
    extender.hold([delivery])
    assert not extender.drain(time.monotonic() + 0.05)
    timer, began = threading.Timer(0.1, lambda: extender.forget([delivery])), time.monotonic()
    timer.start()
    assert extender.drain(began + 60)
    assert time.monotonic() - began < 50
    timer.join(60)


# The number that all of it counts with


@pytest.mark.parametrize(
    ("setting", "own", "number"),
    [(None, "60", 60), (45, "60", 45), (None, None, 30), (45, None, 45), (None, "0", 30), (None, "1", 30), (2, "0", 2)],
)
def test_the_visibility_is_the_settings_else_the_queues_else_30(
    setting: int | None, own: str | None, number: int
) -> None:
    """The visibility timeout is the setting, else the queue's own from 2 s on, else 30 s."""
    assert visibility_of(setting, {} if own is None else {"VisibilityTimeout": own}) == number


@pytest.mark.parametrize("took", [0.3, 1.6])
def test_a_visibility_counts_from_when_sqs_may_have_begun_it(took: float) -> None:
    """A visibility timeout counts from shortly before the answer, not from the begin of a long poll."""
    body = json.dumps({"Messages": [{"Body": "b", "ReceiptHandle": "h", "MessageId": "m", "Attributes": {}}]}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(took)  # the poll, or the way back: nobody can tell
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    asked: list[dict[str, Any]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/1/events"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        queue = SQSQueue(url, region="us-east-1", endpoint_url=url.removesuffix("/1/events"), **keys)
        begin = time.monotonic()
        (message,) = queue.receive(10, 0, 45)
        end = time.monotonic()
        server.shutdown()
    assert asked[0]["VisibilityTimeout"] == 45
    # An answer that took a moment may have been given at once; of a long poll it followed within a second.
    assert begin <= message.received <= end - min(took, 0.9)
    assert end - message.received <= took + 0.9
