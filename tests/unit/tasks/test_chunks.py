"""Chunks: a call for each event of a task, each with its own end, its own cause, its own message and its own trace."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, Retry

from balog_celery.consumers import BatchFailure, Consumer, ConsumerOperator
from balog_celery.consumers.context import EVENT, MESSAGE, ORIGINAL, OWN, chunk_headers
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.decoders import At, Message
from balog_celery.errors import ConfigurationError
from balog_celery.events.records import decode
from balog_celery.producer.lineage import current
from balog_celery.tasks.consumer import LATER
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.idempotency import IdempotencyStore, InProgress
from balog_celery.tasks.local_retry import LocalRetry
from balog_celery.tasks.naming import batch_id, task_id
from balog_celery.tasks.routes import register, register_dead_letter_task
from balog_celery.telemetry import Telemetry
from balog_celery.testing.doubles import MemoryIdempotencyStore
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

# What may be asked for


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"chunk": 0}, "bad chunk=0"),
        ({"chunk": True}, "bad chunk=True"),
        ({"chunk": 10_001}, "from 1 to 10000"),
        ({"chunk": 2, "chunk_wait": 0}, "bad chunk_wait=0"),
        ({"chunk": 2, "chunk_wait": "1"}, "bad chunk_wait='1'"),
        ({"chunk_wait": 5}, "chunk_wait=5.*without chunk="),
        ({"limits_of": "chunk"}, "limits_of='chunk'.*without chunk="),
        ({"chunk": 2, "limits_of": "batch"}, "give 'event' or 'chunk'"),
        ({"chunk": 2, "batch": 2}, "both batch= and chunk="),
        ({"chunk": 2, "options": {"time_limit": 60}}, "a time limit, which would apply to up to 2 events.*limits_of="),
        ({"chunk": 2, "options": {"soft_time_limit": 60}}, "limits_of='chunk'"),
        ({"chunk": 2, "topic": "orders.fifo"}, "has chunk=, and a FIFO topic's events.*use a standard queue"),
    ],
)
def test_what_cannot_be_in_a_chunk_is_told_at_decoration(wanted: dict[str, Any], says: str) -> None:
    """Impossible options of chunks fail at decoration, in one line with advice."""
    with pytest.raises(ConfigurationError, match=says):
        Consumer(print, **{"topic": "topic", **wanted})


class Site:
    """An app with the task of one consumer, and what it puts on the broker and into the dead-letter queue."""

    def __init__(self) -> None:
        self.app = Celery("chunks", broker="memory://", set_as_current=False)
        self.dead = ObservedQueue("topic-dead")
        self.published: list[dict[str, Any]] = []
        self.letters = DeadLetters({"topic-dead": self.dead}.__getitem__, "{topic}-dead")
        register_dead_letter_task(self.app, self.letters)

    def task(
        self, func: Callable[..., Any], *, middleware: Any = (), store: IdempotencyStore | None = None, **more: Any
    ) -> Any:
        wanted = Consumer(func, "topic", **{"chunk": 100, "name": "f", "module": "proj", **more})
        return register(self.app, wanted, ConsumerOperator(), "topic", self.letters, store, middleware=middleware)

    def on_publish(self, headers: Any = None, body: Any = None, **_: Any) -> None:
        (texts,), _kwargs, _embed = body
        ids = [json.loads(text)["header"]["id"] for text in texts]
        self.published.append({"ids": ids, **{name: headers.get(name) for name in ("id", "retries", "eta", ORIGINAL)}})

    def errors(self) -> dict[str, str]:
        """The errors of the dead letters, by the ids of their events."""
        return {json.loads(letter.body)["header"]["id"]: mark_of(letter)["error"] for letter in self.dead.sent}


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    signals.before_task_publish.connect(site.on_publish)
    yield site
    signals.before_task_publish.disconnect(site.on_publish)


@contextmanager
def request(
    task: Any, texts: list[str], *, handed_over: bool = True, retries: int = 0, **headers: Any
) -> Iterator[None]:
    """Let *task* run in a worker, which an engine or the broker gave it to."""
    properties = HandOffContext(time.monotonic() + 3600, tuple(headers)).to_properties() if handed_over else {}
    task.push_request(
        id="i", args=[texts], kwargs={}, retries=retries, properties=properties, called_directly=False, **headers
    )
    try:
        yield
    finally:
        task.pop_request()


def of(*ids: str) -> list[str]:
    return [event_text(one, one) for one in ids]


def id_of(event: Any) -> str:
    return str(event["header"]["id"])


def ends_as_named(event: dict[str, Any]) -> None:
    """End as the event's id says."""
    match id_of(event):
        case "retried":
            raise OSError("again")
        case "asked":
            raise Retry(exc=KeyError("by hand"), when=30)
        case "bad":
            raise ValueError("never")
        case "dropped":
            raise Ignore
        case "refused":
            raise Reject("no", requeue=False)
        case "left":
            raise KeyboardInterrupt


async def ends_as_named_later(event: dict[str, Any]) -> None:
    """End as the event's id says, after the others have begun."""
    await asyncio.sleep(0)
    ends_as_named(event)


@pytest.mark.parametrize("func", [ends_as_named, ends_as_named_later])
def test_each_event_of_a_chunk_has_its_own_end(site: Site, func: Callable[..., Any]) -> None:
    """Done, dropped, a dead letter at once, or retried without the others after the longest countdown."""
    task = site.task(func, options={"autoretry_for": (OSError,)})
    texts = of("ok", "retried", "bad", "asked", "dropped", "refused", "fine")
    with request(task, texts), pytest.raises(LocalRetry) as retry:
        task(texts)
    assert retry.value.remainder is not None
    assert (retry.value.remainder.positions, retry.value.when, retry.value.retries) == ([1, 3], 30, 1)
    assert site.errors() == {"bad": "ValueError('never')", "refused": "reject requeue=False: no"}
    assert site.published == []


def test_events_whose_retries_are_exhausted_are_dead_letters(site: Site) -> None:
    """Each with its own reason, and the others are done."""
    task = site.task(ends_as_named, options={"autoretry_for": (OSError,), "max_retries": 1})
    texts = of("retried", "asked", "ok")
    with request(task, texts, retries=1), pytest.raises(BatchFailure, match="2 of the batch's events failed"):
        task(texts)
    assert site.errors() == {"retried": "OSError('again')", "asked": "KeyError('by hand')"}


def test_an_event_that_does_not_fit_is_a_dead_letter_by_itself(site: Site) -> None:
    """The function is called for the others, with the arguments that it asks for."""
    called: list[str] = []

    def take(name: str) -> None:
        called.append(name)

    task = site.task(take, arguments={"name": At("payload.name")})
    texts = [event_text("a", "x", name="first"), event_text("b", "x"), event_text("c", "x", name="third")]
    with request(task, texts), pytest.raises(BatchFailure):
        task(texts)
    assert (called, list(site.errors())) == (["first", "third"], ["b"])


def test_a_failed_call_is_logged_with_its_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """By the event's id, as a warning: the failure of the task is the error."""
    task = site.task(ends_as_named)
    texts = of("ok", "bad")
    with request(task, texts), pytest.raises(BatchFailure) as failure:
        task(texts)
    assert isinstance(failure.value.__cause__, ValueError)  # which Sentry shows
    (line,) = [record for record in caplog.records if record.exc_info and record.levelno == logging.WARNING]
    assert line.getMessage() == "proj.f failed on event bad"
    assert "ValueError: never" in (line.exc_text or logging.Formatter().format(line))


def test_what_asks_the_pool_to_end_ends_the_chunk(site: Site) -> None:
    """Its events come again."""
    task = site.task(ends_as_named)
    assert task.apply((of("ok", "bad"),), throw=False).state == "FAILURE"
    with pytest.raises(KeyboardInterrupt):
        task.apply((of("ok", "left"),))


# What takes too long


def test_a_chunk_that_takes_too_long_leaves_the_rest_to_its_worker(site: Site) -> None:
    """What was not called is executed next, without counting a retry; the worker learns how long a call takes."""
    # Given
    called: list[str] = []

    def slow(event: dict[str, Any]) -> None:
        called.append(id_of(event))
        time.sleep(0.02)

    task = site.task(slow, chunk_wait=0.03)
    texts = of("a", "b", "c", "d", "e")
    # When
    with request(task, texts, retries=2), pytest.raises(LocalRetry) as retry:
        task(texts)
    # Then
    remainder = retry.value.remainder
    assert remainder is not None
    assert called == ["a", "b"][: len(called)]
    assert remainder.positions == list(range(len(called), 5))
    assert (retry.value.when, retry.value.retries, remainder.calls) == (0.0, 2, len(called))
    assert remainder.seconds >= 0.03
    assert site.published == []


def test_a_published_chunk_that_takes_too_long_publishes_the_rest_in_parts(site: Site) -> None:
    """Each takes as long as its last event may wait, and has what dead letters keep of its own events."""
    # Given
    task = site.task(lambda event: time.sleep(0.1), chunk_wait=0.05)
    texts = of("a", "b", "c")
    kept = {one: {"id": f"m-{one}"} for one in "abc"}
    # When
    with (
        request(task, texts, handed_over=False, retries=1, **{ORIGINAL: kept, "headers": {ORIGINAL: kept}}),
        pytest.raises(Ignore),
    ):
        task(texts)
    # Then
    assert [part["ids"] for part in site.published] == [["b"], ["c"]]
    assert [part["id"] for part in site.published] == [batch_id([one], task.name) for one in "bc"]
    assert [part["retries"] for part in site.published] == [1, 1]
    assert [part[ORIGINAL] for part in site.published] == [{"b": kept["b"]}, {"c": kept["c"]}]


def test_what_failed_is_retried_beside_what_was_not_called(site: Site) -> None:
    """The worker executes the rest at once, and the broker keeps the retry with its countdown."""

    def fail(event: dict[str, Any]) -> None:
        time.sleep(0.1)
        raise OSError("again")

    task = site.task(fail, chunk_wait=0.05, options={"autoretry_for": (OSError,), "default_retry_delay": 60})
    texts = of("a", "b", "c")
    with request(task, texts), pytest.raises(LocalRetry) as retry:
        task(texts)
    assert retry.value.remainder is not None
    assert (retry.value.remainder.positions, retry.value.retries) == ([1, 2], 0)
    (published,) = site.published
    assert (published["ids"], published["retries"]) == (["a"], 1)
    assert published["eta"] is not None


# Only once


def test_an_event_that_was_finished_is_skipped_in_a_chunk(site: Site) -> None:
    """And one that failed is not remembered."""
    called: list[str] = []

    def once(event: dict[str, Any]) -> None:
        called.append(id_of(event))
        ends_as_named(event)

    task = site.task(once, once=True, store=MemoryIdempotencyStore())
    with request(task, []):
        task(of("a"))
        with pytest.raises(BatchFailure):
            task(of("a", "bad", "b"))
        with pytest.raises(BatchFailure):
            task(of("bad"))
    assert called == ["a", "bad", "b", "bad"]


class Busy(MemoryIdempotencyStore):
    """Another worker processes the events of these tasks."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys

    @contextmanager
    def attempt(self, key: str, remember: float, digest: str) -> Iterator[None]:
        if key in self.keys:
            raise InProgress
        with super().attempt(key, remember, digest):
            yield


@pytest.mark.parametrize("handed_over", [True, False])
def test_an_event_that_is_processed_elsewhere_comes_again_later(site: Site, handed_over: bool) -> None:
    """Alone, without counting a retry, in its worker or by the broker."""
    store = Busy(task_id("b", "proj.f"))
    task = site.task(ends_as_named, once=True, store=store)
    texts = of("a", "b", "c")
    with request(task, texts, handed_over=handed_over, retries=1), pytest.raises((LocalRetry, Ignore)) as end:
        task(texts)
    if handed_over:
        retry = end.value
        assert isinstance(retry, LocalRetry)
        assert retry.remainder is not None
        assert (retry.remainder.positions, retry.when, retry.retries) == ([1], LATER, 1)
    else:
        (published,) = site.published
        assert (published["ids"], published["retries"]) == (["b"], 1)
        assert published["eta"] is not None


# What belongs to one event


@pytest.mark.parametrize("is_async", [False, True])
def test_each_call_is_caused_by_its_own_event(site: Site, is_async: bool) -> None:
    """Also where calls are concurrent."""
    causes: list[tuple[str, str, str]] = []

    def note(event: dict[str, Any]) -> None:
        cause = current()
        causes.append((cause.event_id, cause.cls_type, cause.consumer))

    async def note_later(event: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        note(event)

    task = site.task(note_later if is_async else note)
    task.apply((of("a", "b", "c"),))
    assert causes == [(one, one, "proj.f") for one in "abc"]
    assert current().event_id == ""


def headers_of(*ids: str, **more: Any) -> dict[str, Any]:
    """The headers of a chunk whose messages have ``attributes`` and a trace of their own."""
    return chunk_headers(
        [
            {EVENT: {"id": one}, MESSAGE: {"id": f"m-{one}", "topic": "topic"}, "traceparent": f"00-{one}", **more}
            for one in ids
        ]
    )


def test_a_function_and_middleware_get_the_message_of_their_event(site: Site) -> None:
    """Middleware is called around each call."""
    seen: list[tuple[str, str, str]] = []

    def around(call: Callable[[], Any], consumer: Consumer, event: dict[str, Any], message: Message) -> Any:
        seen.append(("around", id_of(event), message.id))
        return call()

    def process(event: dict[str, Any], message: Message) -> None:
        seen.append(("process", id_of(event), message.id))

    task = site.task(process, middleware=[around])
    texts = of("a", "b")
    with request(task, texts, **headers_of("a", "b")):
        task(texts)
    with request(task, texts[:1], **headers_of("a")):
        task(texts[:1])
    assert seen == [(who, one, f"m-{one}") for one in "aba" for who in ("around", "process")]


def test_a_chunk_without_anything_of_single_events_has_no_headers_for_them() -> None:
    """They would cost every event."""
    assert OWN not in chunk_headers(
        [{EVENT: {"id": "a"}, ORIGINAL: {"a": {}}}, {EVENT: {"id": "b"}, ORIGINAL: {"b": {}}}]
    )


def test_each_event_is_counted_and_traced_by_itself(site: Site) -> None:
    """In the trace of its own message."""
    told: list[tuple[str, Any]] = []

    class Recording(Telemetry):
        def started(self, topic: str, consumer: str, times: Any) -> None:
            told.append(("started", sorted(times)))

        @contextmanager
        def running(self, headers: Any) -> Iterator[None]:
            told.append(("running", headers["traceparent"]))
            yield

        def done(self, topic: str, consumer: str, times: Any, *, failed: bool) -> None:
            told.append(("failed" if failed else "done", topic))

    task = site.task(ends_as_named)
    task.telemetry = Recording()
    texts = of("a", "bad")
    with request(task, texts, **headers_of("a", "bad")), pytest.raises(BatchFailure):
        task(texts)
    begun = ("started", ["emitted", "started"])
    assert told == [begun, ("running", "00-a"), ("done", "topic"), begun, ("running", "00-bad"), ("failed", "topic")]


def test_a_chunk_of_one_event_is_named_as_its_task_would_be(site: Site) -> None:
    """By the event: so it is in Flower, and so a duplicate is recognised."""
    task = site.task(ends_as_named)
    (text,) = of("a")
    found, shown, argument = task.describe([(decode(text), text)])
    assert (found, argument) == (task_id("a", task.name), [text])
    assert shown == "(<Event a cls_type=a topic=topic>,)"


# Time limits


@pytest.mark.parametrize("whose", ["base class", "app"])
def test_limits_that_are_not_options_are_told_at_start(site: Site, whose: str) -> None:
    """Those of a base class and of the app are for the whole chunk as well."""

    class Limited(Task):  # type: ignore[misc]
        time_limit = 60 if whose == "base class" else None

    site.app.conf.task_time_limit = 60 if whose == "app" else None
    with pytest.raises(ConfigurationError, match="limits_of='chunk'"):
        site.task(ends_as_named, options={"base": Limited}, name="g")
    assert site.task(ends_as_named, limits_of="chunk", options={"base": Limited}).consumer.limits_of == "chunk"


@pytest.fixture
def child() -> Iterator[None]:
    """The signal handler of a pool's child."""
    before = signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
    yield
    signal.signal(SIG_SOFT_TIMEOUT, before)


@pytest.mark.usefixtures("child")
def test_a_soft_limit_ends_one_call_and_leaves_the_rest_for_later(site: Site) -> None:
    """The event of that call failed; the others were not called."""

    def reach_limit(event: dict[str, Any]) -> None:
        if id_of(event) == "b":
            signal.raise_signal(SIG_SOFT_TIMEOUT)

    task = site.task(reach_limit, limits_of="chunk", options={"soft_time_limit": 60})
    texts = of("a", "b", "c", "d")
    with request(task, texts), pytest.raises(LocalRetry) as retry:
        task(texts)
    assert retry.value.remainder is not None
    assert (retry.value.remainder.positions, retry.value.retries) == ([2, 3], 0)
    assert site.errors() == {"b": "SoftTimeLimitExceeded()"}


@pytest.mark.usefixtures("child")
def test_a_soft_limit_cancels_calls_that_are_concurrent(site: Site) -> None:
    """Those that have returned are done."""

    async def reach_limit(event: dict[str, Any]) -> None:
        if id_of(event) == "b":
            signal.raise_signal(SIG_SOFT_TIMEOUT)
        if id_of(event) != "a":
            await asyncio.sleep(300)

    task = site.task(reach_limit, limits_of="chunk", options={"soft_time_limit": 60})
    texts = of("a", "b", "c")
    with request(task, texts), pytest.raises(BatchFailure):
        task(texts)
    assert site.errors() == dict.fromkeys("bc", "SoftTimeLimitExceeded()")
