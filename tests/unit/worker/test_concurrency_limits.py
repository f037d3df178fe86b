"""What stands between Celery's consumer and its pool, with requests that Celery's own state holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from balog_celery.consumers.concurrency import Concurrency
from balog_celery.dispatch.local_tasks import MAX_LIMITED
from balog_celery.worker.concurrency import ConcurrencyLimits


class Request:
    """A request, which Celery has reserved."""

    def __init__(self, name: str = "c", *, is_handed_over: bool = True) -> None:
        self.id = str(id(self))
        self.name = name
        self.is_handed_over = is_handed_over
        self.waits = False
        state.reserved_requests.add(self)

    def waits_for_place(self, waits: bool) -> None:
        self.waits = waits

    def accepted(self) -> None:
        state.active_requests.add(self)

    def ready(self) -> None:
        state.task_ready(self)


class Pool:
    """Notes the requests that it was given."""

    def __init__(self) -> None:
        self.given: list[Request] = []
        self.prefetch = 0

    def start(self, request: Any) -> None:
        self.given.append(request)

    @property
    def consumer(self) -> Any:
        def change(by: int) -> None:
            self.prefetch += by

        return SimpleNamespace(
            qos=SimpleNamespace(increment_eventually=lambda: change(1), decrement_eventually=lambda: change(-1))
        )


class Places:
    """Grants places when the test does."""

    def __init__(self) -> None:
        self.granted: deque[tuple[str, str]] = deque()
        self.wanted: list[tuple[str, int]] = []
        self.returned: list[tuple[str, str]] = []

    def want(self, name: str, limit: int) -> None:
        self.wanted.append((name, limit))

    def give_back(self, name: str, place: str) -> None:
        self.returned.append((name, place))


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    state.reserved_requests.clear()
    state.active_requests.clear()


@pytest.fixture
def pool() -> Pool:
    return Pool()


def limits_of(pool: Pool, limit: Concurrency, places: Places | None = None) -> ConcurrencyLimits:
    return ConcurrencyLimits({"c": limit}, pool.start, pool.consumer, places)


def test_tasks_beyond_the_limit_wait_in_order_and_others_do_not(pool: Pool) -> None:
    """The third waits until one has ended; a consumer without a limit does not wait."""
    limits = limits_of(pool, Concurrency(2))
    requests = [Request() for _ in range(4)]
    other = Request("other")
    for request in (*requests, other):
        limits.take(request)
    assert pool.given == [*requests[:2], other]
    assert [request.waits for request in requests] == [False, False, True, True]
    requests[1].accepted()
    requests[1].ready()
    limits.ended(requests[1])
    assert pool.given[3:] == [requests[2]]
    assert not requests[2].waits
    assert limits.status() == {"c": {"limit": 2, "of": "worker", "running": 2, "waiting": 1}}


def test_an_end_that_is_not_reported_is_found(pool: Pool) -> None:
    """A check finds that Celery has forgotten a request, or that nothing has it at all."""
    limits = limits_of(pool, Concurrency(1))
    requests = [Request() for _ in range(3)]
    for request in requests:
        limits.take(request)
    requests[0].ready()
    limits.check()
    assert pool.given == requests[:2]
    pool.given.clear()
    second = requests.pop(1)
    del second, request
    limits.check()
    assert pool.given == [requests[1]]


def test_a_task_that_ends_while_it_starts_does_not_start_the_next_inside(pool: Pool) -> None:
    """A pool that executes in place needs no deeper stack for more tasks that wait."""
    depth, most = 0, 0

    def execute(request: Any) -> None:
        nonlocal depth, most
        depth += 1
        most = max(most, depth)
        request.ready()
        limits.ended(request)
        depth -= 1
        pool.given.append(request)

    limits = ConcurrencyLimits({"c": Concurrency(1)}, pool.start, pool.consumer)
    requests = [Request() for _ in range(50)]
    for request in requests:
        limits.take(request)
    limits._start = execute
    requests[0].ready()
    limits.ended(requests[0])
    assert pool.given == requests
    assert most == 1


def test_waiting_tasks_of_a_broker_make_room_for_others(pool: Pool) -> None:
    """The prefetch limit grows by those that wait, up to a hundred, and shrinks as they start; not if handed over."""
    limits = limits_of(pool, Concurrency(1))
    requests = [Request(is_handed_over=False) for _ in range(MAX_LIMITED + 10)]
    for request in (*requests, Request()):
        limits.take(request)
    assert pool.prefetch == MAX_LIMITED
    for request in requests:
        request.ready()
        limits.ended(request)
    assert len(pool.given) == MAX_LIMITED + 11
    assert pool.prefetch == 0


def test_tasks_whose_connection_is_lost_are_not_started(pool: Pool) -> None:
    """Celery forgets them, and the broker delivers them again."""
    limits = limits_of(pool, Concurrency(1))
    requests = [Request() for _ in range(3)]
    for request in requests:
        limits.take(request)
    requests[0].accepted()
    state.reserved_requests.clear()
    limits.ended(requests[0])
    assert pool.given == requests[:1]
    requests[0].ready()
    limits.check()
    assert pool.given == requests[:1]
    again = Request()
    limits.take(again)
    assert pool.given[1:] == [again]


def test_places_of_the_cluster_are_used_and_given_back(pool: Pool) -> None:
    """A task starts with its place, which goes back at its end, or at once if no task waits."""
    places = Places()
    limits = limits_of(pool, Concurrency(5, in_cluster=True), places)
    request = Request()
    limits.take(request)
    assert (pool.given, places.wanted) == ([], [("c", 5)])
    places.granted += [("c", "p1"), ("c", "p2")]
    limits.check()
    assert pool.given == [request]
    assert places.returned == [("c", "p2")]
    request.ready()
    limits.ended(request)
    assert places.returned == [("c", "p2"), ("c", "p1")]
    assert places.wanted == [("c", 5)]


def test_a_task_whose_start_fails_holds_up_no_other(pool: Pool) -> None:
    """The next one starts when Celery has forgotten the one that the pool did not take."""
    limits = limits_of(pool, Concurrency(1))
    first, second = Request(), Request()

    def refuse(request: Any) -> None:
        raise RuntimeError("the pool is closed")

    limits._start = refuse
    with pytest.raises(RuntimeError, match="closed"):
        limits.take(first)
    first.ready()
    limits._start = pool.start
    limits.take(second)
    assert pool.given == [second]
