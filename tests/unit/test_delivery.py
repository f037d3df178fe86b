"""Counting what a delivery still waits for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers.delivery import Delivery, settle
from balog_celery.queues import Message

MESSAGE = Message("body", "handle", "id", 0.0)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_delivery_is_settled_once_after_its_last_job(refusals: list[bool]) -> None:
    """And is refused if any of its jobs was."""
    settled: list[Delivery] = []
    delivery = Delivery(MESSAGE, len(refusals), settled.extend)
    for refused in refusals:
        assert not settled
        settle([delivery], refused=refused)
    assert settled == [delivery]
    assert delivery.refused is any(refusals)


def test_settling_a_job_twice_is_a_fault() -> None:
    """It would delete a message whose other consumer is not served."""
    delivery = Delivery(MESSAGE, 1, lambda deliveries: None)
    settle([delivery], refused=False)
    with pytest.raises(RuntimeError, match="settled twice"):
        settle([delivery], refused=False)


def test_what_is_settled_together_is_told_of_together() -> None:
    """Each topic of its own; a message with several events counts each of them."""
    told: list[list[Delivery]] = []
    other: list[list[Delivery]] = []
    one, two, three = (
        Delivery(MESSAGE, 1, told.append),
        Delivery(MESSAGE, 2, told.append),
        Delivery(MESSAGE, 3, told.append),
    )
    elsewhere = Delivery(MESSAGE, 1, other.append)
    settle([one, two, three, elsewhere, two, three], refused=False)
    assert (told, other) == ([[one, two]], [[elsewhere]])


def test_one_that_is_settled_twice_does_not_keep_the_others() -> None:
    """Whose leases would be kept for half a day."""
    settled: list[Delivery] = []
    one, two, three = (Delivery(MESSAGE, 1, settled.extend) for _ in range(3))
    with pytest.raises(RuntimeError, match="settled twice"):
        settle([one, two, two, three], refused=True)
    assert settled == [one, two, three]


def test_an_abandoned_delivery_goes_back_at_once() -> None:
    """What is settled of it later changes nothing."""
    settled: list[Delivery] = []
    delivery = Delivery(MESSAGE, 2, settled.extend)
    settle([delivery], refused=False)
    delivery.abandon()
    delivery.abandon()
    settle([delivery], refused=False)
    assert settled == [delivery]
    assert delivery.refused


def test_abandoning_a_settled_delivery_does_nothing() -> None:
    """It is on its way to be deleted."""
    delivery = Delivery(MESSAGE, 1, lambda deliveries: None)
    settle([delivery], refused=False)
    delivery.abandon()
    assert not delivery.refused


def test_a_delivery_without_jobs_is_a_fault() -> None:
    """Nobody would ever settle it."""
    with pytest.raises(ValueError, match="one job"):
        Delivery(MESSAGE, 0, lambda deliveries: None)
