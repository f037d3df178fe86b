"""Scans of dead letters from the page: bounded, released at once, grouped; and replays in the background."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import consumer_config
from cpu_time import cpu_within
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

pytest.importorskip("starlette")

from starlette.requests import Request

from balog_celery.web import dead_letters
from balog_celery.web.access import Access, Role, User
from balog_celery.web.dead_pages import DeadPages
from balog_celery.web.engines import EngineReport
from balog_celery.web.pages import Pages
from balog_celery.web.sampler import Rates, Sample, Sampler
from balog_celery.web.site import Site

TOPIC = "web-scans"


@consumer_config(TOPIC, "metrics")
def first(event: Any) -> None: ...


class LongQueue(ObservedQueue):
    """A dead-letter queue of *length* messages, which counts those that were received."""

    def __init__(self, name: str, length: int, padding: int = 0) -> None:
        super().__init__(name)
        self.received = 0
        self.store.on_received.append(self._note_received)
        mark = {"reason": "failed", "topic": TOPIC, "consumer": f"{__name__}.first"}
        shared = event_text("e", padding="x" * padding) if padding else ""
        for number in range(length):
            attributes = {**mark, "error": f"ValueError('no order {number}')"}
            self.put(shared or event_text(f"e{number}"), attributes=attributes, sent=1_700_000_000_000 + number)

    @property
    def visible(self) -> int:
        """How many messages can be received."""
        return len(self.remaining()) - len(self.in_flight())

    def _note_received(self, *_: Any) -> None:
        self.received += 1


def app_with(queue: ObservedQueue) -> Iterator[Celery]:
    app = Celery("scans", broker="memory://", set_as_current=False)
    install(app, packages=[__name__])
    app.loader.import_default_modules()
    app.balog.connect = {TOPIC: ObservedQueue(TOPIC), queue.name: queue}.__getitem__
    yield app
    app.close()


@pytest.fixture
def queue() -> LongQueue:
    return LongQueue(f"{TOPIC}-dead", 10_000)


@pytest.fixture
def app(queue: LongQueue) -> Iterator[Celery]:
    yield from app_with(queue)


def page_request(path: str) -> Request:
    """What an operator's browser asks for."""
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "state": {}}
    request = Request({**scope, "server": ("127.0.0.1", 5577), "scheme": "http"})
    request.state.user = User("ana", Role.OPERATOR)
    return request


def test_of_a_hundred_thousand_dead_letters_a_thousand_are_read() -> None:
    """They are shown within a second of CPU and released, and a further scan takes no more memory."""
    queue = LongQueue(f"{TOPIC}-dead", 100_000, padding=1)
    for app in app_with(queue):
        site = Site(app, Access(None, {"": Role.OPERATOR}), Sampler(app, 30.0), None)
        with cpu_within(1.0):
            site.scan = scan = dead_letters.scan(app)
            shown = bytes(DeadPages(site).groups(page_request("/dead")).body).decode()
        assert "1,000 dead letters,\nthe first of more." in shown
        site.sampler.sample_topics()
        shown = bytes(DeadPages(site).groups(page_request("/dead")).body).decode()
        assert "the first of about 100,000." in shown
        assert len(scan.found) == dead_letters.MAX_SCANNED == queue.received
        (group,) = scan.groups()
        assert (group.error, len(group.members)) == ("ValueError: no order …", 1_000)
        assert group.times[0] < group.times[-1]
        tracemalloc.start()
        kept = []
        for _ in range(2):
            queue.script.calls.clear()  # the test's own record of what was asked
            site.scan = dead_letters.scan(app)
            kept.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert kept[1] < kept[0] * 1.5  # the SQS of the test keeps a little more of each message that was received
    assert peak < 32 * 2**20
    assert queue.visible == 100_000


def test_a_scan_is_bounded_by_size() -> None:
    """Bodies may have a megabyte each."""
    queue = LongQueue(f"{TOPIC}-dead", 1_000, padding=1_000_000)
    for app in app_with(queue):
        found = dead_letters.scan(app)
    assert sum(len(one.message.body) for one in found.found) < dead_letters.MAX_BYTES + 10 * 1_001_000
    assert not found.is_complete


def test_a_scan_of_few_is_complete() -> None:
    """And says so."""
    for app in app_with(LongQueue(f"{TOPIC}-dead", 7)):
        found = dead_letters.scan(app)
    assert found.is_complete
    assert len(found.found) == 7


def test_a_delete_finds_its_messages_and_stops(app: Celery, queue: LongQueue) -> None:
    """It deletes what was selected, releases the rest, and reads no further than it must."""
    assert dead_letters.delete(app, frozenset({queue.id_of("m3"), queue.id_of("m25")})) == 2
    assert sorted(queue.deleted) == ["m25", "m3"]
    assert queue.received <= 30
    assert queue.visible == 10_000 - 2


def test_an_error_in_a_scan_releases_what_it_has_read(app: Celery, queue: LongQueue) -> None:
    """Even in the middle."""
    queue.on["delete"] = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        dead_letters.delete(app, frozenset({queue.id_of("m3")}))
    assert queue.visible == 10_000


def test_rates_count_through_a_restart() -> None:
    """Of several engines; an engine that starts again counts from zero."""
    now = [0.0]
    rates = Rates(lambda: now[0])

    def after(seconds: float, *counts: int) -> float | None:
        now[0] += seconds
        reports = [EngineReport(f"w{one}", {"t": {"received": count}}, []) for one, count in enumerate(counts)]
        return rates.of(reports, "t", "received")

    assert after(0, 100, 50) is None
    assert after(10, 200, 150) == 20
    assert after(10, 10, 150) == 1
    assert rates.of([], "t", "received") is None


def test_the_history_is_bounded(app: Celery) -> None:
    """To an hour."""
    sampler = Sampler(app, 30.0)
    for _ in range(200):
        sampler.sample_topics()
    (history,) = sampler.topics.values()
    assert len(history.samples) == 120


def test_two_hundred_topics_are_shown_within_a_second_of_cpu() -> None:
    """With an hour of samples, and an engine for each."""
    app = Celery("many", broker="memory://", set_as_current=False)
    install(app)
    app.balog.topics = lambda: {f"topic-{number}": [] for number in range(200)}
    site = Site(app, Access(None, {"": Role.OPERATOR}), Sampler(app, 30.0), None)
    state = {
        "doing": "polling",
        "reason": "",
        "doing_for": 1.0,
        "last_poll": 1.0,
        "in_flight": 1,
        "oldest": 1.0,
        "owed": 0,
    }
    topics = {
        f"topic-{number}": {**state, "lag": {"sent": {"last": 1.0, "p50": 0.5, "p95": 1.5, "p99": 2.0, "max": 2.0}}}
        for number in range(200)
    }
    site.sampler.engines = [EngineReport("w@a", topics, [])]
    for history in site.sampler.topics.values():
        history.row = {"waiting": 1, "in_flight": 2, "delayed": 0, "oldest": None, "dead_letters": []}
        history.samples.extend(Sample(float(number % 7), 1.0, 0.0, 2.5, None, 1.5) for number in range(120))
    with cpu_within(1.0):
        shown = bytes(Pages(site).topics(page_request("/")).body).decode()
    assert shown.count("</h2>") == 200
    assert shown.count("w@a") == 200
    app.close()
