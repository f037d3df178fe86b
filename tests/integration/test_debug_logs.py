"""A worker that logs at DEBUG, where Celery and other libraries print what they work with."""

from __future__ import annotations

import pytest
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text

#: What the events have that no log may show.
CONTENT = "4111-1111"

#: What a consumer of metrics reads.
VALUES = [{"name": CONTENT, "value": 1}]

CONSUMERS = """

@consumer_config(topic=TOPIC, cls_type="many", batch=2, batch_wait=0.1)
def many(events):
    for event in events:
        note("many", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="chunked", chunk=2, chunk_wait=0.1)
def chunked(event):
    note("chunked", event["header"]["id"])


from celery import shared_task


@shared_task(name="own")
def own(text):
    note("own", text)


@consumer_config(topic=TOPIC, cls_type="calls")
def calls(event):
    import boto3

    boto3.client("sqs").list_queues(QueueNamePrefix=event["payload"]["card"])
    own.delay("of-own-task")
"""


@pytest.mark.parametrize(
    ("pool", "dispatch"),
    [("prefork", "hand-off"), ("prefork", "publish"), ("threads", "hand-off"), ("solo", "publish")],
)
def test_no_event_is_in_the_log(start: Start, project: Project, topic: Topic, pool: str, dispatch: str) -> None:
    """However its task is dispatched, retried and buried; arguments of the app's own tasks are logged as before."""
    # Given
    project.add_consumer(CONSUMERS)
    project.add(f"balog_dispatch = {dispatch!r}")
    # Celery cuts its lines after so much that the content is seldom in them.
    project.add("import celery.concurrency.base; celery.concurrency.base.truncate = lambda text, length: text")
    types = ["metrics", "flaky", "doomed", "elsewhere", "patient", "many", "chunked", "calls"]
    bodies = [event_text(f"e-{one}", one, card=CONTENT, seconds=0, values=VALUES) for one in types]
    topic.send(*bodies, f"no JSON {CONTENT}")
    # When
    worker = start("worker", "-l", "DEBUG", "-P", pool, "-c", "2", "-Q", "celery,other")
    # Then
    names = {"first", "typed", "flaky", "doomed", "elsewhere", "patient", "many", "chunked", "own"}
    project.wait_for(lambda runs: {name for name, _ in runs} == names)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0
    lines = worker.output.splitlines()
    assert [line for line in lines if CONTENT in line] == []
    assert any("TaskPool: Apply" in line and "of-own-task" in line for line in lines)
    assert any("TaskPool: Apply" in line and "proj.consumers.typed" in line for line in lines)
