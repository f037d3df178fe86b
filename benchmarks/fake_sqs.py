"""A process that stands for Amazon SQS: its JSON protocol over HTTP, as boto3 speaks it, with faults on demand.

It is not SQS, nor an emulator that others maintain: moto looks at every message in every call, which is too slow for
many thousands, accepts any receipt handle there ever was, and never fails. What a consumer must survive is here: only
the latest receipt handle deletes (a former one is refused or, as SQS documents for standard queues, ignored without a
word), messages come twice, batches fail in part, answers are lost.

Two ports serve the same queues: one with faults, for the system under test, and one without, for who feeds and counts::

    python fake_sqs.py FAULTY_PORT CLEAN_PORT SEED GAP

The clean port also answers ``/faults/on``, ``/faults/off``, ``/counts`` (of faults, by kind) and ``/dump/NAME`` (all
messages of a queue).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqs_faults import TWICE, UNDEAD, SqsFaults
from sqs_store import StoredMessage, StoredQueue

Answer = dict[str, Any]

#: Status, error type and the code of the former protocol, of the faults that are an answer.
ERRORS = {
    "error_500": (500, "InternalFailure"),
    "error_503": (503, "ServiceUnavailable"),
    "throttled": (400, "ThrottlingException"),
}


class ApiError(Exception):
    """An error that SQS answers with."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Dropped(Exception):
    """The connection is closed instead of an answer."""


class FakeSqs:
    """The queues, and what each action of the API does with them.

    :param faults: what goes wrong.
    """

    def __init__(self, faults: SqsFaults) -> None:
        self.faults = faults
        self.queues: dict[str, StoredQueue] = {}
        self._arrived = asyncio.Condition()
        self._actions: dict[str, Callable[[Any], Answer]] = {
            "CreateQueue": self._create,
            "GetQueueUrl": self._url,
            "GetQueueAttributes": self._attributes,
            "SendMessage": self._send,
        }
        # What is done with each entry of a batch.
        self._batches: dict[str, Callable[[Any], Callable[[Any], Answer]]] = {
            "SendMessageBatch": self._send_entry,
            "DeleteMessageBatch": self._delete_entry,
            "ChangeMessageVisibilityBatch": self._change_entry,
        }

    async def call(self, action: str, asked: Any, gone: Callable[[], bool], *, faulty: bool) -> Answer:
        """Answer one call.

        :param gone: whether the caller has hung up.
        :param faulty: whether it may go wrong.
        :raises ApiError: SQS says no.
        :raises Dropped: there is no answer.
        """
        fault = self.faults.of_call(time.monotonic()) if faulty else None
        if fault in ERRORS:
            raise ApiError(*ERRORS[fault], "injected")
        if fault == "dropped_before":
            raise Dropped
        if fault == "delayed":
            await asyncio.sleep(self.faults.delay())
        answer = await self._act(action, asked, gone, faulty=faulty)
        if fault == "dropped_after":
            raise Dropped
        return answer

    async def _act(self, action: str, asked: Any, gone: Callable[[], bool], *, faulty: bool) -> Answer:
        if action == "ReceiveMessage":
            return await self._receive(asked, gone)
        if action not in self._actions and action not in self._batches:
            raise ApiError(400, "InvalidAction", f"the fake knows no {action}")
        answer = (
            self._batch(asked, self._batches[action](asked), faulty)
            if action in self._batches
            else self._actions[action](asked)
        )
        if action in ("SendMessage", "SendMessageBatch", "ChangeMessageVisibilityBatch"):
            async with self._arrived:
                self._arrived.notify_all()
        return answer

    async def _receive(self, asked: Any, gone: Callable[[], bool]) -> Answer:
        queue = self._queue(asked)
        deadline = time.monotonic() + asked.get("WaitTimeSeconds", 0)
        while True:
            now = time.monotonic()
            taken = queue.take(asked.get("MaxNumberOfMessages", 1), asked.get("VisibilityTimeout"), now)
            if taken or now >= deadline or gone():
                break
            soonest = queue.next_visible(now) or deadline
            async with self._arrived:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), max(0.005, min(soonest, deadline) - now))
        answer = [_received(message) for message in taken]
        for message in taken:
            if message.exposed:
                message.exposed = False
                self.faults.counts["delivered_twice"] += 1
            elif self.faults.happens(TWICE):
                queue.expose(message)
        return {"Messages": answer} if answer else {}

    def _create(self, asked: Any) -> Answer:
        name = asked["QueueName"]
        visibility = float(asked.get("Attributes", {}).get("VisibilityTimeout", 30))
        self.queues.setdefault(name, StoredQueue(name, visibility))
        return self._url(asked)

    def _url(self, asked: Any) -> Answer:
        if asked["QueueName"] not in self.queues:
            raise ApiError(400, "QueueDoesNotExist", "there is no such queue")
        return {"QueueUrl": f"http://fake/000000000000/{asked['QueueName']}"}

    def _attributes(self, asked: Any) -> Answer:
        queue = self._queue(asked)
        visible, hidden = queue.counts(time.monotonic())
        return {
            "Attributes": {
                "VisibilityTimeout": str(int(queue.visibility)),
                "ApproximateNumberOfMessages": str(visible),
                "ApproximateNumberOfMessagesNotVisible": str(hidden),
            }
        }

    def _send(self, asked: Any) -> Answer:
        message = self._queue(asked).send(asked["MessageBody"], asked.get("MessageAttributes"))
        return {"MessageId": message.message_id, "MD5OfMessageBody": _md5(message.body)}

    def _send_entry(self, asked: Any) -> Callable[[Any], Answer]:
        queue = self._queue(asked)

        def send(entry: Any) -> Answer:
            return self._send({**entry, "QueueUrl": queue.name})

        return send

    def _delete_entry(self, asked: Any) -> Callable[[Any], Answer]:
        queue = self._queue(asked)

        def delete(entry: Any) -> Answer:
            message, latest = queue.find(entry["ReceiptHandle"])
            if message is None:
                return {}  # deleted before: SQS says yes again
            if not latest:
                return self._stale("delete")
            queue.delete(message)
            if self.faults.happens(UNDEAD):
                self.faults.counts["delivered_after_delete"] += 1
                queue.restore(message)
            return {}

        return delete

    def _change_entry(self, asked: Any) -> Callable[[Any], Answer]:
        queue = self._queue(asked)

        def change(entry: Any) -> Answer:
            message, latest = queue.find(entry["ReceiptHandle"])
            if message is None or not latest:
                return self._stale("change")
            queue.hide(message, time.monotonic() + entry["VisibilityTimeout"])
            return {}

        return change

    def _stale(self, what: str) -> Answer:
        """A handle that is not the latest: refused, or taken without effect."""
        if what == "delete" and self.faults.coin():
            self.faults.counts["stale_handle_ignored"] += 1
            return {}
        self.faults.counts["stale_handle_refused"] += 1
        raise ApiError(400, "ReceiptHandleIsInvalid", "the handle is not the latest")

    def _batch(self, asked: Any, act: Callable[[Any], Answer], faulty: bool) -> Answer:
        entries = asked["Entries"]
        if not 1 <= len(entries) <= 10:
            raise ApiError(400, "TooManyEntriesInBatchRequest", f"{len(entries)} entries")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise ApiError(400, "BatchEntryIdsNotDistinct", "an id is there twice")
        answer: dict[str, list[Answer]] = {"Successful": [], "Failed": []}
        for entry in entries:
            fault = self.faults.of_entry() if faulty else None
            try:
                done = act(entry) if fault != "entry_not_done" else {}
            except ApiError as error:
                answer["Failed"].append(_failed(entry, error.code, sender_fault=True))
                continue
            if fault:
                answer["Failed"].append(_failed(entry, "InternalError", sender_fault=False))
            else:
                answer["Successful"].append({"Id": entry["Id"], **done})
        return answer

    def _queue(self, asked: Any) -> StoredQueue:
        name = asked["QueueUrl"].rpartition("/")[2]
        if name not in self.queues:
            raise ApiError(400, "QueueDoesNotExist", "there is no such queue")
        return self.queues[name]


def _failed(entry: Any, code: str, *, sender_fault: bool) -> Answer:
    return {"Id": entry["Id"], "Code": code, "Message": "injected", "SenderFault": sender_fault}


def _received(message: StoredMessage) -> Answer:
    return {
        "MessageId": message.message_id,
        "ReceiptHandle": message.handle,
        "Body": message.body,
        "MD5OfBody": _md5(message.body),
        "Attributes": {
            "ApproximateReceiveCount": str(message.receive_count),
            "ApproximateFirstReceiveTimestamp": str(message.first_received),
        },
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Port:
    """One TCP port that speaks HTTP for a :class:`FakeSqs`.

    :param faulty: whether calls to it may go wrong.
    """

    def __init__(self, sqs: FakeSqs, *, faulty: bool) -> None:
        self._sqs = sqs
        self._faulty = faulty

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, Dropped):
            while head := await _head(reader):
                path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = await self._answer(path, headers, body, reader.at_eof)
                writer.write(_response(status, answer))
                await writer.drain()
        writer.close()

    async def _answer(
        self, path: str, headers: Mapping[str, str], body: bytes, gone: Callable[[], bool]
    ) -> tuple[int, Any]:
        if path != "/":
            return 200, self._control(path)
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            return 200, await self._sqs.call(action, json.loads(body), gone, faulty=self._faulty)
        except ApiError as error:
            return error.status, {"__type": f"com.amazonaws.sqs#{error.code}", "message": str(error)}

    def _control(self, path: str) -> Any:
        faults = self._sqs.faults
        if path in ("/faults/on", "/faults/off"):
            faults.switch(path == "/faults/on", time.monotonic())
        elif path.startswith("/dump/"):
            queue = self._sqs.queues[path.removeprefix("/dump/")]
            return [{"body": message.body, "attributes": message.attributes} for message in queue]
        return faults.counts


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    """The path and the headers of the next request; None if there is none."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first.split()[1], headers


def _response(status: int, answer: Any) -> bytes:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def main(faulty_port: int, clean_port: int, seed: int, gap: float) -> None:
    """Serve both ports until killed."""
    sqs = FakeSqs(SqsFaults(seed, gap))
    servers = [
        await asyncio.start_server(Port(sqs, faulty=faulty).serve, "127.0.0.1", port)
        for port, faulty in ((faulty_port, True), (clean_port, False))
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4]), float(sys.argv[4])))
