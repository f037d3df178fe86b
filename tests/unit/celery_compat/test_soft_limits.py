"""Soft time limits of billiard's children reach an event loop as a call."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler

from balog_celery.celery_compat.soft_limits import calling_at_soft_limit


@pytest.fixture
def child() -> Iterator[None]:
    """The signal handler of a pool's child."""
    before = signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
    yield
    signal.signal(SIG_SOFT_TIMEOUT, before)


@pytest.mark.usefixtures("child")
def test_a_soft_limit_calls_back_inside_of_the_block_only() -> None:
    """After it, it raises as before."""
    calls: list[str] = []
    with calling_at_soft_limit(lambda: calls.append("limit")):
        signal.raise_signal(SIG_SOFT_TIMEOUT)
    assert calls == ["limit"]
    with pytest.raises(SoftTimeLimitExceeded):
        signal.raise_signal(SIG_SOFT_TIMEOUT)


def test_another_handler_is_left_alone() -> None:
    """Outside of a pool's child the signal is the application's."""
    before = signal.getsignal(SIG_SOFT_TIMEOUT)
    with calling_at_soft_limit(lambda: None):
        assert signal.getsignal(SIG_SOFT_TIMEOUT) is before
