"""An outage: its log lines and its duration."""

from __future__ import annotations

import pytest

from balog_celery.backoff import Backoff
from balog_celery.engine.outage import Outage
from balog_celery.errors import AccessDenied, QueueError


def test_it_is_said_once_when_it_begins_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged once at its begin and once at its end; another kind of problem is logged as well."""
    caplog.set_level("INFO")
    now = [0.0]
    outage = Outage("polling\nevents", clock=lambda: now[0])
    outage.succeeded()
    for error in (QueueError("down"), QueueError("still"), AccessDenied("no"), AccessDenied("no")):
        outage.failed(error, type(error))
        now[0] += 7
    outage.succeeded()
    outage.succeeded()
    outage.failed("again")
    assert [record.message for record in caplog.records] == [
        r"polling\nevents failed, retrying: down",
        r"polling\nevents failed, retrying: no",
        r"polling\nevents works again, after 28 s",
        r"polling\nevents failed, retrying: again",
    ]


def test_it_tells_its_last_problem_and_how_long_it_has_lasted() -> None:
    """An outage has the last problem, and the duration since the first failure."""
    now = [100.0]
    outage = Outage("x", clock=lambda: now[0])
    assert (outage.status(), outage.lasts, outage.problem) == ({}, 0.0, "")
    outage.failed("")
    assert outage.problem
    now[0] = 130.0
    outage.failed("line\nbreak")
    assert outage.status() == {"fails_for": 30.0, "error": r"line\nbreak"}
    outage.succeeded()
    assert (outage.status(), outage.lasts) == ({}, 0.0)


def test_its_waits_grow_and_begin_anew_when_it_is_over() -> None:
    """The delays grow up to a bound, with jitter, and start again after a success."""
    outage = Outage("x", Backoff(1.0, 8.0))
    waits = [[outage.failed("down") for _ in range(10)] for _ in range(200)]
    for run in waits[:1]:
        assert all(0 <= wait <= min(8.0, 2.0**number) for number, wait in enumerate(run))
    assert max(max(run) for run in waits[1:]) > 4
    outage.succeeded()
    assert outage.failed("down") <= 1.0


def test_a_call_that_does_not_return_is_a_problem() -> None:
    """A call that does not return counts as an outage."""
    now = [100.0]
    outage = Outage("deleting", clock=lambda: now[0])
    outage.began = now[0]
    now[0] += 29
    assert outage.status() == {}
    now[0] += 2
    assert outage.status() == {"fails_for": 31.0, "error": "a call has not returned for 31 s"}
    outage.succeeded()
    now[0] += 100
    assert outage.status() == {}
