"""Looks whether an app could run: settings, consumers, queues and their settings, broker, backend, workers."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from celery import Celery
from celery.backends.base import DisabledBackend
from kombu.utils.url import maybe_sanitize_url

from .brokers import bounded_connection
from .consumers.consumer import Consumer
from .consumers.doubts import doubts
from .errors import AccessDenied, BalogError, QueueError, QueueNotFound
from .limits import limit_doubts
from .queues import Queue, SQSQueue
from .text import printable

Level = Literal["OK", "WARN", "FAIL"]
T = TypeVar("T")

#: How long a server may take to answer, in seconds.
_PATIENCE = 10.0
#: A visibility timeout below this leaves little time to extend a lease, in seconds.
_SHORT = 10
#: With one above this, what a killed engine had comes back late, in seconds.
_LONG = 3600
#: With fewer receives, an event that was only given back a few times counts as poison.
_FEW_RECEIVES = 3


class Finding(NamedTuple):
    """One line of the report.

    :param level: OK; WARN: it runs, but may not do what is wanted; FAIL: it does not run.
    :param about: what was looked at.
    :param text: what was found, and what to do about it.
    """

    level: Level
    about: str
    text: str


def check(app: Celery) -> Iterator[Finding]:
    """Look at everything that can be looked at without taking or sending a message."""
    try:
        dispatch = app.balog.settings and app.balog.dispatch
        folder = app.balog.status_dir
    except BalogError as error:
        yield Finding("FAIL", "settings", str(error))
        return
    yield Finding("OK", "settings", f"dispatch {dispatch}, status in {folder}")
    try:
        app.loader.import_default_modules()
    except Exception as error:
        text = str(error) if isinstance(error, BalogError) else repr(error)
        yield Finding("FAIL", "consumers", printable(text, 1000))
        return
    topics = app.balog.topics()
    broker = _broker(app)
    yield from _consumers(app, broker)
    if topics:
        yield _credentials(app.balog, next(iter(topics)))
        yield from _buckets(app.balog, next(iter(topics)))
    for topic in sorted(topics):
        yield from _topic(app.balog, topic)
        if broker.level != "FAIL":
            yield from _order(app, topic, topics[topic])
    yield broker
    yield _backend(app)
    if any(consumer.once for consumer in app.balog.hub):
        yield _once(app)
    if broker.level == "OK":  # else nobody can be asked
        yield from _workers(app)


def _consumers(app: Celery, broker: Finding) -> Iterator[Finding]:
    topics = app.balog.topics()
    if not topics:
        yield Finding("FAIL", "consumers", "there are none: name their packages in balog_packages")
        return
    found = list(doubts(topics))
    if broker.level != "FAIL":  # else there may be no such kind of broker
        found += limit_doubts(app, app.balog.hub, app.balog.dispatch)
    yield from (Finding("WARN", "consumers", doubt) for doubt in found)
    if not found:
        yield Finding(
            "OK", "consumers", f"{len(app.balog.hub)} found, topics: {', '.join(map(printable, sorted(topics)))}"
        )


def _credentials(balog: Any, topic: str) -> Finding:
    try:
        queue = balog.connect(topic)
        if not isinstance(queue, SQSQueue):
            return Finding("OK", "credentials", "those of balog_event_broker_url: topics are not on SQS")
        access = queue.access()
    except BalogError as error:
        return Finding("FAIL", "credentials", str(error))
    where = maybe_sanitize_url(access.endpoint_url)
    text = f"from {access.credentials}; region {access.region}; SQS at {where}"
    return Finding("OK", "credentials", printable(text, 500))


def _buckets(balog: Any, topic: str) -> Iterator[Finding]:
    names = balog.settings.payload_bucket
    if not names:
        return
    about = "payload bucket"
    try:
        queue = balog.connect(topic)
    except BalogError as error:
        yield Finding("FAIL", about, str(error))
        return
    if isinstance(queue, SQSQueue):
        yield from (_bucket(queue, bucket, about) for bucket in names)


def _bucket(queue: SQSQueue, bucket: str, about: str) -> Finding:
    name = printable(bucket, 100)
    try:
        if not queue.has_bucket(bucket):
            return Finding("FAIL", about, f"there is no {name!r}: create it, or correct balog_payload_bucket")
    except AccessDenied:
        return Finding("WARN", about, f"{name} cannot be looked at: allow s3:ListBucket on it, or correct its name")
    except QueueError as error:
        return Finding("WARN", about, str(error))
    return Finding("OK", about, f"{name} exists (reading and writing are not tried)")


def _order(app: Celery, topic: str, consumers: Sequence[Consumer]) -> Iterator[Finding]:
    """Whether the engine beside a worker could keep the order of a FIFO topic: it refuses to start where not."""
    about = f"topic {printable(topic)}, order"
    tasks = [app.tasks[consumer.task_name] for consumer in consumers]
    if not any(task.fifo for task in tasks):
        return
    troubles = []
    if app.balog.dispatch != "hand-off":
        troubles.append(f"balog_dispatch is {app.balog.dispatch!r}: make it 'hand-off'")
    elif not app.connection_for_read().transport.implements.asynchronous:
        troubles.append("a worker is handed no tasks with this broker's transport: use Redis or RabbitMQ")
    troubles += [f"{task.name} has acks_late=False: leave that out" for task in tasks if not task.acks_late]
    yield from (Finding("FAIL", about, f"it is FIFO, and cannot be kept in order: {trouble}") for trouble in troubles)
    if not troubles:
        served = sorted(
            {app.amqp.router.route({"queue": None}, task.name, (), {}, task)["queue"].name for task in tasks}
        )
        yield Finding(
            "OK", about, f"kept in each group, by a worker with its engine beside it that serves {', '.join(served)}"
        )


def _topic(balog: Any, topic: str) -> Iterator[Finding]:
    about = f"topic {printable(topic)}"
    try:
        queue: Queue = balog.connect(topic)
        queue.exists()
        refused = queue.refused() if isinstance(queue, SQSQueue) else []
        attributes = {} if "sqs:GetQueueAttributes" in refused else queue.attributes()
    except BalogError as error:
        yield Finding("FAIL", about, str(error))
        return
    if refused:
        yield Finding("FAIL", about, f"allow {', '.join(refused)} on it, in the policy of these credentials")
    else:
        allowed = "; the permissions to ask, delete and extend are there (receiving is not tried)"
        yield Finding("OK", about, f"exists{allowed if isinstance(queue, SQSQueue) else ''}")
    if attributes:
        yield from _visibility(balog, about, attributes)
    yield from _fates(balog, topic, about, attributes)


def _visibility(balog: Any, about: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    own = int(attributes.get("VisibilityTimeout", 30))
    seconds = balog.settings.visibility_timeout or own
    about = f"{about}, visibility"
    if seconds < _SHORT:
        yield Finding(
            "WARN", about, f"{seconds} s leave little time to extend leases, so events come twice: make it 30 s or more"
        )
    elif seconds > _LONG:
        yield Finding(
            "WARN",
            about,
            f"what a killed engine had comes again only after {seconds} s: make it lower, for the engine extends it "
            "while a task runs",
        )
    else:
        yield Finding("OK", about, f"{seconds} s, extended while a task runs")


def _fates(balog: Any, topic: str, about: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    """Where dead letters go: ours, and SQS's own redrive policy."""
    name = balog.dead_letters.name(topic)
    dead = None
    if name is None:
        yield Finding(
            "WARN", f"{about}, dead letters", "none are kept (balog_dead_letter is None): they are only logged"
        )
    else:
        dead = yield from _attributes(balog, name, f"{about}, dead letters", "WARN")
        if dead is not None:
            yield _dead_letters(name, f"{about}, dead letters", attributes, dead)
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    about = f"{about}, redrive policy"
    if not policy:
        if dead is None and attributes:
            yield Finding("WARN", about, "there is none, so bodies that cannot be decoded stay until they expire")
        return
    receives = int(policy.get("maxReceiveCount", 0))
    target = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
    if target != name:
        found = yield from _attributes(balog, target, about, "WARN")
        if found is None:
            return
    if receives < _FEW_RECEIVES:
        yield Finding(
            "WARN",
            about,
            f"maxReceiveCount {receives}: each stop of a worker may give back what it has, so events are moved to "
            f"{printable(target)} that nothing is wrong with; make it 5 or more",
        )
    else:
        yield Finding("OK", about, f"to {printable(target)} after {receives} receives")


def _dead_letters(name: str, about: str, topic: Mapping[str, str], dead: Mapping[str, str]) -> Finding:
    name = printable(name)
    if dead.get("RedrivePolicy"):
        return Finding("WARN", about, f"{name} has a redrive policy: looking at its letters moves them away; remove it")
    if "MessageRetentionPeriod" not in dead:  # not on SQS
        return Finding("OK", about, f"{name} exists")
    kept, of_topic = (int(one.get("MessageRetentionPeriod", 0)) for one in (dead, topic))
    if kept < of_topic:
        return Finding(
            "WARN",
            about,
            f"{name} keeps them for {kept // 3600} h, less than the topic its events: make its MessageRetentionPeriod "
            "1209600 (14 days)",
        )
    return Finding("OK", about, f"{name} keeps them for {kept // 3600} h (sending to it is not tried)")


def _attributes(balog: Any, name: str, about: str, level: Level) -> Any:
    """The attributes of a queue beside a topic; None, and a finding, if there is none."""
    try:
        return balog.connect(name).attributes()
    except QueueNotFound:
        yield Finding(
            level, about, f"there is no queue {printable(name)}: create it, or what should go there is only logged"
        )
    except QueueError as error:
        yield Finding(level, about, str(error))
    return None


def _broker(app: Celery) -> Finding:
    where = app.connection_for_write().as_uri(include_password=False)

    def connect() -> Any:
        with bounded_connection(app, _PATIENCE) as connection:
            connection.ensure_connection(max_retries=1, timeout=_PATIENCE)
            return connection.transport.implements.exchange_type

    try:
        carries = _within(connect)
    except Exception as error:
        return Finding("FAIL", "broker", f"{where} does not answer ({_short(error)}): start it, or correct broker_url")
    if "fanout" not in carries:
        return Finding(
            "WARN", "broker", f"{where} carries no remote control: inspect, Flower and `balog tail` see nothing"
        )
    return Finding("OK", "broker", f"{where} answers")


def _backend(app: Celery) -> Finding:
    backend = app.backend
    if isinstance(backend, DisabledBackend):
        return Finding("OK", "result backend", "none: what functions return is not kept")
    where = backend.as_uri(include_password=False)
    if not backend.persistent:
        return Finding("OK", "result backend", f"{where}, by way of the broker")
    try:
        _within(lambda: backend.get_task_meta(str(uuid.uuid4()), cache=False))
    except Exception as error:
        return Finding(
            "FAIL", "result backend", f"{where} does not answer ({_short(error)}): start it, or correct result_backend"
        )
    return Finding("OK", "result backend", f"{where} answers")


def _once(app: Celery) -> Finding:
    try:
        _within(app.balog.marks.ping)
    except BalogError as error:
        return Finding("FAIL", "once", str(error))
    except Exception as error:
        return Finding(
            "FAIL", "once", f"its Redis does not answer ({type(error).__name__}): start it, or correct balog_once_url"
        )
    return Finding("OK", "once", "its Redis answers")


def _workers(app: Celery) -> Iterator[Finding]:
    try:
        answers: dict[str, Any] = _within(lambda: app.control.inspect(timeout=2.0).active_queues()) or {}
    except Exception as error:
        yield Finding("WARN", "workers", f"they cannot be asked ({_short(error)})")
        return
    if not answers:
        yield Finding("WARN", "workers", "none answers: start one with `celery worker`")
        return
    served = {queue["name"] for queues in answers.values() for queue in queues}
    unserved: dict[str, str] = {}
    for consumer in app.balog.hub:
        queue = app.amqp.router.route({"queue": None}, consumer.task_name, (), {}, app.tasks[consumer.task_name])[
            "queue"
        ]
        if queue.name not in served:
            unserved.setdefault(queue.name, consumer.task_name)
    for name, consumer_name in sorted(unserved.items()):
        yield Finding(
            "WARN",
            "workers",
            f"none serves queue {printable(name)}, of {consumer_name}: start one with -Q {printable(name)}",
        )
    if not unserved:
        yield Finding("OK", "workers", f"{len(answers)} answer, and serve all queues of the consumers")


def _within(ask: Callable[[], T]) -> T:
    """What *ask* returns or raises, in a thread of its own: some clients know no limit.

    :raises TimeoutError: there is no answer.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * _PATIENCE)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer in {2 * _PATIENCE:g} s")
    return found[0]


def _short(error: BaseException) -> str:
    """The error in a few words. Some clients put the whole URL in theirs, so nothing with a URL in it is shown."""
    text = printable(f"{type(error).__name__}: {error}")
    return type(error).__name__ if "://" in text else text
