"""The simulation against queueing theory, where nothing but the functions takes time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.planning.costs import HAND_OFF
from balog_celery.planning.scenario import Function, Scenario
from balog_celery.planning.simulation import Outcome, simulate

#: How many events a simulation has here, which takes half a second.
EVENTS = 12_000
FREE = HAND_OFF.scaled(0.0)


def queue(servers: int, load: float, *, is_random: bool) -> Outcome:
    """Simulate *servers* children whose calls take a second on average, of which *load* are busy."""
    scenario = Scenario(Function(1.0, is_random=is_random), FREE, rate=servers * load, concurrency=servers)
    return simulate(scenario, events=EVENTS)


def erlang_c(servers: int, load: float) -> float:
    """The chance that an event waits, by Erlang's formula."""
    offered = servers * load
    waits = offered**servers / math.factorial(servers) / (1 - load)
    return waits / (sum(offered**number / math.factorial(number) for number in range(servers)) + waits)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 0.7), (8, 0.8)])
def test_random_calls_wait_as_in_a_queue_with_several_servers(servers: int, load: float) -> None:
    """M/M/c: children are busy as the load says, and the mean wait is Erlang's."""
    found = queue(servers, load, is_random=True)
    wait = erlang_c(servers, load) / (servers * (1 - load))
    assert found.busy["children"] == pytest.approx(load, rel=0.03)
    assert mean(found.latencies) == pytest.approx(1 + wait, rel=0.05)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7)])
def test_calls_of_the_same_length_wait_half_as_long(servers: int, load: float) -> None:
    """M/D/c: the mean wait is about half of Erlang's; for one server exactly half."""
    found = queue(servers, load, is_random=False)
    # Cosmetatos' approximation for several servers.
    more = 1 + (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    wait = erlang_c(servers, load) / (servers * (1 - load)) / 2 * more
    assert found.busy["children"] == pytest.approx(load, rel=0.03)
    assert mean(found.latencies) - 1 == pytest.approx(wait, rel=0.15)


def test_messages_in_flight_are_rate_times_time() -> None:
    """Little's law: as many messages are in flight as arrive while one is received, waits, runs and is deleted."""
    scenario = Scenario(Function(0.05), FREE, rate=100.0, concurrency=20, distance=0.02)
    found = simulate(scenario, events=EVENTS)
    # Of its latency, the first half of a round trip is before the receive. Its delete waits for nine others, and
    # takes half of a round trip, beside the time until the acknowledger is free.
    least = mean(found.latencies) - 0.01 + 0.01
    assert found.throughput * least < found.in_flight < found.throughput * (least + 0.1 + 0.02)
    assert found.deletes == pytest.approx(found.throughput / 10, rel=0.02)


def test_a_simulation_is_the_same_each_time() -> None:
    """The same seed gives the same answer, and another seed nearly the same."""
    scenario = Scenario(Function(0.01), HAND_OFF, rate=300.0, concurrency=8, distance=0.01)
    first, again, other = (simulate(scenario, events=3000, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.latencies != other.latencies
    assert other.throughput == pytest.approx(first.throughput, rel=0.1)


LEAST = Scenario(Function(0.004), HAND_OFF, cores=16, distance=0.004)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    part=st.sampled_from(["workers", "concurrency", "pollers", "cores"]),
    workers=st.integers(1, 2),
    concurrency=st.integers(1, 12),
)
def test_more_never_does_less(part: str, workers: int, concurrency: int) -> None:
    """More workers, children, pollers or cores do at least as many events, where there are cores for them."""
    fewer = replace(LEAST, workers=workers, concurrency=concurrency)
    more = replace(fewer, **{part: getattr(fewer, part) + 1})
    assert simulate(more, events=700).throughput >= 0.97 * simulate(fewer, events=700).throughput


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seconds=st.floats(0, 0.05), distance=st.floats(0, 0.05))
def test_a_longer_way_or_call_never_does_more(seconds: float, distance: float) -> None:
    """Longer functions and a more distant SQS do at most as many events."""
    near = replace(LEAST, function=Function(seconds), distance=distance)
    far = replace(near, function=Function(seconds * 1.5), distance=distance * 1.5)
    assert simulate(far, events=700).throughput <= 1.03 * simulate(near, events=700).throughput


def test_workers_share_the_cores_of_their_machine() -> None:
    """Where functions do nothing, a second worker adds little, and with cores of its own as much again."""
    one = replace(LEAST, function=Function(0.0), concurrency=4, cores=2, distance=0.0)
    beside, apart = replace(one, workers=2), replace(one, workers=2, cores=4)
    alone, shared, doubled = (simulate(each, events=1500).throughput for each in (one, beside, apart))
    assert shared < 1.35 * alone
    assert doubled == pytest.approx(2 * alone, rel=0.1)
