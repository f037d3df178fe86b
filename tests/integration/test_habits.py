"""What Celery teams are used to, in a real worker: task classes, existing tasks, async functions, middleware."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from project import Project, Start, Topic, stop

from sample_events import event_text

CONSUMERS = """
import asyncio, os, threading, time
from celery import Task
from flask import Flask, current_app
from celery.exceptions import Ignore, Reject
from balog_celery.celery import app
from balog_celery.consumers import consumer_config
from balog_celery.decoders import At, Message
from .consumers import note

TOPIC = os.environ["TOPIC"]
flask = Flask("shop")


class FlaskTask(Task):
    def __call__(self, *args, **kwargs):
        with flask.app_context():
            return self.run(*args, **kwargs)

    def on_success(self, retval, task_id, args, kwargs):
        note("on_success", self.name.rpartition(".")[2])


@consumer_config(TOPIC, cls_type="flask", base=FlaskTask, bind=True)
def in_context(self, event):
    note("in_context", event["header"]["id"], app=current_app.name, task=self.request.id)


@consumer_config(TOPIC, cls_type="upload", arguments={"key": At("payload.key")})
@app.task(bind=True, max_retries=2)
def resize(self, key):
    note("resize", key, retries=self.request.retries)
    if self.request.retries < 1:
        raise self.retry(countdown=0)


loops = threading.local()


@consumer_config(TOPIC, cls_type="async")
async def on_loop(event, message: Message):
    first = getattr(loops, "first", None)
    loops.first = first or asyncio.get_running_loop()
    await asyncio.sleep(0.01)
    same = first is None or first is asyncio.get_running_loop()
    note("on_loop", event["header"]["id"], same=same, kind=message.attributes.get("kind"))


@consumer_config(TOPIC, cls_type="limited", soft_time_limit=1, time_limit=60)
async def limited(event):
    note("limited", event["header"]["id"])
    try:
        await asyncio.sleep(300)
    except asyncio.CancelledError:
        note("limited-cancelled", event["header"]["id"])
        raise


@consumer_config(TOPIC, cls_type="each", batch=100, batch_wait=2, each=True, soft_time_limit=5, time_limit=60)
async def each(event):
    await asyncio.sleep(300 if event["payload"].get("hangs") else 0.1)
    note("each", event["header"]["id"])


def tenant(call, consumer, event, message):
    note("middleware", consumer.name)
    return call()
"""


@pytest.fixture(params=[("prefork", "hand-off"), ("threads", "hand-off"), ("prefork", "publish")], ids="-".join)
def pool(request: pytest.FixtureRequest, project: Project) -> str:
    """The pool of the worker, whose engine dispatches in one of two ways."""
    pool, dispatch = request.param
    project.add(f"balog_dispatch = {dispatch!r}")
    project.add("balog_middleware = 'proj.habits:tenant'")
    (project.folder / "proj" / "habits.py").write_text(CONSUMERS)
    return str(pool)


def test_habits_of_celery_teams_hold_in_a_worker(project: Project, topic: Topic, start: Start, pool: str) -> None:
    """App contexts, hooks, existing tasks with retries, one event loop, batches with ends by event, middleware."""
    # Given
    hangs = pool == "prefork"  # the pool of threads has no soft time limits
    topic.send(event_text("F1", "flask"), event_text("U1", "upload", key="a.png"))
    topic.send(*[event_text(f"A{number}", "async") for number in range(5)])
    topic.send(*[event_text(f"E{number}", "each", hangs=hangs and number == 0) for number in range(10)])
    kind = {"kind": {"DataType": "String", "StringValue": "urgent"}}
    topic.client.send_message(QueueUrl=topic.url, MessageBody=event_text("A9", "async"), MessageAttributes=kind)
    if hangs:
        topic.send(event_text("L1", "limited"))
    # When
    worker = start("worker", "-l", "INFO", "-c", "1", "-P", pool)
    cancelled = [("limited-cancelled", "L1")] if hangs else []
    wanted = {("in_context", "F1"), ("resize", "a.png"), ("on_success", "in_context"), *cancelled}
    wanted |= {("on_loop", f"A{number}") for number in (0, 1, 2, 3, 4, 9)}
    wanted |= {("each", f"E{number}") for number in range(int(hangs), 10)}
    project.wait_for(lambda runs: wanted <= runs.keys() and runs["resize", "a.png"] == 2)
    deadline = time.monotonic() + 30
    while topic.left() or len(topic.dead()) < 2 * hangs:
        assert time.monotonic() < deadline, (topic.left(), topic.dead())
        time.sleep(0.1)
    # Then
    assert stop(worker) == 0
    entries = project.entries()
    (in_context,) = [entry for entry in entries if entry["consumer"] == "in_context"]
    assert in_context["app"] == "shop"
    assert [entry["retries"] for entry in entries if entry["consumer"] == "resize"] == [0, 1]
    assert all(entry["same"] for entry in entries if entry["consumer"] == "on_loop")
    assert {entry["event"]: entry["kind"] for entry in entries if entry["consumer"] == "on_loop"}["A9"] == "urgent"
    assert {entry["event"] for entry in entries if entry["consumer"] == "middleware"} >= {"in_context", "on_loop"}
    dead = {json.loads(letter["body"])["header"]["id"]: letter["error"] for letter in topic.dead()}
    assert dead == ({"E0": "SoftTimeLimitExceeded()", "L1": "SoftTimeLimitExceeded()"} if hangs else {})
    assert "was never awaited" not in worker.output
    assert "ResourceWarning" not in worker.output


SENTRY = """
import os
import sentry_sdk
from sentry_sdk.transport import Transport
from balog_celery.consumers import consumer_config
from balog_celery.signals import event_dead, event_received, event_unmatched
from .consumers import note


class Recording(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            # The cause comes first.
            error = event.get("exception", {"values": [{"type": event.get("logentry")}]})["values"][0]["type"]
            note("sentry", error, transaction=event.get("transaction"), tags=event.get("tags"))


sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Recording)


@event_dead.connect
def dead(sender, reason, consumer, error, **_):
    note("event_dead", reason, sender=sender, who=consumer, error=error)


@event_received.connect
def received(sender, event, **_):
    note("event_received", event.header.id)


@event_unmatched.connect
def unmatched(sender, event, **_):
    note("event_unmatched", event.header.id)


@consumer_config(os.environ["TOPIC"], cls_type="fails")
def failing(event):
    raise ValueError("no")


@consumer_config(os.environ["TOPIC"], cls_type="chunk", chunk=10)
async def chunk(event):
    raise ValueError("no")


@consumer_config(os.environ["TOPIC"], cls_type="batch", batch=10)
def batch(events):
    raise ValueError("no")


@consumer_config(os.environ["TOPIC"], cls_type="each", batch=10, each=True)
async def each(event):
    raise ValueError("no")
"""


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_sentry_shows_a_failing_consumer_once(project: Project, topic: Topic, start: Start, dispatch: str) -> None:
    """Named for the consumer, tagged with the event; signals tell what became of events."""
    # Given
    project.add(f"balog_dispatch = {dispatch!r}")
    (project.folder / "proj" / "reports.py").write_text(SENTRY)
    topic.send(event_text("X1", "fails"), event_text("N1", "nobody-wants-it"))
    topic.send(*(event_text(f"{kind}{number}", kind) for kind in ("chunk", "batch", "each") for number in range(2)))
    # When
    worker = start("worker", "-l", "INFO", "-c", "1")
    wanted = {("sentry", "ValueError"), ("event_dead", "failed"), ("event_unmatched", "N1")}
    project.wait_for(lambda runs: wanted <= runs.keys() and runs["event_dead", "failed"] == 7)
    assert stop(worker) == 0
    # Then
    reports = [entry for entry in project.entries() if entry["consumer"] == "sentry"]
    assert {one["event"] for one in reports} == {"ValueError"}
    names = Counter(one["transaction"] for one in reports)
    assert names.pop("proj.reports.failing") == 1
    assert {*names} == {f"proj.reports.{name}" for name in ("chunk", "batch", "each")}
    assert max(names.values()) <= 2  # as many tasks as the engine made of the events
    reports = [one for one in reports if one["transaction"] == "proj.reports.failing"]
    tags = {"topic": topic.name, "event_id": "X1", "cls_type": "fails"}
    assert {name: reports[0]["tags"][name] for name in tags} == tags
    (dead,) = [entry for entry in project.entries() if entry.get("who") == "proj.reports.failing"]
    assert (dead["sender"], dead["error"]) == (topic.name, "ValueError('no')")
    assert {("event_received", "X1"), ("event_received", "N1")} <= project.runs().keys()
