"""The brokers under faults: how each is run, and what tasks are still in it at the end."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import servers

__all__ = ["fallen_through", "is_empty", "make_broker", "servers", "tasks_left"]


class DurableValkey(servers.Valkey):
    """A Valkey of which a SIGKILL takes nothing that it has acknowledged.

    ``appendfsync no``: every command is in the file, in the kernel's hands, before its client is answered, and a
    SIGKILL leaves the kernel alone. ``always`` would protect from a power cut as well, at five fsyncs for each task;
    ``everysec`` protects less, as it puts off writing for up to two seconds while an fsync is under way. The file
    keeps every command, as evidence.
    """

    def _program(self) -> servers.Program:
        durable = ["--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]
        return servers.Program([*super()._program().argv, *durable])


def make_broker(name: str) -> servers.Valkey | servers.RabbitMQ:
    """The broker of that name, not yet started."""
    return DurableValkey() if name == "valkey" else servers.RabbitMQ()


def tasks_left(broker: servers.Server, queue: str = "celery") -> set[str]:
    """The ids of the tasks that are in the broker, delivered or not. Ask when no worker runs: it takes them out."""
    ids: set[str] = set()
    if isinstance(broker, servers.Valkey):
        with broker.client() as client:
            raw = [json.loads(value)[0] for value in client.hvals("unacked")]
            raw += [json.loads(value) for value in client.lrange(queue, 0, -1)]
        return {str(message["headers"]["id"]) for message in raw}
    import kombu

    with kombu.Connection(broker.url) as connection:  # type: ignore[attr-defined]
        simple = connection.SimpleQueue(queue)
        with contextlib.suppress(simple.Empty):
            while True:
                message: Any = simple.get(timeout=1.0)
                message.ack()
                ids.add(str(message.headers["id"]))
        simple.close()
    return ids


def fallen_through(broker: servers.Server) -> set[str]:
    """The ids of the tasks that Redis handed to a worker which never noted them: lost by kombu, and by nobody else.

    kombu's Redis transport takes a task from its list with one command and notes it as unacknowledged with the next.
    A worker, a broker or a connection that dies between the two loses the task. Valkey's own log of commands shows it:
    the task was pushed, is not in the list any more (the caller has seen to that), and was not noted since.
    """
    if not isinstance(broker, servers.Valkey):
        return set()
    pushed: set[str] = set()
    for path in sorted((broker.dir / "appendonlydir").glob("*.incr.aof")):
        with path.open("rb") as file:
            for name, *arguments in _commands(file):
                if name in (b"LPUSH", b"RPUSH", b"HSET") and (found := _TASK_ID.search(arguments[-1])):
                    (pushed.discard if name == b"HSET" else pushed.add)(found[1].decode())
    return pushed


#: The id in a task's headers, in JSON, or in JSON within JSON.
_TASK_ID = re.compile(rb'\\*"id\\*": *\\*"([0-9a-f-]{36})')


def _commands(file: BinaryIO) -> Iterator[list[bytes]]:
    """The commands in an append-only file."""
    while line := file.readline():
        if line.startswith(b"*"):
            yield [file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]


def is_empty(broker: servers.Server, queue: str = "celery") -> bool | None:
    """Whether no task is in the broker, nor with a worker; None if it cannot be told."""
    if isinstance(broker, servers.Valkey):
        with broker.client() as client:
            return not client.exists("unacked", queue)
    return None
