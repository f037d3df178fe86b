"""The settlement of deliveries and their states."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers.delivery import MOVES, Delivery, Settlement, State, settle
from balog_celery.sqs.messages import Message

MESSAGE = Message("body", "handle", "id", 0.0)
ENDS = {State.DELETED, State.RELEASED, State.EXPIRED}
#: The state of a delivery that was just settled.
SETTLED = {
    Settlement.ACKNOWLEDGE: State.DELETE_PENDING,
    Settlement.RELEASE: State.RELEASE_PENDING,
    Settlement.EXPIRE: State.EXPIRED,
}

settlements = st.sampled_from(Settlement)


def ignore(deliveries: Sequence[Delivery]) -> None:
    pass


@given(st.lists(settlements, min_size=1, max_size=20))
def test_a_delivery_ends_with_the_strongest_settlement_of_its_jobs(jobs: list[Settlement]) -> None:
    """A delivery is reported once, after its last job, with the strongest settlement of its jobs."""
    reported: list[Delivery] = []
    delivery = Delivery(MESSAGE, 1, reported.extend)
    assert delivery.dispatch(len(jobs))
    for settlement in jobs:
        assert not reported
        assert delivery.state is State.DISPATCHED
        settle([delivery], settlement)
    assert reported == [delivery]
    assert delivery.settlement is max(jobs)
    assert delivery.state is SETTLED[max(jobs)]


@pytest.mark.parametrize("first", Settlement)
@pytest.mark.parametrize("second", Settlement)
def test_settling_a_job_twice_is_an_error(first: Settlement, second: Settlement) -> None:
    """Settling a job twice is an error: it could delete a message that another consumer still needs."""
    delivery = Delivery(MESSAGE, 1, ignore)
    settle([delivery], first)
    with pytest.raises(RuntimeError, match="settled twice"):
        settle([delivery], second)
    assert delivery.state is SETTLED[first]


def test_deliveries_that_end_together_are_reported_together() -> None:
    """Deliveries that end together are reported together, once for each callback; each event of a message counts."""
    topic: list[Sequence[Delivery]] = []
    other_topic: list[Sequence[Delivery]] = []
    one, two, three = (Delivery(MESSAGE, jobs, topic.append) for jobs in (1, 2, 3))
    other = Delivery(MESSAGE, 1, other_topic.append)
    settle([one, two, three, other, two, three], Settlement.ACKNOWLEDGE)
    assert (topic, other_topic) == ([[one, two]], [[other]])


def test_a_job_settled_twice_does_not_keep_the_others_from_being_settled() -> None:
    """Jobs that are settled together with a twice settled one are settled, too."""
    reported: list[Delivery] = []
    one, two, three = (Delivery(MESSAGE, 1, reported.extend) for _ in range(3))
    with pytest.raises(RuntimeError, match="settled twice"):
        settle([one, two, two, three], Settlement.RELEASE)
    assert reported == [one, two, three]


@given(st.lists(settlements, max_size=3), settlements, st.lists(settlements, max_size=3))
def test_settling_a_delivery_now_ignores_later_jobs(
    before: list[Settlement], now: Settlement, after: list[Settlement]
) -> None:
    """Settling a delivery now counts the jobs settled before, and ignores later ones."""
    reported: list[Delivery] = []
    delivery = Delivery(MESSAGE, 1, reported.extend)
    delivery.dispatch(len(before) + len(after) + 1)
    for settlement in before:
        settle([delivery], settlement)

    delivery.settle_now(now)
    delivery.settle_now(Settlement.EXPIRE)
    for settlement in after:
        settle([delivery], settlement)

    assert reported == [delivery]
    assert delivery.settlement is max([*before, now])
    assert delivery.state is SETTLED[delivery.settlement]


def test_settling_a_settled_delivery_now_does_nothing() -> None:
    """Settling a settled delivery has no effect."""
    delivery = Delivery(MESSAGE, 1, ignore)
    settle([delivery], Settlement.ACKNOWLEDGE)
    delivery.settle_now(Settlement.RELEASE)
    assert delivery.state is State.DELETE_PENDING


def test_a_delivery_settled_while_it_is_decoded_is_not_dispatched() -> None:
    """A delivery that a stop settles while it is decoded is not dispatched."""
    delivery = Delivery(MESSAGE, 1, ignore)
    delivery.settle_now(Settlement.RELEASE)
    assert not delivery.dispatch(2)
    assert delivery.state is State.RELEASE_PENDING


def test_a_delivery_without_jobs_is_an_error() -> None:
    """A delivery without jobs is an error, because no job would settle it."""
    delivery = Delivery(MESSAGE, 1, ignore)
    with pytest.raises(ValueError, match="one job"):
        delivery.dispatch(0)
    assert delivery.state is State.RECEIVED


@given(st.lists(st.sampled_from(State), max_size=8))
def test_a_delivery_makes_allowed_moves_only(states: list[State]) -> None:
    """A move that is not allowed is an error, and leaves the state unchanged."""
    delivery = Delivery(MESSAGE, 1, ignore)
    for state in states:
        before = delivery.state
        if state in MOVES[before]:
            delivery.move(state)
            assert delivery.state is state
        else:
            with pytest.raises(RuntimeError, match=f"from {before.name} to {state.name}"):
                delivery.move(state)
            assert delivery.state is before


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    """Every state can be reached, and leads to one of the three final states."""
    assert MOVES.keys() == set(State)
    assert {state for state, after in MOVES.items() if not after} == ENDS
    assert set().union(*MOVES.values()) == set(State) - {State.RECEIVED}
    for state in State:
        reached, frontier = set[State](), {state}
        while frontier:
            reached |= frontier
            frontier = set().union(*(MOVES[one] for one in frontier)) - reached
        assert reached & ENDS
