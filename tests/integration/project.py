"""A project whose consumers write what they did to a ledger, for tests that run a real worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from kombu import Connection, Producer

import servers
from balog_celery.events.mark import MARK

CONSUMERS = """
import json, os, time
from balog_celery import FacilityRecord, MetricsPayload
from balog_celery.consumers import consumer_config

TOPIC = os.environ["TOPIC"]


def note(name, event_id, **more):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps({"consumer": name, "event": event_id, **more}) + "\\n")


@consumer_config(topic=TOPIC, cls_type="metrics", version="<1.0", rate_limit="1000/s")
def first(event):
    note("first", event["header"]["id"], value=event["payload"]["values"][0]["value"])


@consumer_config(topic=TOPIC, cls_type="metrics")
def typed(event: FacilityRecord):
    note("typed", event.header.id)


class Flaky(Exception):
    pass


@consumer_config(topic=TOPIC, cls_type="flaky", autoretry_for=(Flaky,), max_retries=3, default_retry_delay=0)
def flaky(event):
    note("flaky", event["header"]["id"])
    if sum("flaky" in line for line in open(os.environ["LEDGER"])) < 3:
        raise Flaky("again")


@consumer_config(topic=TOPIC, cls_type="doomed")
def doomed(event):
    note("doomed", event["header"]["id"])
    raise ValueError("never works")


@consumer_config(topic=TOPIC, cls_type="elsewhere", queue="other")
def elsewhere(event):
    note("elsewhere", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="slow")
def slow(event):
    note("slow", event["header"]["id"])
    time.sleep(event["payload"]["seconds"])
    note("slow-done", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="patient", max_retries=3)
def patient(event):
    from celery import current_task

    task, asked = current_task, event["payload"]
    note("patient", event["header"]["id"], retries=task.request.retries)
    if task.request.retries < asked.get("times", 1):
        task.retry(countdown=asked["seconds"], **asked.get("options", {}))


@consumer_config(topic=TOPIC, cls_type="crash", max_retries=2, default_retry_delay=0)
def crash(event):
    note("crash", event["header"]["id"])
    os._exit(7)


@consumer_config(topic=TOPIC, cls_type="single", once=True)
def single(event):
    note("single", event["header"]["id"])
    time.sleep(event["payload"].get("seconds", 0))
    note("single-done", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="rare", rate_limit="1/m")
def rare(event):
    note("rare", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="long", time_limit=3)
def too_long(event):
    note("too_long", event["header"]["id"])
    time.sleep(30)
"""


#: With this in its configuration, what a killed worker had comes back within seconds.
QUICK_RESTORE = (
    "broker_transport_options = {'visibility_timeout': 8, 'unacked_restore_interval': 1, 'unacked_restore_throttle': 1}"
)

BASE = """
import os
balog_packages = ['proj']
balog_wait_time = 1
balog_drain = 10
balog_once_url = os.environ.get('ONCE_URL')
balog_status_dir = os.environ.get('STATUS_DIR')
"""


class Project:
    """A folder with a consumer package, a configuration and a ledger.

    :param config: the text of its ``celeryconfig.py``, besides the packages to scan.
    """

    def __init__(self, folder: Path, topic: str, config: str = "", once_url: str = "redis://127.0.0.1:1") -> None:
        self.folder = folder
        self.once_url = once_url
        self.topic = topic
        self.ledger = folder / "ledger.jsonl"
        self.ledger.touch()
        package = folder / "proj"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "consumers.py").write_text(CONSUMERS)
        self.configure(config)

    def add_consumer(self, source: str) -> None:
        """Add to the consumers' module."""
        with (self.folder / "proj" / "consumers.py").open("a") as file:
            file.write(source)

    def configure(self, config: str) -> None:
        """Write the configuration."""
        text = BASE + textwrap.dedent(config)
        (self.folder / "celeryconfig.py").write_text(text)

    def add(self, config: str) -> None:
        """Add to the configuration."""
        with (self.folder / "celeryconfig.py").open("a") as file:
            file.write(config + "\n")

    @property
    def env(self) -> dict[str, str]:
        """The environment that the consumers need."""
        status = str(self.folder / "status")
        return {"LEDGER": str(self.ledger), "TOPIC": self.topic, "ONCE_URL": self.once_url, "STATUS_DIR": status}

    def entries(self) -> list[dict[str, Any]]:
        """Return what the consumers did, in order."""
        lines = self.ledger.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def runs(self) -> Counter[tuple[str, str]]:
        """How often each consumer ran for each event."""
        return Counter((entry["consumer"], entry["event"]) for entry in self.entries())

    def wait_for(self, condition: Callable[[Counter[tuple[str, str]]], bool], timeout: float = 60.0) -> None:
        """Wait until *condition* holds of :meth:`runs`."""
        deadline = time.monotonic() + timeout
        while not condition(runs := self.runs()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s: {dict(runs)}")
            time.sleep(0.05)


CELERY = [sys.executable, "-m", "celery", "-A", "balog_celery"]
Start = Callable[..., servers.Program]


def _described(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a dead letter, and what its mark says as texts."""
    mark = json.loads(attributes.pop(MARK, "{}"))
    return {**attributes, **{name: str(value) for name, value in mark.items()}}


class Topic:
    """The queue and the dead-letter queue of one test, and their messages."""

    #: What a project needs in its configuration to listen to it.
    config = ""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.url = client.get_queue_url(QueueName=name)["QueueUrl"]
        self.dead_url = client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> int:
        """How many messages it holds, visible or not."""
        return self.count(self.client, self.url)

    @staticmethod
    def count(client: Any, url: str) -> int:
        """How many messages a queue holds, visible or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(map(int, attributes.values()))

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters: body and attributes."""
        answer = self.client.receive_message(
            QueueUrl=self.dead_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
        )
        return [
            {
                "body": message["Body"],
                **_described(
                    {name: one.get("StringValue") for name, one in message.get("MessageAttributes", {}).items()}
                ),
            }
            for message in answer.get("Messages", [])
        ]


class KombuTopic:
    """A topic on RabbitMQ or Redis, with the methods of :class:`Topic`; it publishes without Celery."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.config = f"balog_event_broker_url = {url!r}"
        self._dead: list[dict[str, Any]] = []
        with self._channel() as channel:
            for queue in (name, f"{name}-dead"):
                channel.queue_declare(queue=queue, durable=True, auto_delete=False)

    def send(self, *bodies: str) -> None:
        with self._channel() as channel:
            producer = Producer(channel)
            for body in bodies:
                producer.publish(body.encode(), routing_key=self.name, content_type="text/plain", message_id="m")

    def left(self) -> int:
        """Return the number of messages in the queue; RabbitMQ counts those that are not delivered."""
        with self._channel() as channel:
            if self._is_redis:
                return int(channel.client.llen(self.name) + channel.client.hlen(f"balog.{self.name}.unacked"))
            return int(channel.queue_declare(queue=self.name, passive=True).message_count)

    def dead(self) -> list[dict[str, Any]]:
        with self._channel() as channel:
            while (message := channel.basic_get(f"{self.name}-dead", no_ack=True)) is not None:
                message = channel.message_to_python(message)
                body = message.body.decode() if isinstance(message.body, bytes) else message.body
                self._dead.append({"body": body, **_described(message.headers)})
        return self._dead

    @property
    def _is_redis(self) -> bool:
        return self.url.startswith("redis")

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with Connection(self.url, connect_timeout=10) as connection:
            yield connection.channel()


def stop(worker: servers.Program, number: int = signal.SIGTERM) -> int:
    worker.signal(number)
    return worker.wait(60)


#: Asks the only worker, and does not wait for what others might answer.
ONLY_WORKER = ("-t", "5", "-d", f"celery@{socket.gethostname()}")


def inspect(project: Project, what: str) -> Any:
    """Return what the only worker of a project answers to ``celery inspect``; the answer may take a while."""
    command, env = [*CELERY, "inspect", what, "--json", *ONLY_WORKER], {**os.environ, **project.env}

    def answer() -> dict[str, Any] | None:
        done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else None

    (said,) = (servers.wait_until(answer, what="the answer") or {}).values()
    return said


def engine_pids(worker: servers.Program) -> list[int]:
    listing = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, *words in lines if ("--worker-pid", str(worker.pid)) in pairwise(words)]
