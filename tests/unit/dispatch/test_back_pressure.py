"""Back-pressure: the start and the recovery of the checks; integration tests have real brokers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

import servers
from balog_celery.dispatch import back_pressure
from balog_celery.dispatch.back_pressure import BackPressure, UnservedQueues


def app_with(workers: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An app whose workers answer ``inspect active_queues`` so; they are asked at once."""
    monkeypatch.setattr(back_pressure, "SERVED_INTERVAL", 0.0)
    app = Celery("depth", broker="memory://", set_as_current=False)
    monkeypatch.setattr(app.control, "inspect", lambda timeout: SimpleNamespace(active_queues=workers))
    return app


def test_several_threads_may_be_the_first_to_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads may publish first: one thread then checks the queues of all."""
    # Given
    monkeypatch.setattr(back_pressure, "INTERVAL", 0.02)
    app = Celery("depth", broker="memory://", set_as_current=False)
    checking: set[threading.Thread] = set()

    def connect() -> Any:
        checking.add(threading.current_thread())
        raise ConnectionError("down")

    pressure = BackPressure(app, 1, connect)
    together = threading.Barrier(8)

    def publish(queue: str) -> None:
        together.wait(60)
        pressure.publishing_to(queue)

    pollers = [threading.Thread(target=publish, args=(f"queue{number}",)) for number in range(8)]
    try:
        # When
        for poller in pollers:
            poller.start()
        for poller in pollers:
            poller.join(60)
        # Then
        servers.wait_until(lambda: bool(checking))
        assert sum(thread.name == "back-pressure" for thread in threading.enumerate() if thread in checking) == 1
    finally:
        pressure.close()


def test_asking_who_serves_a_queue_does_not_stop_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking which workers serve a queue uses another connection, so a hang does not stop the checks."""
    # Given
    asked: list[int] = []
    answer = threading.Event()

    def hang() -> dict[str, Any]:
        asked.append(1)
        answer.wait(60)
        return {"worker": []}

    unserved = UnservedQueues(app_with(hang, monkeypatch))
    # When
    for _ in range(3):
        unserved.check({"a"})
    servers.wait_until(lambda: bool(asked))
    # Then
    assert unserved.names == frozenset()
    answer.set()
    servers.wait_until(lambda: unserved.names == {"a"})
    assert asked == [1]


def test_a_broker_that_cannot_be_asked_who_serves_a_queue_is_not_blamed_on_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the broker does not answer, no queue is reported as unserved."""
    asked = threading.Event()

    def fail() -> None:
        asked.set()
        raise ConnectionError

    unserved = UnservedQueues(app_with(fail, monkeypatch))
    unserved.check({"a"})
    assert asked.wait(60)
    servers.wait_until(lambda: not any(thread.name == "unserved-queues" for thread in threading.enumerate()))
    assert unserved.names == frozenset()
    assert not caplog.records


def test_one_failure_of_the_broker_stops_receiving_until_it_answers_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One failure of the broker stops receiving until it answers again, although nothing is published meanwhile."""
    # Given a broker that fails once
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(back_pressure, "INTERVAL", 0.01)
    app = Celery("depth", broker="memory://", set_as_current=False)
    closed = threading.Event()
    trouble = iter([ConnectionResetError("gone")])

    def connect() -> Any:
        for error in trouble:
            raise error
        # It answers again, but not before the test has seen that receiving stopped.
        assert closed.wait(60)
        return app.connection_for_write()

    pressure = BackPressure(app, 1, connect)
    queues = frozenset({"a"})
    try:
        assert pressure.wait_open(queues, 0)
        # When
        pressure.publishing_to("a")
        # Then
        servers.wait_until(lambda: not pressure.wait_open(queues, 0), what="the pause")
        closed.set()
        servers.wait_until(lambda: pressure.wait_open(queues, 0), what="receiving again")
    finally:
        closed.set()
        pressure.close()
    logged = [record.getMessage() for record in caplog.records if "answer" in record.getMessage()]
    assert logged == [
        "the broker does not answer, so nothing is received: ConnectionResetError('gone')",
        "the broker answers again",
    ]
