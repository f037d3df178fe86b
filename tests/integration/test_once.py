"""Marks of ``once=`` in a real Valkey: who may begin, what a crash and a failure leave behind."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

import servers
from balog_celery import once
from balog_celery.once import AlreadyDone, InProgress, Marks


@pytest.fixture
def marks(broker: servers.Valkey) -> Marks:
    """Marks in this test's Valkey."""
    client = broker.client()
    return Marks(lambda: client)


def test_what_was_done_is_done_until_it_is_forgotten(marks: Marks) -> None:
    """For as many seconds as was asked for."""
    with marks.attempt("a", 6):
        pass
    with pytest.raises(AlreadyDone), marks.attempt("a", 6):
        pass

    def forgotten() -> bool:
        try:
            with marks.attempt("a", 60):
                return True
        except AlreadyDone:
            return False

    servers.wait_until(forgotten)


def test_only_one_attempt_runs_at_a_time(marks: Marks) -> None:
    """Of many that begin at once, one."""
    running, finish = threading.Event(), threading.Event()
    refused: list[type[Exception]] = []

    def first() -> None:
        with marks.attempt("a", 60):
            running.set()
            finish.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(60)
    for _ in range(5):
        try:
            with marks.attempt("a", 60):
                pass
        except InProgress as error:
            refused.append(type(error))
    finish.set()
    thread.join(60)
    assert refused == [InProgress] * 5
    with pytest.raises(AlreadyDone), marks.attempt("a", 60):
        pass


def test_a_failed_attempt_clears_its_mark(marks: Marks) -> None:
    """The next one may begin at once."""
    with pytest.raises(ValueError, match="failed"), marks.attempt("a", 60):
        raise ValueError("failed")
    with marks.attempt("a", 60):
        pass


def test_a_crash_blocks_the_event_no_longer_than_its_lease(
    marks: Marks, broker: servers.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody renews the mark of a process that is gone."""
    monkeypatch.setattr(once, "LEASE", 6)
    marks._begin("balog:once:a", "a-process-that-died")
    with pytest.raises(InProgress), marks.attempt("a", 60):
        pass
    with broker.client() as client:
        servers.wait_until(lambda: client.get("balog:once:a") is None)
    with marks.attempt("a", 60):
        pass


def test_a_lease_is_renewed_while_the_attempt_runs(
    marks: Marks, broker: servers.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that is."""
    monkeypatch.setattr(once, "LEASE", 6)
    with marks.attempt("a", 60), broker.client() as client:
        seen: list[int] = []

        def renewed() -> bool:
            seen.append(client.pttl("balog:once:a"))
            return any(later > earlier for earlier, later in pairwise(seen))

        servers.wait_until(renewed)
        assert min(seen) > 0


def test_an_attempt_whose_lease_has_ended_leaves_the_next_ones_mark_alone(marks: Marks, broker: servers.Valkey) -> None:
    """A slow failure must not clear what another attempt holds."""

    def fail_late(client: Any) -> None:
        with marks.attempt("a", 60):
            client.set("balog:once:a", "another attempt")
            raise ValueError("late")

    with broker.client() as client:
        with pytest.raises(ValueError, match="late"):
            fail_late(client)
        assert client.get("balog:once:a") == b"another attempt"
