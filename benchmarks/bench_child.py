"""The processes whose CPU is measured: each works on the queue of its role until it is killed.

    python bench_child.py ROLE

It writes ``ready`` when it has started, and its CPU time for each ``cpu`` that it reads. All that is measured of a role
is from there on.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TOPIC = os.environ["BENCH_TOPIC"]
#: Room as a worker with two pool children announces it.
LIMIT = 14


def serve() -> None:
    """Report this process's CPU time on each request."""

    def listen() -> None:
        for _ in sys.stdin:
            print(time.process_time(), flush=True)
        os._exit(0)

    print("ready", flush=True)
    threading.Thread(target=listen, daemon=True).start()


def client() -> tuple[Any, str]:
    """Return a plain boto3 client and the queue's URL."""
    import boto3
    from botocore.config import Config

    threads = int(os.environ.get("BENCH_TOPICS", "1")) * int(os.environ.get("BENCH_THREADS", "1"))
    sqs: Any = boto3.client("sqs", config=Config(max_pool_connections=max(10, threads)))
    return sqs, sqs.get_queue_url(QueueName=TOPIC)["QueueUrl"]


def receive(sqs: Any, url: str) -> list[Any]:
    """Receive ten messages in the usual way."""
    messages: list[Any] = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20).get(
        "Messages", []
    )
    return messages


def delete(sqs: Any, url: str, messages: list[Any]) -> None:
    """Delete all of them in one call."""
    entries = [{"Id": str(number), "ReceiptHandle": m["ReceiptHandle"]} for number, m in enumerate(messages)]
    sqs.delete_message_batch(QueueUrl=url, Entries=entries)


def floor() -> None:
    """The floor: receive ten, delete ten, nothing else."""
    sqs, url = client()
    serve()
    while True:
        if messages := receive(sqs, url):
            delete(sqs, url, messages)


def floor_threads() -> None:
    """The floor for several topics or slow functions: threads that each receive ten, wait for each, and delete ten.

    The threads share a client, as boto3's documentation allows.
    """
    sqs, url = client()
    wait = float(os.environ.get("BENCH_SLEEP", "0"))
    names = [TOPIC, *(f"{TOPIC}-topic_{number}" for number in range(1, int(os.environ.get("BENCH_TOPICS", "1"))))]
    urls = [sqs.get_queue_url(QueueName=name)["QueueUrl"] for name in names]

    def work(url: str) -> None:
        while True:
            if messages := receive(sqs, url):
                for _ in messages if wait else ():
                    time.sleep(wait)
                delete(sqs, url, messages)

    serve()
    for url in urls * int(os.environ.get("BENCH_THREADS", "1")):
        threading.Thread(target=work, args=(url,), daemon=True).start()
    threading.Event().wait()


def naive() -> None:
    """The loop that people write: receive ten, ``delay()`` each, delete one by one."""
    from bench_project import naive as task

    sqs, url = client()
    serve()
    while True:
        for message in receive(sqs, url):
            task.delay(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def _floor_and_publish(publish: Callable[[Any], None]) -> None:
    from bench_project import app

    sqs, url = client()
    connection = app.connection_for_write()
    producer = app.amqp.Producer(connection, auto_declare=False)
    app.amqp.queues["celery"](producer.channel).declare()
    serve()
    while True:
        if messages := receive(sqs, url):
            with producer.batch():
                for _ in messages:
                    publish(producer)
            delete(sqs, url, messages)


def _prebuilt() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return body, headers and properties of one event's task message, as Celery makes them."""
    from bench_project import app

    from scripted_sqs.control import record

    message = app.amqp.create_task_message(
        "00000000-0000-4000-8000-000000000000",
        "bench_project.first",
        (record("LG" + "0" * 22),),
        {},
        argsrepr="(<Event LG0000000000000000000000 cls_type=metrics topic=bench>,)",
        kwargsrepr="{}",
    )
    return message.body, message.headers, message.properties


def floor_publish_bytes() -> None:
    """The floor, plus publishing ten prebuilt messages with encoded bodies."""
    body, headers, properties = _prebuilt()
    text = json.dumps(body)

    def publish(producer: Any) -> None:
        producer.publish(
            text,
            routing_key="celery",
            exchange="",
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            delivery_mode=2,
            **properties,
        )

    _floor_and_publish(publish)


def floor_publish() -> None:
    """The floor, plus publishing ten prebuilt messages whose bodies kombu encodes."""
    body, headers, properties = _prebuilt()

    def publish(producer: Any) -> None:
        producer.publish(
            body,
            routing_key="celery",
            exchange="",
            serializer="json",
            headers=headers,
            delivery_mode=2,
            **properties,
        )

    _floor_and_publish(publish)


def _engine(channel: Any = None) -> None:
    from bench_project import app

    from balog_celery.cli.engine import freeze_startup_objects

    app.loader.import_default_modules()
    engine = app.balog.engine(channel)
    threading.Timer(1.0, serve).start()
    engine.run(ready=freeze_startup_objects)  # as `celery balog engine` does


def engine_publish() -> None:
    """The engine as `celery -A app balog engine` runs it."""
    _engine()


def engine_hand_off() -> None:
    """The engine as it runs beside a worker that takes tasks; ``acker`` is that worker."""
    from balog_celery.dispatch.channel import Channel

    _engine(Channel(socket.socket(fileno=int(os.environ["BENCH_FD"]))))


def acker() -> None:
    """The worker's end of the channel: each task is done as soon as it is read."""
    channel = socket.socket(fileno=int(os.environ["BENCH_FD"]))
    serve()
    limit = int(os.environ.get("BENCH_LIMIT", LIMIT))
    channel.sendall(json.dumps(["open", limit, ["celery"]]).encode() + b"\n")
    rest = b""
    while chunk := channel.recv(262_144):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number = line.split(b",", 2)[1]
            channel.sendall(b'["done",%b]\n' % number)  # one by one, as a worker's tasks end


if __name__ == "__main__":
    {
        function.__name__: function
        for function in (
            floor,
            floor_threads,
            naive,
            floor_publish,
            floor_publish_bytes,
            engine_publish,
            engine_hand_off,
            acker,
        )
    }[sys.argv[1]]()
