"""The control interface of a scripted SQS process, beside the SQS API."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any

from .chance import Chance
from .errors import ApiError
from .message import StoredMessage
from .queue import StoredQueue
from .script import Fault, Script
from .server import ScriptedSqs
from .store import SqsStore


def record(event_id: str, padding: int = 0) -> str:
    """The body of an event: metrics, 0.6 kB and *padding* bytes more."""
    values = [{"name": f"host.cpu.core-{core}.user_seconds", "value": 1234.5 + core} for core in range(5)]
    context = {"fqdn": "worker-17.eu-west-1.example.com", "application": "billing", "application_version": "4.2.1"}
    if padding:
        context["padding"] = "x" * padding
    header = {
        "id": event_id,
        "channel": "billing.jobs.invoice.done",
        "timestamp": "2014-10-07T15:06:51.641083+00:00",
        "context": context,
    }
    return json.dumps({"schema": "0.0.1", "header": header, "payload": {"cls_type": "metrics", "values": values}})


class Supply:
    """Messages that are made when they are received: a backlog that takes no memory.

    :param padding: by how much each is larger than usual, in bytes.
    """

    def __init__(self, store: SqsStore, queue: StoredQueue, padding: int) -> None:
        self._store = store
        self._queue = queue
        self._made = 0
        self.waiting = 0
        self._start, self._end = record("EVENT-ID", padding).split("EVENT-ID")

    def __call__(self, count: int) -> None:
        """Put up to *count* into the queue."""
        if (count := min(count, self.waiting)) > 0:
            self.waiting -= count
            numbers = range(self._made, self._made + count)
            self._store.put_all(self._queue, [f"{self._start}LG{number:022d}{self._end}" for number in numbers])
            self._made += count


class Process:
    """The one scripted SQS of a process, and its control side."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._store = SqsStore(keep_deleted=not options.bench)
        self._script = Script(recording=False)
        self.sqs = ScriptedSqs(self._store, self._script, self.control, options.distance)
        self._chance = Chance(self._store, options.chance.split(","), options.seed, options.gap)
        self._rotate = options.rotate
        self._started = time.monotonic()
        self._script.otherwise = self._otherwise
        self._supplies: dict[str, Supply] = {}
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._store.on_received.append(self._received)
        self._store.on_deleted.append(self._deleted)
        if options.bench:
            self._store.on_missing = self._create

    def control(self, path: str, body: bytes) -> Any:
        """Answer a request that is none of the SQS API."""
        _, what, *more = path.split("/")
        if what == "load":
            return self._load(more[0], *map(int, more[1:]))
        if what == "counts":
            return self._counts_of(more[0])
        if what == "fault":
            self._script.add(Fault.from_json(json.loads(body)))
        elif what == "release":
            self._script.release()
            self.sqs.wake()
        elif what == "advance":
            self._store.advance(float(more[0]))
        elif what == "faults":
            return self._faults(more)
        elif what == "credentials":
            return self._credentials()
        elif what in ("dump", "deleted"):
            messages = self._store.named(more[0]) if what == "dump" else self._store.deleted.get(more[0], ())
            return [self._known(message) for message in messages]
        return {}

    def _known(self, message: StoredMessage) -> dict[str, Any]:
        causes = self._chance.causes.of(message)
        attributes, receives = message.attributes, message.receive_count
        return {"body": message.body, "attributes": attributes, "receives": receives, "causes": causes}

    def _load(self, name: str, count: int, padding: int = 0, groups: int = 0) -> Any:
        queue = self._store.named(name)
        if groups:  # now, as there must be several of a group for a receive
            for number in range(count):
                self._store.put(queue, record(f"LG{number:022d}", padding), f"group-{number % groups}")
            self.sqs.wake()
            return self._counts_of(name)
        supply = self._supplies.get(name) or self._supplies.setdefault(name, Supply(self._store, queue, padding))
        supply.waiting += count
        queue.supply = supply
        self.sqs.wake()
        return self._counts_of(name)

    def _create(self, name: str) -> None:
        self._store.call("CreateQueue", {"QueueName": name, "Attributes": {"VisibilityTimeout": "3600"}})

    def _counts_of(self, name: str) -> Any:
        queue, supply = self._store.named(name), self._supplies.get(name)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counts = self._counts[name]
        return {
            **{key: counts[key] for key in ("receives", "received", "deletes", "deleted")},
            "stale": counts["entries"] - counts["deleted"],
            "out": queue.counts()[1],
            "waiting": (supply.waiting if supply else 0) + queue.counts()[0],
            "cpu": usage.ru_utime + usage.ru_stime,
        }

    def _received(self, queue: StoredQueue, message: StoredMessage) -> None:
        self._counts[queue.name]["received"] += 1
        self._chance.received(queue, message)

    def _deleted(self, queue: StoredQueue, message: StoredMessage) -> None:
        self._counts[queue.name]["deleted"] += 1
        self._chance.deleted(queue, message)

    def _faults(self, more: list[str]) -> Any:
        if more:
            self._chance.switch(more[0] == "on")
        return self._chance.counts + self._script.counts

    def _key(self, ago: int = 0) -> str:
        return f"AKIA{int((time.monotonic() - self._started) / self._rotate) - ago:012d}"

    def _credentials(self) -> Any:
        """The answer of a container's credentials endpoint."""
        self._script.counts["credentials_given"] += 1
        expires = datetime.now(timezone.utc) + timedelta(seconds=self._rotate)
        return {
            "AccessKeyId": self._key(),
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _is_expired(self, signed: str) -> bool:
        return "AKIA" in signed and not any(self._key(ago) in signed for ago in (0, 1))

    def _otherwise(self, action: str, asked: Any, headers: Any) -> Fault | None:
        if action in ("ReceiveMessage", "DeleteMessage", "DeleteMessageBatch"):
            counts = self._counts[asked["QueueUrl"].rpartition("/")[2]]
            counts["receives" if action == "ReceiveMessage" else "deletes"] += 1
            counts["entries"] += 0 if action == "ReceiveMessage" else len(asked.get("Entries") or [asked])
        if self._rotate and self._is_expired(headers.get("authorization", "")):
            self._script.counts["expired_token"] += 1
            return Fault(error=ApiError("ExpiredTokenException", "The security token is expired", 403))
        return self._chance.fault(action, asked)
