"""The watch over queues on the broker: how it begins. What it sees is tested on real brokers."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from celery import Celery

from balog_celery.depth import DepthWatch


def test_several_threads_may_be_the_first_to_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the pollers of several topics are at start; the watch is started once, and knows all of their queues."""
    watch = DepthWatch(Celery("depth", broker="memory://", set_as_current=False), 1, lambda: pytest.fail("no broker"))
    watch.close()  # nothing is to be looked at
    started: list[str] = []
    both = threading.Barrier(2)

    def start() -> None:
        # Others get their turn while a thread starts, before it has said that it has.
        started.append("thread")
        with pytest.raises(threading.BrokenBarrierError):
            both.wait(0.2)
        thread.ident = 1

    thread = SimpleNamespace(ident=None, start=start)
    monkeypatch.setattr(watch, "_thread", thread)
    pollers = [threading.Thread(target=watch.publishing_to, args=(queue,)) for queue in ("a", "b")]
    for poller in pollers:
        poller.start()
    for poller in pollers:
        poller.join(60)
    assert started == ["thread"]
    assert watch._queues == {"a", "b"}


def test_asking_who_serves_a_queue_does_not_keep_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes over another connection, which may hang; one question at a time is enough."""
    app = Celery("depth", broker="memory://", set_as_current=False)
    watch = DepthWatch(app, 1, lambda: pytest.fail("no broker"))
    asked: list[float] = []
    answer = threading.Event()

    def inspect(timeout: float) -> SimpleNamespace:
        asked.append(timeout)
        answer.wait(60)
        return SimpleNamespace(active_queues=dict)

    monkeypatch.setattr(app.control, "inspect", inspect)
    watch._look_for_workers({"a"})
    watch._look_for_workers({"a"})
    assert watch._looking is not None
    answer.set()
    watch._looking.join(60)
    assert asked == [2.0]


def test_a_broker_that_cannot_be_asked_who_serves_a_queue_is_the_watchs_to_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said of workers then."""
    app = Celery("depth", broker="memory://", set_as_current=False)

    def inspect(timeout: float) -> None:
        raise ConnectionError

    monkeypatch.setattr(app.control, "inspect", inspect)
    DepthWatch(app, 1, lambda: pytest.fail("no broker"))._report_unserved({"a"})
    assert not caplog.records
