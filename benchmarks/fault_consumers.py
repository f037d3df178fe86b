"""The consumers of the fault runs; a copy of this file is a module of the project.

Each notes which event it runs for and which it has finished: one line and one write for each, so that a kill leaves all
of a line or nothing. Most keep their results, as people do: only ``plain`` does not.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from celery import current_task
from celery.exceptions import Reject

from balog_celery.consumers import BatchFailure, consumer_config

LEDGER = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND)
#: How often each line is noted: twice is what a run with duplicates of which SQS knows nothing looks like.
TIMES = 2 if "FAULTS_RUN_TWICE" in os.environ else 1
BATCH = int(os.environ["FAULTS_BATCH"])
#: Options of the consumers that take batches, if any do.
BATCHES: dict[str, Any] = {"batch": BATCH, "batch_wait": 0.5} if BATCH else {}

#: The bytes that ``hungry`` takes, more than ``worker_max_memory_per_child`` allows.
HUNGER = 150 * 2**20

Event = dict[str, Any]

random.seed()


def note(what: str, name: str, event: Event) -> None:
    line = f"{what} {name} {event['header']['id']} {time.time():.3f}\n"
    os.write(LEDGER, (line * TIMES).encode())


def events_of(name: str, argument: Event | list[Event]) -> list[Event]:
    if not isinstance(argument, list):
        return [argument]
    if len(argument) > 1:
        note("batch", name, argument[0])
    return argument


class Hiccup(Exception):
    """An error that stops occurring after a while."""


class Own(BaseException):
    """An exception that ``except Exception`` does not catch."""


#: What the consumers of ``raises`` raise, in turns.
RAISED = (asyncio.CancelledError, GeneratorExit, Own, MemoryError, KeyboardInterrupt, SystemExit)


def fail(event: Event) -> NoReturn:
    raise RAISED[event["payload"]["turn"] % len(RAISED)]


# default_retry_delay: a task whose pool child was killed is retried after it, which is three minutes by default.
@consumer_config(
    topic="events",
    cls_type=("ordinary", "spoilt"),
    autoretry_for=(Hiccup,),
    default_retry_delay=1,
    ignore_result=True,
    **BATCHES,
)
def plain(argument: Any) -> None:
    failed = []
    for event in events_of("plain", argument):
        note("runs", "plain", event)
        if event["payload"]["cls_type"] == "spoilt" or random.random() < 0.03:
            failed.append(event["header"]["id"])
        else:
            note("done", "plain", event)
    if failed:
        raise BatchFailure(failed) if BATCH else Hiccup


@consumer_config(topic="events", cls_type="ordinary", autoretry_for=(Hiccup,), max_retries=20, default_retry_delay=1)
def flaky(event: Event) -> str:
    note("runs", "flaky", event)
    if random.random() < 0.15:
        raise Hiccup
    note("done", "flaky", event)
    return "a result"


@consumer_config(topic="events", cls_type="doomed", default_retry_delay=1)
def doomed(event: Event) -> NoReturn:
    note("runs", "doomed", event)
    raise ValueError("never works")


def unwanted(event: Event) -> None:
    note("runs", "unwanted", event)
    note("done", "unwanted", event)


@consumer_config(topic="events", cls_type="tracked", track_started=True, default_retry_delay=1)
def tracked(event: Event) -> None:
    note("runs", "tracked", event)
    note("done", "tracked", event)


@consumer_config(topic="events", cls_type="tracked", track_started=True, max_retries=20, default_retry_delay=1)
def by_hand(event: Event) -> None:
    note("runs", "by_hand", event)
    if not current_task.request.retries:
        raise current_task.retry(countdown=0.5)
    note("done", "by_hand", event)


@consumer_config(topic="events", cls_type="rejected", default_retry_delay=1)
def rejecting(event: Event) -> NoReturn:
    note("runs", "rejecting", event)
    raise Reject("not wanted", requeue=False)


@consumer_config(topic="events", cls_type="hangs", time_limit=1, default_retry_delay=1)
def hanging(event: Event) -> None:
    note("runs", "hanging", event)
    time.sleep(60)


@consumer_config(topic="events", cls_type="exits", max_retries=1, default_retry_delay=1)
def exiting(event: Event) -> NoReturn:
    note("runs", "exiting", event)
    os._exit(1)


@consumer_config(topic="events", cls_type="raises", max_retries=1, default_retry_delay=1)
def raising(event: Event) -> NoReturn:
    note("runs", "raising", event)
    fail(event)


@consumer_config(
    topic="events", cls_type="raises-again", autoretry_for=(BaseException,), max_retries=2, default_retry_delay=1
)
def stubborn(event: Event) -> NoReturn:
    note("runs", "stubborn", event)
    fail(event)


@consumer_config(topic="events", cls_type="raises-together", max_retries=1, default_retry_delay=1, **BATCHES)
def together(argument: Any) -> NoReturn:
    events = events_of("together", argument)
    for event in events:
        note("runs", "together", event)
    fail(events[0])


@consumer_config(topic="events", cls_type="moved", queue="routed", max_retries=20, default_retry_delay=1)
def moved(event: Event) -> None:
    """Asks for a retry that a worker cannot make locally, so it is published even with hand-off."""
    note("runs", "moved", event)
    if not current_task.request.retries:
        if event["payload"]["turn"] % 2:
            raise current_task.retry(queue="routed", countdown=0.5)
        raise current_task.retry(eta=datetime.now(timezone.utc) + timedelta(seconds=0.5))
    note("done", "moved", event)


if "fifo" in os.environ["FAULTS_KINDS"]:

    @consumer_config(
        topic="ordered.fifo", cls_type="ordered", autoretry_for=(Hiccup,), max_retries=20, default_retry_delay=1
    )
    def ordered(event: Event) -> None:
        note("runs", "ordered", event)
        if random.random() < 0.1:
            raise Hiccup
        note("done", "ordered", event)


@consumer_config(topic="events", cls_type="hungry", max_retries=1, default_retry_delay=1)
def hungry(event: Event) -> None:
    """Takes so much memory that Celery replaces its process, and asks for more than the process may have."""
    note("runs", "hungry", event)
    assert len(bytearray(b"x") * HUNGER) == HUNGER  # written to, or the kernel would not provide it
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**30, limits[1]))
    try:
        bytearray(2**31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


if "FAULTS_DELETE_FIRST" in os.environ:
    from balog_celery.sqs.messages import Message
    from balog_celery.sqs.queues import SQSQueue

    receive = SQSQueue.receive

    def receive_and_delete(self: SQSQueue, *args: Any, **kwargs: Any) -> list[Message]:
        """A naive consumer that deletes messages before it processes them."""
        messages = receive(self, *args, **kwargs)
        if messages:
            self.delete([message.handle for message in messages])
        return messages

    SQSQueue.receive = receive_and_delete  # type: ignore[method-assign]
