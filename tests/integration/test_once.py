"""The idempotency store of ``once=`` in a real Valkey: concurrent attempts, crashes and failures."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

import servers
from balog_celery.tasks import idempotency
from balog_celery.tasks.idempotency import AlreadyDone, IdempotencyStore, InProgress, OtherPayload


@pytest.fixture
def marks(broker: servers.Valkey) -> IdempotencyStore:
    """A store in this test's Valkey."""
    client = broker.client()
    return IdempotencyStore(lambda: client)


def test_what_was_done_is_done_until_it_is_forgotten(marks: IdempotencyStore) -> None:
    """A finished event stays done for as many seconds as asked for."""
    with marks.attempt("a", 6, "d"):
        pass
    with pytest.raises(AlreadyDone), marks.attempt("a", 6, "d"):
        pass

    def forgotten() -> bool:
        try:
            with marks.attempt("a", 60, "d"):
                return True
        except AlreadyDone:
            return False

    servers.wait_until(forgotten)


def test_what_was_done_with_another_payload_is_another_event(marks: IdempotencyStore, broker: servers.Valkey) -> None:
    """A record of an earlier release, without a digest, is done whatever the payload."""
    with marks.attempt("a", 60, "d"):
        pass
    with pytest.raises(OtherPayload), marks.attempt("a", 60, "e"):
        pass
    broker.client().set("balog:once:b", "done")
    with pytest.raises(AlreadyDone), marks.attempt("b", 60, "e"):
        pass


def test_only_one_attempt_runs_at_a_time(marks: IdempotencyStore) -> None:
    """Of many attempts that begin at once, one runs."""
    running, finish = threading.Event(), threading.Event()
    refused: list[type[Exception]] = []

    def first() -> None:
        with marks.attempt("a", 60, "d"):
            running.set()
            finish.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(60)
    for _ in range(5):
        try:
            with marks.attempt("a", 60, "d"):
                pass
        except InProgress as error:
            refused.append(type(error))
    finish.set()
    thread.join(60)
    assert refused == [InProgress] * 5
    with pytest.raises(AlreadyDone), marks.attempt("a", 60, "d"):
        pass


def test_a_failed_attempt_clears_its_mark(marks: IdempotencyStore) -> None:
    """After a failed attempt the next one may begin at once."""
    with pytest.raises(ValueError, match="failed"), marks.attempt("a", 60, "d"):
        raise ValueError("failed")
    with marks.attempt("a", 60, "d"):
        pass


def test_a_crash_blocks_the_event_no_longer_than_its_lease(
    marks: IdempotencyStore, broker: servers.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a crashed attempt expires, so the event can be tried again."""
    monkeypatch.setattr(idempotency, "EXPIRES_AFTER", 6)
    marks._begin("balog:once:a", "a-process-that-died", "d")
    with pytest.raises(InProgress), marks.attempt("a", 60, "d"):
        pass
    with broker.client() as client:
        servers.wait_until(lambda: client.get("balog:once:a") is None)
    with marks.attempt("a", 60, "d"):
        pass


def test_a_lease_is_renewed_while_the_attempt_runs(
    marks: IdempotencyStore, broker: servers.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a running attempt is renewed for as long as it runs."""
    monkeypatch.setattr(idempotency, "EXPIRES_AFTER", 6)
    with marks.attempt("a", 60, "d"), broker.client() as client:
        seen: list[int] = []

        def renewed() -> bool:
            seen.append(client.pttl("balog:once:a"))
            return any(later > earlier for earlier, later in pairwise(seen))

        servers.wait_until(renewed)
        assert min(seen) > 0


def test_an_attempt_whose_lease_has_ended_leaves_the_next_ones_mark_alone(
    marks: IdempotencyStore, broker: servers.Valkey
) -> None:
    """A late failure of an expired attempt does not delete the record of the next attempt."""

    def fail_late(client: Any) -> None:
        with marks.attempt("a", 60, "d"):
            client.set("balog:once:a", "another attempt")
            raise ValueError("late")

    with broker.client() as client:
        with pytest.raises(ValueError, match="late"):
            fail_late(client)
        assert client.get("balog:once:a") == b"another attempt"
