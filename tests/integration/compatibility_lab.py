"""A real worker whose consumers use Celery's features, and what the tests of the compatibility table ask of it."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from amqp.exceptions import ChannelError
from celery import Celery
from project import CELERY, Project, Topic

import servers
from sample_events import event_text

FEATURES = Path(__file__).with_name("features")


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    :param folder: an empty folder for its project.
    :param broker_url: its broker.
    :param backend: its result backend.
    """

    folder: Path
    sqs: servers.Sqs
    broker_url: str
    backend: str
    dispatch: str


@contextmanager
def laboratory(place: Place, worker: str, *options: str) -> Iterator[Lab]:
    """Run a worker with the consumers of ``features``, on a topic of its own.

    :param worker: what ``features/config.py`` calls it.
    :param options: of ``celery worker``, with ``{}`` for its topic.
    """
    folder = place.folder / worker
    folder.mkdir()
    name = f"{worker}-{uuid.uuid4().hex[:8]}"
    with closing(place.sqs.client()) as client, app_of(place) as app:
        for queue in (name, f"{name}-cancelled", f"{name}-cancelled-dead"):
            client.create_queue(QueueName=queue)
        project = Project(folder, name)
        shutil.copytree(FEATURES, folder / "features", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "celeryconfig.py").write_text("from features.config import *\n")
        env = {**project.env, **place.sqs.env, "WORKER": worker, "DISPATCH": place.dispatch}
        # Celery wants to hear that root may read pickles.
        env |= {"BROKER": place.broker_url, "BACKEND": place.backend, "C_FORCE_ROOT": "1"}
        command = [*CELERY, "worker", "-l", "INFO", "-n", f"{worker}@h", *(option.format(name) for option in options)]
        lab = Lab(project, Topic(client, name), f"{worker}@h", place.dispatch, app)
        with servers.Program(command, env=env, cwd=folder) as lab.program:
            try:
                yield lab
            finally:
                print(lab.program.output)  # shown if the test failed


@contextmanager
def app_of(place: Place) -> Iterator[Celery]:
    """Make an app of the test's own."""
    app = Celery("laboratory", broker=place.broker_url, backend=place.backend, set_as_current=False)
    app.conf.update(result_extended=True, task_serializer="json", accept_content=["json", "pickle"])
    try:
        yield app
    finally:
        app.close()


class Lab:
    """One worker, its topic, and what its consumers have noted.

    :param worker: its node name.
    :param dispatch: ``hand-off`` or ``publish``.
    :param app: an app of the test's own, for control commands and results.
    """

    def __init__(self, project: Project, topic: Topic, worker: str, dispatch: str, app: Celery) -> None:
        self.project = project
        self.topic = topic
        self.worker = worker
        self.dispatch = dispatch
        self.app = app
        self.program: servers.Program
        #: Celery's events of all workers.
        self.events: list[dict[str, Any]] = []
        self._deadline = time.monotonic() + 330
        self._letters: dict[str, dict[str, Any]] = {}
        self._held = project.folder / f"held-{worker.partition('@')[0]}"

    @property
    def queue(self) -> str:
        """The worker's default queue."""
        return f"{self.topic.name}-tasks"

    def send(self, *types: str, count: int = 1, **payload: Any) -> None:
        """Send events of these types, each with an id like ``type-0``."""
        self.topic.send(*(event_text(f"{one}-{n}", one, **payload) for one in types for n in range(count)))

    def send_as(self, event_id: str, cls_type: str, **payload: Any) -> None:
        """Send one event."""
        self.topic.send(event_text(event_id, cls_type, **payload))

    def send_elsewhere(self, cls_type: str) -> None:
        """Send one event to the worker's other topic."""
        url = self.topic.client.get_queue_url(QueueName=f"{self.topic.name}-{cls_type}")["QueueUrl"]
        self.topic.client.send_message(QueueUrl=url, MessageBody=event_text(f"{cls_type}-0", cls_type))

    def noted(self, name: str, event_id: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the ledger under a name, in order."""
        lines = (entry for entry in self.project.entries() if entry["consumer"] == name)
        return [entry for entry in lines if event_id in (None, entry["event"])]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition: a minute at least, unless many others have failed before."""
        return servers.wait_until(condition, max(5.0, min(60.0, self._deadline - time.monotonic())), what)

    def until_noted(self, name: str, event_id: str | None = None, count: int = 1) -> list[dict[str, Any]]:
        """Wait until a name has as many lines of the ledger, and return them."""
        self.until(lambda: len(self.noted(name, event_id)) >= count, f"{count} x {name}")
        return self.noted(name, event_id)

    def dead(self) -> dict[str, dict[str, Any]]:
        """Return what is known of all dead letters so far, by the ids of their events."""
        answer = self.topic.client.receive_message(
            QueueUrl=self.topic.dead_url, MaxNumberOfMessages=10, VisibilityTimeout=900
        )
        for message in answer.get("Messages", []):
            self._letters[json.loads(message["Body"])["header"]["id"]] = message
        return self._letters

    def until_dead(self, event_id: str) -> None:
        """Wait until an event is a dead letter."""
        self.until(lambda: event_id in self.dead(), f"the dead letter of {event_id}")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the worker's answer to a control command."""
        answers = self.app.control.broadcast(
            command, arguments=arguments, destination=[self.worker], reply=True, timeout=60, limit=1
        )
        (answer,) = answers
        return answer[self.worker]

    def task_of(self, name: str, event_id: str | None = None) -> str:
        """Return the id of the task with which a consumer has got an event."""
        return str(self.noted(name, event_id)[0]["task"])

    def kinds(self, task_id: str) -> set[str]:
        """Return the types of Celery's events that there were of a task."""
        return {event["type"] for event in list(self.events) if event.get("uuid") == task_id}

    def received(self, name: str, event_id: str) -> str | None:
        """Return the id of the task of an event, as Celery's event ``task-received`` told it."""
        for event in list(self.events):
            if event["type"] == "task-received" and event["name"].endswith(f".{name}") and event_id in event["args"]:
                return str(event["uuid"])
        return None

    def until_received(self, name: str, event_id: str) -> str:
        """Wait until the worker has a task for an event, and return its id."""
        return str(self.until(lambda: self.received(name, event_id), f"the task of {event_id}"))

    def length(self, queue: str) -> int:
        """Return how many tasks a queue of the broker has for workers that are not busy."""
        with self.app.connection_for_read() as connection:
            try:
                return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
            except ChannelError:
                return 0

    @contextmanager
    def holding(self, *event_ids: str) -> Iterator[None]:
        """Have as many children of the pool busy as there are events, until the end of the block."""
        self._held.touch()
        try:
            for event_id in event_ids:
                self.send_as(event_id, "hold")
            for event_id in event_ids:
                self.until_noted("hold", event_id)
            yield
        finally:
            self._held.unlink()
        for event_id in event_ids:
            self.until_noted("held", event_id)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collect Celery's events."""
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.events.append})
            thread = Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
            thread.start()
            try:
                yield
            finally:
                receiver.should_stop = True
                thread.join(60)
