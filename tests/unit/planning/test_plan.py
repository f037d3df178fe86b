"""Plans: the size of workers, what limits them, and what they ask of SQS."""

from __future__ import annotations

import pytest

from balog_celery.planning.plan import ADVICE, Plan, Question, make_plan
from balog_celery.planning.scenario import Function
from balog_celery.planning.sizes import GivenSize


def plan(rate: float, seconds: float = 0.0, cpu: float = 0.0, distance: float = 0.0, **given: int) -> Plan:
    question = Question(rate, Function(seconds, cpu), distance, given=GivenSize(**given))
    return make_plan(question, events=1500)


def test_workers_have_the_rate_with_room_to_spare() -> None:
    """All workers together can do the rate with a fifth to spare, and one fewer could not."""
    found = plan(20_000, 0.01)
    assert found.workers * found.capacity * 0.8 >= 20_000 > (found.workers - 1) * found.capacity * 0.8
    assert max(share for part, share in found.busy.items() if part != "pollers") < 0.9


def test_a_small_rate_needs_one_small_worker() -> None:
    """One worker with two children does one event a second."""
    found = plan(1)
    assert (found.workers, found.size.concurrency, found.size.pollers, found.size.cores) == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("bound", "load", "given"),
    [
        ("children", {"seconds": 0.05}, {"concurrency": 4, "cores": 2}),
        ("main process", {}, {"concurrency": 16, "cores": 16, "pollers": 4}),
        ("pollers", {"distance": 0.05}, {"concurrency": 16, "cores": 16, "pollers": 1}),
        ("cores", {"seconds": 0.01, "cpu": 0.01}, {"concurrency": 8, "cores": 2}),
    ],
)
def test_the_limit_is_the_part_that_is_busy(bound: str, load: dict[str, float], given: dict[str, int]) -> None:
    """The limit is the part that is busy all the time when events never end, and each has its advice."""
    found = plan(10_000, **load, **given)
    assert found.bound == bound
    assert found.full[bound] > 0.9
    assert found.advice == ADVICE[bound]


def test_the_chosen_size_suits_the_engine_and_the_main_process() -> None:
    """Children, pollers and cores are as many as the main process of a busy worker needs, and no more."""
    found = plan(100_000, 0.01, distance=0.01)
    assert found.full["main process"] > 0.6
    assert found.full["children"] > 0.7
    assert 1 < found.size.pollers <= 8


def test_calls_count_receives_deletes_and_extensions() -> None:
    """An event needs a tenth of a delete, at most one receive, and extensions if it is in flight for long."""
    quick, long = plan(2000, 0.001), plan(20, 30.0)
    assert quick.calls.deletes == pytest.approx(200, rel=0.1)
    assert 200 * 0.95 <= quick.calls.receives <= 2000
    assert quick.calls.extensions == 0
    # Every ten seconds, a tenth of a call for each message.
    assert long.calls.extensions == pytest.approx(long.in_flight / 100)
    assert long.calls.per_month == pytest.approx(long.calls.per_second * 86_400 * 30)


def test_more_messages_in_flight_than_a_queue_may_have_are_the_limit() -> None:
    """Events that are in flight for long enough need more than one queue."""
    found = plan(10_000, 60.0)
    assert found.bound == "messages in flight"
    assert found.queues == pytest.approx(found.in_flight / 120_000, abs=1)
    assert found.queues > 1


def test_functions_with_cpu_need_as_many_cores() -> None:
    """Each millisecond of CPU of the function needs a core more for each thousand events."""
    without, with_cpu = plan(5000, 0.004), plan(5000, 0.004, cpu=0.004)
    more = with_cpu.workers * with_cpu.size.cores - without.workers * without.size.cores
    assert more >= 20
