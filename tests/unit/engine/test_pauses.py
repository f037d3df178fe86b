"""Paused topics and consumers in an engine: what waits, what goes on, and what a resume and a stop do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.delivery import Job
from balog_celery.engine import poller
from balog_celery.engine.engine import Engine
from balog_celery.engine.pauses import REASON, Paused, Pauses
from balog_celery.engine.status import problems
from balog_celery.records import decode
from engines import Queues, Recorder, ScriptedDispatcher, running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


class Setting:
    """An engine with the consumers ``one`` and ``two`` of all events and ``logs`` of logs, and its file of pauses."""

    def __init__(self, folder: Path, topic: str = "topic", dispatcher: Any = None) -> None:
        self.path = folder / "paused.json"
        self.pause()
        self.one, self.two, self.logs = Recorder(), Recorder(), Recorder()
        hub = ConsumerHub()
        hub.add_consumer(Consumer(self.one.process, topic, name="one", module="m"))
        hub.add_consumer(Consumer(self.two.process, topic, name="two", module="m"))
        hub.add_consumer(Consumer(self.logs.process, topic, name="logs", module="m", cls_type="log"))
        self.topic = topic
        self.queue = ObservedQueue(topic)
        queues = Queues({topic: self.queue})
        self.pauses = Pauses(self.path)
        options: dict[str, Any] = {"wait_time": 0, "pauses": self.pauses, "dispatcher": dispatcher}
        options["decoders"] = {topic: lambda body: [decode(line) for line in body.splitlines()]}
        self.engine = Engine(hub, queues.__getitem__, **options)

    def pause(self, *consumers: str, topics: tuple[str, ...] = ()) -> None:
        Paused(frozenset(topics), frozenset(consumers)).write(self.path)

    def given(self, *consumers: str, topics: tuple[str, ...] = ()) -> None:
        """Pause before the engine starts, which reads the file before it receives."""
        self.pause(*consumers, topics=topics)
        self.pauses.update()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.status()["topics"].get(self.topic, {"held": 0, "doing": "not started"})
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, what="the engine")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def log(event_id: str) -> str:
    return event_text(event_id, "log", message="m", severity="info")


def test_an_event_of_a_paused_consumer_waits_for_all_of_its_consumers(setting: Setting) -> None:
    """The others of the event wait too, so that none gets it twice; events without that consumer go on."""
    # Given
    setting.given("m.logs")
    setting.queue.put(log("l1"), event_text("e1"), log("l2"), event_text("e2"))
    with running(setting.engine):
        # Then
        setting.until(lambda: len(setting.queue.deleted) == 2 and setting.state()["held"] == 2)
        assert setting.one.ids == setting.two.ids == ["e1", "e2"]
        assert setting.logs.ids == []
        assert setting.state()["in_flight"] == 2
        assert setting.state()["paused"] == ["m.logs"]
        # When
        setting.pause()
        # Then
        setting.until(lambda: len(setting.queue.deleted) == 4)
        assert setting.one.ids == setting.two.ids == ["e1", "e2", "l1", "l2"]
        assert setting.logs.ids == ["l1", "l2"]
        assert setting.state()["held"] == 0


def test_a_message_with_one_such_event_waits_as_a_whole(setting: Setting) -> None:
    """Of the events of one message, none is served before the others."""
    setting.given("m.logs")
    setting.queue.put(f"{event_text('e1')}\n{log('l1')}")
    with running(setting.engine):
        setting.until(lambda: setting.state()["held"] == 1)
        assert setting.one.ids == []
        setting.pause()
        setting.until(lambda: len(setting.queue.deleted) == 1)
        assert sorted(setting.one.ids) == ["e1", "l1"]


def test_what_waits_for_two_consumers_waits_for_both(setting: Setting) -> None:
    """After the resume of one it still waits for the other."""
    setting.given("m.logs", "m.two")
    setting.queue.put(log("l1"), event_text("e1"))
    with running(setting.engine):
        setting.until(lambda: setting.state()["held"] == 2)
        setting.pause("m.logs")
        setting.until(lambda: len(setting.queue.deleted) == 1)
        assert (setting.one.ids, setting.logs.ids) == (["e1"], [])
        assert setting.state()["held"] == 1


def test_nothing_is_received_of_a_paused_topic_and_that_is_well(setting: Setting) -> None:
    """It is paused for the reason that a user asked for it, and goes on after a resume."""
    setting.given(topics=("topic",))
    setting.queue.put(event_text("e1"))
    with running(setting.engine):
        setting.until(lambda: setting.state()["doing"] == "paused")
        state = setting.state()
        assert (state["reason"], state["paused"], state.get("received", 0)) == (REASON, ["topic"], 0)
        late = {**setting.engine.status(), "pid": 1, "written": time.time()}
        late["topics"]["topic"] |= {"doing_for": 3600.0, "last_poll": 3600.0}
        assert problems(late) == []
        setting.pause()
        setting.until(lambda: len(setting.queue.deleted) == 1)
        assert setting.one.ids == ["e1"]


def test_what_an_open_receive_returns_after_the_pause_goes_back(setting: Setting) -> None:
    """A message that comes in a poll that was open when its topic was paused is released, unread."""

    # Given an open poll
    def paused_meanwhile(_limit: int) -> None:
        setting.pause(topics=("topic",))
        setting.pauses.update()

    setting.queue.put(event_text("e1"))
    setting.queue.on["receive"] = paused_meanwhile
    # When
    with running(setting.engine):
        # Then
        setting.until(lambda: setting.queue.released == ["m1"])
    assert setting.one.ids == []


def test_a_stop_releases_what_waits_at_once(setting: Setting) -> None:
    """It is not waited for as long as for tasks."""
    setting.given("m.logs")
    setting.queue.put(*(log(f"l{number}") for number in range(3)))
    with running(setting.engine):
        setting.until(lambda: setting.state()["held"] == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert sorted(setting.queue.released) == ["m1", "m2", "m3"]
    assert setting.queue.deleted == []
    assert setting.logs.ids == []


def test_a_topic_stops_receiving_when_too_much_waits(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that wait are in memory, so there is a limit; the reason says for whom they wait."""
    monkeypatch.setattr(poller, "MAX_WAITING", 2)
    setting.given("m.logs")
    setting.queue.put(*(log(f"l{number}") for number in range(2)))
    with running(setting.engine):
        setting.until(lambda: setting.state()["doing"] == "paused")
        setting.queue.put(event_text("e1"))
        assert setting.state()["reason"] == "2 messages wait for paused consumers"
        assert setting.state()["back_pressure"]
        setting.pause()
        setting.until(lambda: len(setting.queue.deleted) == 3)


def test_a_topic_stops_receiving_when_what_waits_is_large(setting: Setting) -> None:
    """A hundred messages of a MiB are as much as a million small ones."""
    setting.given("m.logs")
    # Python keeps a text with one emoji in four bytes a character.
    body = event_text("large", "log", message="emoji" + "m" * 1_000_000, severity="info")
    body = body.replace("emoji", "\N{PARTY POPPER}")
    setting.queue.put(*[body] * 30)
    with running(setting.engine):
        setting.until(lambda: setting.state()["doing"] == "paused")
        assert setting.state()["held"] < 30


def test_a_lost_file_changes_nothing(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """What is paused stays paused if the file is deleted or cannot be read; that is logged once."""
    setting.given("m.logs")
    setting.path.unlink()
    for _ in range(3):
        setting.pauses.update()
    setting.path.write_text("{")
    setting.pauses.update()
    assert setting.pauses.now == Paused(frozenset(), frozenset({"m.logs"}))
    assert caplog.text.count("reading which topics and consumers are paused failed") == 1


def test_a_group_of_a_fifo_topic_waits_in_order(tmp_path: Path) -> None:
    """The events behind one that waits do not overtake it, and other groups go on."""
    # Given
    dispatcher = ScriptedDispatcher()
    setting = Setting(tmp_path, "topic.fifo", dispatcher)
    setting.given("m.logs")
    for name, text in (("a1", log("a1")), ("a2", event_text("a2")), ("b1", event_text("b1"))):
        setting.queue.put(text, name=name, group=name[0])
    taken: list[Job] = []

    def begun() -> list[str]:
        new = [job for job in dispatcher.taken if job not in taken]
        for job in new:
            taken.append(job)
            job.acknowledge()
        return [job.event.header.id for job in taken]

    with running(setting.engine):
        setting.until(lambda: begun() == ["b1", "b1"] and setting.state()["held"] == 1)
        # When
        setting.pause()
        # Then
        setting.until(lambda: len(begun()) == 7)
        assert begun() == ["b1", "b1", "a1", "a1", "a1", "a2", "a2"]
