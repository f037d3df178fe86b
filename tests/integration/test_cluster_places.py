"""Places that all workers share, in a real Valkey: limits, turns, deaths, clocks and outages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
import redis

import servers
from balog_celery.worker.cluster_places import ClusterPlaces, PlaceStore

PREFIX = "test:"
PLACES = "test:{c}:places"

Make = Callable[..., ClusterPlaces]


@pytest.fixture
def client(broker: servers.Valkey) -> Iterator[redis.Redis]:
    with broker.client() as client:
        yield client


@pytest.fixture
def worker(broker: servers.Valkey) -> Iterator[Make]:
    """Makes the places of a worker."""
    made: list[ClusterPlaces] = []

    def make(lasts: float = 30.0, url: str = "") -> ClusterPlaces:
        url = (url or broker.url).replace("redis+socket://", "unix://")
        client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        places = ClusterPlaces(PlaceStore(lambda: client, lasts, PREFIX), lambda: None)
        made.append(places)
        places.start()
        return places

    yield make
    for places in made:
        places.stop()


def granted(places: ClusterPlaces) -> str:
    """Wait for a place, and return it."""
    servers.wait_until(lambda: bool(places.granted), what="the place")
    return places.granted.popleft()[1]


def refused(places: ClusterPlaces, client: redis.Redis) -> bool:
    """Return whether Redis has the worker wait."""
    servers.wait_until(lambda: client.zcard("test:{c}:waiting") > 0, what="a waiting worker")
    return not places.granted


def test_no_more_places_than_the_limit(worker: Make, client: redis.Redis) -> None:
    """The third worker waits until one gives its place back."""
    # Given
    one, two, three = worker(), worker(), worker()
    for places in (one, two):
        places.want("c", 2)
    first, _ = granted(one), granted(two)
    # When
    three.want("c", 2)
    # Then
    assert refused(three, client)
    # When
    one.give_back("c", first)
    # Then
    granted(three)
    assert client.zcard(PLACES) == 2


def test_workers_that_wait_take_turns(worker: Make, client: redis.Redis) -> None:
    """A worker that gives back its place and wants another is behind one that waits."""
    one, two = worker(), worker()
    one.want("c", 1)
    place = granted(one)
    two.want("c", 1)
    assert refused(two, client)
    for _ in range(5):
        one.want("c", 1)
        one.give_back("c", place)
        place = granted(two)
        one, two = two, one


def test_places_are_extended_while_their_worker_lives(worker: Make, client: redis.Redis) -> None:
    """They expire after its death, and no other worker waits longer than that."""
    # Given
    one, two = worker(lasts=0.6), worker(lasts=0.6)
    one.want("c", 1)
    granted(one)
    two.want("c", 1)
    began = time.monotonic()
    servers.wait_until(lambda: time.monotonic() - began > 1.5)
    assert refused(two, client)
    # When it stops extending, as a killed worker does
    one._store.extend = lambda *_: None  # type: ignore[method-assign]
    # Then
    granted(two)


def test_a_place_that_expired_is_taken_again_while_its_task_runs(worker: Make, client: redis.Redis) -> None:
    """Redis's clock went forward: the running tasks count again before another is let through."""
    one = worker(lasts=0.6)
    one.want("c", 1)
    place = granted(one)
    client.delete(PLACES)
    servers.wait_until(lambda: client.zscore(PLACES, place) is not None, what="the place")


def test_no_place_lasts_longer_after_the_clock_went_back(worker: Make, client: redis.Redis) -> None:
    """A dead worker's place ends one period after the jump, not at its time by the old clock."""
    # Given the place of a dead worker, and one that waits, with times an hour ahead
    seconds, _ = client.time()
    client.zadd(PLACES, {"dead:1": (seconds + 3600) * 1000})
    client.zadd("test:{c}:waiting", {"dead": (seconds + 3600) * 1000})
    # When
    one = worker(lasts=0.6)
    one.want("c", 1)
    # Then
    granted(one)


def test_places_are_given_back_at_a_stop(worker: Make, client: redis.Redis) -> None:
    """Another worker need not wait until they expire."""
    one = worker()
    for _ in range(2):
        one.want("c", 2)
        granted(one)
    one.stop()
    assert client.zcard(PLACES) == 0


def test_without_redis_tasks_wait_and_it_is_logged_once(
    worker: Make, tmp_path: object, caplog: pytest.LogCaptureFixture
) -> None:
    """No place is granted while Redis is away, and places are when it is back."""
    with caplog.at_level(logging.INFO):
        with servers.Valkey() as server:
            url = server.url
            one = worker(url=url)
            one.want("c", 2)
            place = granted(one)
        one.want("c", 2)
        one.give_back("c", place)
        servers.wait_until(lambda: "failed, retrying" in caplog.text, what="the log line")
        assert not one.granted
        assert caplog.text.count("failed, retrying") == 1
