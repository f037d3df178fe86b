"""Batches, chunks, published tasks and FIFO topics in the simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balog_celery.errors import ConfigurationError
from balog_celery.planning.costs import COSTS
from balog_celery.planning.plan import Plan, Question, make_plan
from balog_celery.planning.scenario import SINGLE, Function, Scenario, Way
from balog_celery.planning.simulation import Outcome, simulate
from balog_celery.planning.sizes import GivenSize

BATCH, CHUNK, REDIS = Way(batch=100), Way(chunk=100), Way(broker="redis")
FREE = COSTS[""].scaled(0.0)


def run(way: Way, seconds: float = 0.0, rate: float | None = None, events: int = 2000, **size: int) -> Outcome:
    scenario = Scenario(Function(seconds), COSTS[way.broker], rate=rate, way=way, cores=16, **size)
    return simulate(scenario, events=events)


def plan(rate: float, way: Way, seconds: float = 0.0, distance: float = 0.001, **given: int) -> Plan:
    return make_plan(Question(rate, Function(seconds), distance, way=way, given=GivenSize(**given)), events=1500)


@pytest.mark.parametrize("way", [BATCH, CHUNK])
def test_gathered_events_take_a_part_of_the_main_process(way: Way) -> None:
    """With a hundred events in a task the engine is the limit, and the worker's main process has time."""
    single, gathered = run(SINGLE, concurrency=4), run(way, events=20_000, concurrency=4)
    assert gathered.throughput > 3 * single.throughput
    assert gathered.busy["engine"] > 0.9
    assert gathered.busy["main process"] < 0.4


def test_a_batch_waits_for_others_and_a_chunk_for_none() -> None:
    """At ten events a second a batch is passed on after a second, and a chunk at once."""
    batch, chunk = run(BATCH, 0.01, rate=10.0, events=200), run(CHUNK, 0.01, rate=10.0, events=200)
    assert batch.percentile(99) == pytest.approx(1.0, abs=0.1)
    assert 0.3 < batch.percentile(50) < 0.7
    assert chunk.percentile(50) < 0.03


def test_the_calls_of_a_chunk_take_no_longer_than_a_second() -> None:
    """A chunk has as many events as can be called in a second, so no event waits longer for those before it."""
    found = run(CHUNK, 0.2, concurrency=4, rate=15.0, events=400)
    assert found.percentile(99) < 3.0
    assert run(CHUNK, 0.2, concurrency=4, events=400).throughput == pytest.approx(20, rel=0.1)


def test_a_batch_is_one_call() -> None:
    """A function of batches is called once for all events of one."""
    found = run(BATCH, 0.1, concurrency=2, events=20_000)
    assert found.throughput == pytest.approx(2 * 100 / 0.1, rel=0.1)


def test_published_tasks_need_a_broker() -> None:
    """Each published task takes the broker's time, which is the limit of many workers, and the main process' time."""
    found = plan(100_000, REDIS, 0.001)
    assert found.bound == "broker"
    assert found.broker_cores == pytest.approx(100_000 * COSTS["redis"].broker / 0.8, rel=0.1)
    assert found.workers > 2 * plan(100_000, SINGLE, 0.001).workers
    few = plan(500, REDIS, 0.001)
    assert (few.broker_cores, few.bound == "broker") == (1, False)


def test_engines_publish_no_more_than_workers_take() -> None:
    """The tasks on the broker are few: the rest of a backlog stays in SQS."""
    found = run(REDIS, 0.01, concurrency=2)
    assert found.throughput == pytest.approx(200, rel=0.15)
    assert found.receives == pytest.approx(found.throughput / 10, rel=0.1)


def test_a_message_group_has_one_event_at_a_time() -> None:
    """However many children there are, a group's next event starts when the former one is deleted."""
    scenario = Scenario(Function(0.1), FREE, concurrency=8, distance=0.02, way=Way(groups=3))
    found = simulate(scenario, events=300)
    # Each event: the call and the delete; and every ten a receive.
    assert found.throughput == pytest.approx(3 / (0.1 + 0.02 + 0.02 / 10), rel=0.1)
    assert found.busy["children"] == pytest.approx(found.throughput * 0.1 / 8, rel=0.05)


def test_message_groups_are_the_limit_where_nothing_is_busy() -> None:
    """If all groups have an event under way and children are left, more groups would help; else more children."""
    assert plan(20, Way(groups=3), 0.1, concurrency=8).bound == "message groups"
    assert plan(20, Way(groups=30), 0.1, concurrency=3).bound == "children"


def test_too_few_message_groups_are_an_error_that_says_how_many_are_needed() -> None:
    """A rate that the groups cannot do with any number of workers is refused, and the number it names does it."""
    with pytest.raises(ConfigurationError, match=r"^1,000 events/s are too many for 50 message groups.* use \d+ group"):
        plan(1000, Way(groups=50), 0.1)
    found = plan(1000, Way(groups=131), 0.1)
    assert found.workers >= 1
    assert found.busy["children"] < 1


def test_workers_share_message_groups() -> None:
    """Several workers have a part of the groups each, and all of them together do the rate."""
    found = plan(1500, Way(groups=300), 0.05, distance=0.01)
    assert found.workers > 1
    assert found.size.pollers == 1
    assert found.workers * found.capacity >= 1500
    assert found.calls.deletes >= 150


def test_large_pools_are_simulated_until_all_of_them_have_worked() -> None:
    """A pool with more children than there are events to simulate does no more than its children can."""
    assert plan(100, SINGLE, 10.0, concurrency=1000).capacity == pytest.approx(100, rel=0.1)


def test_a_worker_grows_before_there_is_a_second_one() -> None:
    """A rate that a worker of the first size would just miss gets one larger worker, not two."""
    found = plan(1500, SINGLE, 0.01, distance=0.01)
    assert found.workers == 1
    assert found.capacity * 0.8 >= 1500


def test_empty_receives_are_counted() -> None:
    """At a low rate a poller makes three long polls a minute, and one for each event."""
    found = run(SINGLE, rate=0.001, events=50)
    assert found.receives == pytest.approx(1 / 20, rel=0.05)


WAYS = st.sampled_from([SINGLE, BATCH, CHUNK, REDIS, Way(broker="rabbitmq"), Way(groups=5000)])
SECONDS, RATES = st.floats(0, 0.05), st.floats(0.01, 20_000)


def quick(rate: float, way: Way, seconds: float, **options: float) -> Plan:
    question = Question(rate, Function(seconds), way=way)
    return make_plan(replace(question, **options), events=500)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(way=WAYS, rate=RATES, seconds=SECONDS, factor=st.floats(1, 3))
def test_a_higher_rate_never_needs_fewer_workers(way: Way, rate: float, seconds: float, factor: float) -> None:
    """More events per second need at least as many workers, and each plan's workers can do its rate."""
    less, more = quick(rate, way, seconds), quick(rate * factor, way, seconds)
    assert more.workers >= less.workers
    assert all(found.workers * found.capacity > at for found, at in ((less, rate), (more, rate * factor)))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(way=WAYS, rate=RATES, seconds=st.floats(0.001, 0.05))
@example(way=CHUNK, rate=7394.0, seconds=0.015625)  # a hundred children need some thousand events to be full
def test_a_slower_function_never_needs_fewer_children(way: Way, rate: float, seconds: float) -> None:
    """A function that takes twice as long needs at least as many children in all."""
    plans = quick(rate, way, seconds), quick(rate, way, 2 * seconds)
    children = [found.workers * found.size.concurrency for found in plans]
    assert children[1] >= children[0]


@settings(max_examples=4, deadline=None, derandomize=True)
@given(way=WAYS, rate=RATES, seconds=SECONDS, share=st.floats(0.3, 0.7))
def test_more_room_to_spare_never_needs_fewer_workers(way: Way, rate: float, seconds: float, share: float) -> None:
    """Workers that shall be less busy are at least as many."""
    assert quick(rate, way, seconds, share=share).workers >= quick(rate, way, seconds, share=share + 0.25).workers
