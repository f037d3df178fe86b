"""Checks of a topic: its queue, its visibility timeout, its dead letters and, if it is FIFO, its order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery

from ...consumers.consumer import Consumer
from ...dispatch.order import ENGINE, WORKER, check_order
from ...engine.queue_checks import check_distinct
from ...engine.visibility_timeout import visibility_of
from ...errors import AccessDenied, BalogError, QueueError, QueueNotFound
from ...sqs.addresses import beside
from ...sqs.diagnostics import missing_permissions
from ...sqs.protocols import Queue
from ...sqs.queues import SQSQueue
from ...sqs.redrive import redrive_of
from ...text import printable
from ..task_queues import task_queue
from .finding import Finding, Level

#: A visibility timeout below this leaves little time to extend it, in seconds.
_SHORT = 10
#: With a visibility timeout above this, the messages of a killed engine reappear late, in seconds.
_LONG = 3600
#: With fewer receives, SQS moves a message that a few stops of workers have released.
_FEW_RECEIVES = 3


def check_topic(balog: Any, topic: str) -> Iterator[Finding]:
    """Report on the queue of *topic* and on its dead-letter queues."""
    about = f"topic {printable(topic)}"
    try:
        queue: Queue = balog.connect(topic)
        queue.exists()
        refused = missing_permissions(queue) if isinstance(queue, SQSQueue) else []
        attributes = {} if "sqs:GetQueueAttributes" in refused else queue.attributes()
    except BalogError as error:
        yield Finding("FAIL", about, str(error))
        return
    if refused:
        yield Finding("FAIL", about, f"allow {', '.join(refused)} on it, in the policy of these credentials")
    else:
        allowed = "; deleting, extending and reading its attributes are allowed (receiving is not tried)"
        yield Finding("OK", about, f"exists{allowed if isinstance(queue, SQSQueue) else ''}")
    if attributes:
        yield _visibility(balog, topic, attributes)
    yield from _failed_messages(balog, topic, about, attributes)


def check_distinct_topics(balog: Any, topics: Iterable[str]) -> Iterator[Finding]:
    """Report topics that are one queue: the engine refuses to start."""
    same: dict[str, list[str]] = {}
    for topic in topics:
        with suppress(BalogError):  # which the topic's own check reports
            same.setdefault(balog.connect(topic).attributes().get("QueueArn", topic), []).append(topic)
    try:
        check_distinct(same.values())
    except BalogError as error:
        yield Finding("FAIL", "topics", str(error))


def check_fifo_order(app: Celery, topic: str, consumers: Sequence[Consumer]) -> Iterator[Finding]:
    """Report whether the engine beside a worker can keep the order of a FIFO topic; it refuses to start if not."""
    about = f"topic {printable(topic)}, order"
    tasks = [app.tasks[consumer.task_name] for consumer in consumers]
    if not any(task.fifo for task in tasks):
        return
    publisher = ENGINE if app.balog.dispatch == "publish" else ""
    if not publisher and not app.connection_for_read().transport.implements.asynchronous:
        publisher = WORKER
    queues = {task: task_queue(app, task.name) for task in tasks}
    try:
        for task, queue in queues.items():
            check_order(task, queue, publisher=publisher)
    except BalogError as error:
        yield Finding("FAIL", about, str(error))
        return
    named = ", ".join(sorted({*queues.values()}))
    yield Finding("OK", about, f"kept in each group, by a worker with its engine beside it that serves {named}")


def _visibility(balog: Any, topic: str, attributes: Mapping[str, str]) -> Finding:
    seconds = visibility_of(balog.settings_of(topic).visibility_timeout, attributes)
    about = f"topic {printable(topic)}, visibility"
    if seconds < _SHORT:
        text = f"{seconds} s leave little time to extend it, so events come twice: make it 30 s or more"
        return Finding("WARN", about, text)
    if seconds > _LONG:
        text = f"the messages of a killed engine reappear after {seconds} s only: make it shorter; engines extend it"
        return Finding("WARN", about, f"{text} while a task runs")
    return Finding("OK", about, f"{seconds} s, extended while a task runs")


def _failed_messages(balog: Any, topic: str, about: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    """Report on the dead-letter queue of this package, and on the redrive policy of SQS."""
    name = balog.dead_letters.name(topic)
    dead = None
    if name is None:
        text = "none are kept (balog_dead_letter is None): they are only logged"
        yield Finding("WARN", f"{about}, dead letters", text)
    else:
        dead = yield from _attributes(balog, name, f"{about}, dead letters", "WARN")
        if dead is not None:
            yield _dead_letters(name, f"{about}, dead letters", attributes, dead)
            if text := _too_small(balog, printable(name), attributes, dead):
                yield Finding("WARN", f"{about}, dead letters", text)
    about = f"{about}, redrive policy"
    try:
        redrive = redrive_of(attributes)
    except QueueError as error:
        yield Finding("WARN", about, f"{error}: set it again")
        return
    if redrive is None:
        if dead is None and attributes:
            yield Finding("WARN", about, "there is none, so bodies that cannot be decoded stay until they expire")
        return
    # SQS moves messages within a region and account only.
    target, receives = beside(topic, redrive.target), redrive.receives
    if target != name and not (yield from _exists(balog, target, about)):
        return
    if receives < _FEW_RECEIVES:
        text = f"maxReceiveCount {receives}: each stop of a worker counts as a receive, so healthy events may be moved"
        yield Finding("WARN", about, f"{text} to {printable(target)}; make it 5 or more")
    else:
        yield Finding("OK", about, f"to {printable(target)} after {receives} receives")


def _dead_letters(name: str, about: str, topic: Mapping[str, str], dead: Mapping[str, str]) -> Finding:
    name = printable(name)
    if dead.get("RedrivePolicy"):
        text = f"{name} has a redrive policy: commands that read its dead letters move them away; remove it"
        return Finding("WARN", about, text)
    if "MessageRetentionPeriod" not in dead:  # not on SQS
        return Finding("OK", about, f"{name} exists")
    kept, of_topic = (int(one.get("MessageRetentionPeriod", 0)) for one in (dead, topic))
    if kept < of_topic:
        text = f"{name} keeps them for {kept // 3600} h, less than the topic keeps its events: make its"
        return Finding("WARN", about, f"{text} MessageRetentionPeriod 1209600 (14 days)")
    return Finding("OK", about, f"{name} keeps them for {kept // 3600} h (sending to it is not tried)")


def _too_small(balog: Any, name: str, topic: Mapping[str, str], dead: Mapping[str, str]) -> str:
    """Return why a dead-letter queue cannot keep every message of its topic; "" if it can."""
    size, of_topic = (int(one.get("MaximumMessageSize", 0)) for one in (dead, topic))
    if not size or size >= of_topic:
        return ""
    remedy = f"make its MaximumMessageSize {of_topic}"
    if balog.settings.payload_bucket:
        return f"{name} takes {size} bytes, less than the topic's {of_topic}: larger ones need S3, or {remedy}"
    return f"{name} takes {size} bytes, less than the topic's {of_topic}: {remedy}, or set balog_payload_bucket"


def _exists(balog: Any, name: str, about: str) -> Generator[Finding, None, bool]:
    """Return whether there is the queue to which SQS moves messages; a worker needs no access to it."""
    try:
        exists: bool = balog.connect(name).exists()
    except AccessDenied:
        return True
    except QueueError as error:
        yield Finding("WARN", about, str(error))
        return False
    if not exists:
        yield Finding("WARN", about, f"there is no queue {printable(name)}: create it, or correct the policy")
    return exists


def _attributes(balog: Any, name: str, about: str, level: Level) -> Generator[Finding, None, Mapping[str, str] | None]:
    """Return the attributes of a queue beside a topic, or yield a finding and return None."""
    try:
        attributes: Mapping[str, str] = balog.connect(name).attributes()
        return attributes
    except QueueNotFound:
        text = f"there is no queue {printable(name)}: create it, or what should go there is only logged"
        yield Finding(level, about, text)
    except QueueError as error:
        yield Finding(level, about, str(error))
    return None
