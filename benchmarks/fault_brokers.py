"""The brokers of the fault runs: how each is started, which tasks it holds, and how its queues are deleted."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from celery import Celery
from fault_account import Pair
from fault_project import QUEUES, event_id_of
from kombu import Connection, Queue

from balog_celery.tasks.dead_letter import DEAD_LETTER_TASK

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import servers
from scripted_sqs.process import ScriptedSqs

__all__ = ["Broker", "RabbitMQ", "ScriptedSqs", "Valkey", "make_broker", "servers"]


class Valkey(servers.Valkey):
    """A Valkey that keeps all acknowledged writes over a SIGKILL.

    ``appendfsync no``: every command is in the file, in the kernel's hands, before its client is answered, and a
    SIGKILL leaves the kernel alone. ``always`` would protect from a power cut as well, at five fsyncs for each task;
    ``everysec`` protects less, as it puts off writing for up to two seconds while an fsync is under way. The file
    keeps every command, as evidence.
    """

    #: Whether deleting its queues deletes their tasks: here only the bindings are deleted.
    queues_hold_tasks = False

    def _program(self) -> servers.Program:
        durable = ["--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]
        return servers.Program([*super()._program().argv, *durable])

    def depths(self) -> dict[str, int]:
        """Return the number of tasks in each queue, and with workers."""
        with self.client() as client:
            return {**{queue: client.llen(queue) for queue in QUEUES}, "unacked": client.hlen("unacked")}

    def take_tasks(self) -> set[Pair]:
        """Return the pairs whose tasks it holds. Call this when no worker runs."""
        with self.client() as client:
            raw = [json.loads(value)[0] for value in client.hvals("unacked")]
            raw += [json.loads(value) for queue in QUEUES for value in client.lrange(queue, 0, -1)]
        return {pair for message in raw for pair in _pairs_of(message)}

    def fallen_through(self) -> set[Pair]:
        """Return the pairs whose tasks kombu lost between the broker and a worker.

        kombu's Redis transport takes a task from its list with one command and notes it as unacknowledged with the
        next. A worker, a broker or a connection that dies between the two loses the task. Valkey's own log of commands
        shows it: the task was pushed, is no longer in the list (the caller has seen to that), and was not noted since.
        """
        pushed: dict[bytes, bytes] = {}
        for name, task, text in self._moved():
            if name == b"HSET":
                pushed.pop(task, None)
            else:
                pushed[task] = text
        return {pair for text in pushed.values() for pair in _pairs_of(json.loads(text))}

    def redelivered(self) -> set[Pair]:
        """Return the pairs whose tasks kombu has delivered again, as they were not acknowledged for long enough."""
        pushed = (json.loads(text) for name, _, text in self._moved() if name != b"HSET")
        return {pair for message in pushed if message["headers"].get("redelivered") for pair in _pairs_of(message)}

    def _moved(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield the commands that put a task somewhere: their names, the task's id, and its text."""
        for path in sorted((self.dir / "appendonlydir").glob("*.incr.aof")):
            with path.open("rb") as file:
                for name, *arguments in _commands(file):
                    if name in (b"LPUSH", b"RPUSH", b"HSET") and (found := _TASK_ID.search(arguments[-1])):
                        yield name, found[1], arguments[-1]

    def delete_queues(self) -> bool:
        """Delete the bindings that say which queues an exchange has; return whether that was done.

        Workers go on with the lists that they read, and nothing puts the bindings back while they are connected.
        """
        with self.client() as client:
            for key in client.keys("_kombu.binding.*"):
                client.delete(key)
        return True

    def restore_queues(self) -> None:
        """Do nothing: workers have read the queues all the time."""

    def empty(self) -> bool:
        """Remove all data and return True, unless it holds a task: looked at and done in one step."""
        with self.client() as client:
            return bool(client.eval(_EMPTY, 0))


class RabbitMQ(servers.RabbitMQ):
    """A private RabbitMQ node whose queues can be inspected."""

    #: Deleting a queue deletes its tasks, so it must be empty: otherwise the run itself would lose events.
    queues_hold_tasks = True

    def depths(self) -> dict[str, int]:
        """Return the number of tasks in each queue or with workers. It takes a second."""
        argv = [self.PROGRAM.with_name("rabbitmqctl"), "-n", f"t{self.port}@localhost", "-q", "list_queues"]
        argv += ["name", "messages", "--formatter", "json"]
        done = subprocess.run(argv, env=self._running().env, capture_output=True, text=True, check=True, timeout=30)
        return {row["name"]: row["messages"] for row in json.loads(done.stdout) if row["name"] in QUEUES}

    def take_tasks(self) -> set[Pair]:
        """Return the pairs whose tasks it holds, and remove them. Call this when no worker runs."""
        pairs: set[Pair] = set()
        with Connection(self.url) as connection:
            for name in QUEUES:
                with contextlib.suppress(connection.channel_errors), connection.channel() as channel:
                    queue = Queue(name, channel=channel)
                    while message := queue.get(no_ack=True):
                        pairs |= set(_pairs_in(message.headers, message.payload))
        return pairs

    def fallen_through(self) -> set[Pair]:
        """Return none: the node keeps what a worker has not acknowledged."""
        return set()

    def redelivered(self) -> set[Pair]:
        """Return none: the node has no visibility timeout, and a lost connection is the run's doing."""
        return set()

    def delete_queues(self) -> bool:
        """Delete the queues of tasks; return whether that was done. Workers must answer, and are told to stop reading.

        Else it would hear of the delete, and declare them anew at once.
        """
        with Celery(broker=self.url) as app:
            if not all(app.control.cancel_consumer(queue, reply=True, timeout=5, limit=1) for queue in QUEUES):
                return False
            with app.connection_for_write() as connection, connection.channel() as channel:
                for queue in QUEUES:
                    channel.queue_delete(queue)
        return True

    def empty(self) -> bool:
        """Purge the queues of tasks unless they hold some; return whether that was done."""
        if any(self.depths().values()):
            return False
        with Connection(self.url) as connection, connection.channel() as channel:
            for name in QUEUES:
                channel.queue_purge(name)
        return True

    def restore_queues(self) -> None:
        """Have workers read the queues again, which declares them."""
        with Celery(broker=self.url) as app:
            for queue in QUEUES:
                app.control.add_consumer(queue, reply=True, timeout=5, limit=1)


Broker = Valkey | RabbitMQ


def make_broker(name: str) -> Broker:
    """Return the broker of that name, not started."""
    return Valkey() if name == "valkey" else RabbitMQ()


def _pairs_of(message: Any) -> Iterator[Pair]:
    """Return the pairs of the task in one of kombu's messages on Redis."""
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    yield from _pairs_in(message["headers"], json.loads(body))


def _pairs_in(headers: Any, body: Any) -> Iterator[Pair]:
    """Return the pairs of a task; a task that makes a dead letter counts for the failed consumer."""
    (events, *others), *_ = body
    task = others[1] if headers["task"] == DEAD_LETTER_TASK else headers["task"]
    for event in events if isinstance(events, list) else [events]:
        yield task.rpartition(".")[2], event_id_of(event)


#: Empties a Valkey that holds no task.
_EMPTY = """
if {held} > 0 then return 0 end
redis.call("flushall")
return 1
""".format(held=" + ".join([*(f'redis.call("llen", "{queue}")' for queue in QUEUES), 'redis.call("hlen", "unacked")']))

#: The id in a task's headers, in JSON, or in JSON within JSON.
_TASK_ID = re.compile(rb'\\*"id\\*": *\\*"([0-9a-f-]{36})')


def _commands(file: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the commands in an append-only file."""
    while line := file.readline():
        if line.startswith(b"*"):
            yield [file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
