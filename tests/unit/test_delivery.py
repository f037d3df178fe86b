"""Counting what a delivery still waits for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers.delivery import Delivery
from balog_celery.queues import Message

MESSAGE = Message("body", "handle", "id", 0.0)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_delivery_is_settled_once_after_its_last_job(refusals: list[bool]) -> None:
    """And is refused if any of its jobs was."""
    settled: list[Delivery] = []
    delivery = Delivery(MESSAGE, len(refusals), settled.append)
    for refused in refusals:
        assert not settled
        delivery.settle_one(refused=refused)
    assert settled == [delivery]
    assert delivery.refused is any(refusals)


def test_settling_a_job_twice_is_a_fault() -> None:
    """It would delete a message whose other consumer is not served."""
    delivery = Delivery(MESSAGE, 1, lambda delivery: None)
    delivery.settle_one(refused=False)
    with pytest.raises(RuntimeError, match="settled twice"):
        delivery.settle_one(refused=False)


def test_an_abandoned_delivery_goes_back_at_once() -> None:
    """What is settled of it later changes nothing."""
    settled: list[Delivery] = []
    delivery = Delivery(MESSAGE, 2, settled.append)
    delivery.settle_one(refused=False)
    delivery.abandon()
    delivery.abandon()
    delivery.settle_one(refused=False)
    assert settled == [delivery]
    assert delivery.refused


def test_abandoning_a_settled_delivery_does_nothing() -> None:
    """It is on its way to be deleted."""
    delivery = Delivery(MESSAGE, 1, lambda delivery: None)
    delivery.settle_one(refused=False)
    delivery.abandon()
    assert not delivery.refused


def test_a_delivery_without_jobs_is_a_fault() -> None:
    """Nobody would ever settle it."""
    with pytest.raises(ValueError, match="one job"):
        Delivery(MESSAGE, 0, lambda delivery: None)
