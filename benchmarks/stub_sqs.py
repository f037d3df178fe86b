"""A process that stands for Amazon SQS in the benchmarks: canned messages, honest deletes, as little CPU as possible.

It speaks the AWS JSON 1.0 protocol over HTTP as boto3 does, on one port, and parses no more of a request than it needs.
It is no emulator: any queue exists, nothing can be sent, nothing comes again unless it was given back. Faults are
``fake_sqs.py``'s business. Every message has an id of its own, and a delete counts only when its receipt handle is one
that is out and was not deleted before::

    python stub_sqs.py PORT [DISTANCE]

With a distance it answers so many seconds later, as if it were far away. Besides SQS's actions it answers
``GET /load/QUEUE/COUNT`` (let so many more be received) and ``GET /counts/QUEUE``.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable

#: The id of the first event, and the width of the number in it.
_EVENT_ID = "LG%022d"
#: Real receipt handles have several hundred characters, which are signed, sent and parsed.
_HANDLE = "AQEB" + "x" * 380

_NUMBER = re.compile(rb'"ReceiptHandle"\s*:\s*"AQEBx+(\d{12})"')
_ID = re.compile(rb'"Id"\s*:\s*"([^"]*)"')
_QUEUE = re.compile(rb'/000000000000/([^"/]+)"|"QueueName"\s*:\s*"([^"]*)"')
_MAX = re.compile(rb'"MaxNumberOfMessages"\s*:\s*(\d+)')
_WAIT = re.compile(rb'"WaitTimeSeconds"\s*:\s*(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_TARGET = re.compile(rb"\r\nx-amz-target:\s*AmazonSQS\.(\w+)", re.IGNORECASE)


def record(event_id: str) -> str:
    """The body of an event: metrics, 0.6 kB."""
    values = [{"name": f"host.cpu.core-{core}.user_seconds", "value": 1234.5 + core} for core in range(5)]
    context = {"fqdn": "worker-17.eu-west-1.example.com", "application": "billing", "application_version": "4.2.1"}
    header = {
        "id": event_id,
        "channel": "billing.jobs.invoice.done",
        "timestamp": "2014-10-07T15:06:51.641083+00:00",
        "context": context,
    }
    return json.dumps({"schema": "0.0.1", "header": header, "payload": {"cls_type": "metrics", "values": values}})


def _template(*, attributes: bool) -> str:
    """The JSON text of one received message, with two ``%d`` for its number and one for its receive count."""
    body = json.dumps(record("EVENT-ID")).replace("%", "%%").replace("EVENT-ID", _EVENT_ID)
    text = (
        '{"MessageId":"00000000-0000-4000-8000-%012d","ReceiptHandle":"' + _HANDLE + '%012d",'
        f'"MD5OfBody":"{"0" * 32}","Body":{body}'
    )
    if attributes:
        times = f'"ApproximateFirstReceiveTimestamp":"{int(time.time() * 1000)}"'
        text += ',"Attributes":{"ApproximateReceiveCount":"1",' + times + "}"
    return text + "}"


PLAIN, DETAILED = _template(attributes=False), _template(attributes=True)


class StubQueue:
    """The messages of one queue, by number."""

    def __init__(self) -> None:
        self.waiting = 0
        self.next = 0
        self.returned: deque[int] = deque()
        self.out: set[int] = set()
        self.counts = {"receives": 0, "empty_receives": 0, "received": 0, "deletes": 0, "deleted": 0, "stale": 0}
        self.pollers: list[Callable[[], None]] = []

    def load(self, count: int) -> None:
        """Let *count* more messages be received."""
        self.waiting += count
        self.wake()

    def wake(self) -> None:
        """Answer the polls that wait."""
        pollers, self.pollers = self.pollers, []
        for poller in pollers:
            poller()

    def take(self, limit: int) -> list[int]:
        """Up to *limit* messages."""
        taken = [self.returned.popleft() for _ in range(min(limit, len(self.returned)))]
        fresh = min(limit - len(taken), self.waiting)
        taken += range(self.next, self.next + fresh)
        self.next += fresh
        self.waiting -= fresh
        self.out.update(taken)
        return taken

    def delete(self, numbers: list[int]) -> None:
        """Delete what is out; the rest is counted as stale."""
        self.counts["deletes"] += 1
        for number in numbers:
            if number in self.out:
                self.out.remove(number)
                self.counts["deleted"] += 1
            else:
                self.counts["stale"] += 1

    def give_back(self, numbers: list[int]) -> None:
        """Let what is out be received again."""
        back = [number for number in numbers if number in self.out]
        self.out.difference_update(back)
        self.returned += back
        self.wake()


QUEUES: dict[str, StubQueue] = {}


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it come one after the other."""

    def __init__(self, port: int, distance: float) -> None:
        self._port = port
        self._distance = distance
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            match = _LENGTH.search(head)
            total = end + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < total:
                if b"100-continue" in head:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body = self._buffer[end + 4 : total]
            self._buffer = self._buffer[total:]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        target = _TARGET.search(head)
        if target is None:
            self._control(head.split(b" ", 2)[1].decode().split("/"))
            return
        name = _QUEUE.search(body)
        queue_name = (name[1] or name[2]).decode() if name else ""
        queue = QUEUES.setdefault(queue_name, StubQueue())
        action = target[1]
        if action == b"ReceiveMessage":
            self._receive(queue, body)
        elif action == b"DeleteMessageBatch":
            queue.delete([int(number) for number in _NUMBER.findall(body)])
            self._batch(body)
        elif action == b"DeleteMessage":
            queue.delete([int(number) for number in _NUMBER.findall(body)])
            self._answer(b"{}")
        elif action == b"ChangeMessageVisibilityBatch":
            if b'"VisibilityTimeout": 0' in body or b'"VisibilityTimeout":0' in body:
                queue.give_back([int(number) for number in _NUMBER.findall(body)])
            self._batch(body)
        elif action in (b"GetQueueUrl", b"CreateQueue"):
            url = f"http://127.0.0.1:{self._port}/000000000000/{queue_name}"
            self._answer(json.dumps({"QueueUrl": url}).encode())
        elif action == b"GetQueueAttributes":
            self._answer(b'{"Attributes":{"VisibilityTimeout":"3600"}}')
        else:
            self._answer(b'{"__type":"com.amazonaws.sqs#InvalidAction","message":"a stub"}', b"400 Bad Request")

    def _receive(self, queue: StubQueue, body: bytes) -> None:
        limit = _MAX.search(body)
        wait = _WAIT.search(body)
        template = DETAILED if b"MessageSystemAttributeNames" in body else PLAIN
        queue.counts["receives"] += 1
        timer: asyncio.TimerHandle | None = None

        def answer() -> None:
            taken = [] if self._transport.is_closing() else queue.take(int(limit[1]) if limit else 1)
            if timer is not None and not taken and timer.when() > asyncio.get_running_loop().time():
                queue.pollers.append(answer)  # another poller was faster
                return
            if timer is not None:
                timer.cancel()
            if answer in queue.pollers:
                queue.pollers.remove(answer)
            queue.counts["received"] += len(taken)
            queue.counts["empty_receives"] += not taken
            text = ",".join([template % (number, number, number) for number in taken])
            self._answer(f'{{"Messages":[{text}]}}'.encode() if taken else b"{}")

        if queue.waiting or queue.returned or wait is None or wait[1] == b"0":
            answer()
        else:
            timer = asyncio.get_running_loop().call_later(int(wait[1]), answer)
            queue.pollers.append(answer)

    def _batch(self, body: bytes) -> None:
        done = ",".join([f'{{"Id":"{entry.decode()}"}}' for entry in _ID.findall(body)])
        self._answer(f'{{"Successful":[{done}],"Failed":[]}}'.encode())

    def _control(self, path: list[str]) -> None:
        """``/load/QUEUE/COUNT`` or ``/counts/QUEUE``."""
        queue = QUEUES.setdefault(path[2], StubQueue())
        if path[1] == "load":
            queue.load(int(path[3]))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counts = {**queue.counts, "out": len(queue.out), "waiting": queue.waiting}
        self._answer(json.dumps({**counts, "stub_cpu": usage.ru_utime + usage.ru_stime}).encode())

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        answer = (
            b"HTTP/1.1 %b\r\nx-amzn-RequestId: 8c1f2d3e-0000-5000-8000-1234567890ab\r\n"
            b"Date: Tue, 07 Oct 2014 15:06:51 GMT\r\nContent-Type: application/x-amz-json-1.0\r\n"
            b"Content-Length: %d\r\nconnection: keep-alive\r\n\r\n%b" % (status, len(body), body)
        )
        if self._distance:
            asyncio.get_running_loop().call_later(self._distance, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def main(port: int, distance: float = 0.0) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(port, distance), "127.0.0.1", port, backlog=256
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *map(float, sys.argv[2:])))
