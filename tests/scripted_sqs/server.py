"""A scripted SQS over HTTP, in the AWS JSON 1.0 protocol, on as many ports as are wanted."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from .calls import Foreign, HungUp, Steps, Store, in_bytes, read, steps
from .errors import ApiError
from .script import Script
from .store import SqsStore

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_TARGET = re.compile(rb"\r\nx-amz-target:\s*AmazonSQS\.(\w+)", re.IGNORECASE)

#: Answers what is asked of a port without being a call of the SQS API: the path and the body.
Control = Callable[[str, bytes], Any]


class ScriptedSqs:
    """A store with its script and its ports; it runs in one event loop.

    :param control: answers requests that are none of the SQS API.
    :param distance: seconds by which every answer comes later, as if it were far away.
    """

    def __init__(
        self, store: Store, script: Script, control: Control = lambda _path, _body: {}, distance: float = 0.0
    ) -> None:
        self.store = store
        self.script = script
        self.control = control
        self.distance = distance
        self.connections: set[asyncio.Transport] = set()
        self._changed: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        store.listen(self.wake)

    async def listen(self, port: int = 0, *, faulty: bool = True) -> asyncio.Server:
        """Open a port on the loopback interface. :param faulty: whether its calls may go wrong."""
        self._loop = asyncio.get_running_loop()
        return await self._loop.create_server(lambda: _Connection(self, faulty), "127.0.0.1", port, backlog=256)

    async def close(self) -> None:
        """End all connections and the calls on them."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for transport in list(self.connections):
            transport.abort()
        await asyncio.sleep(0.01)

    def wake(self) -> None:
        """Have the calls that wait look again; from any thread."""
        if self._changed and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    def watch(self) -> asyncio.Event:
        """Return what every change sets from now on, for :meth:`finish`."""
        changed = asyncio.Event()
        self._changed.add(changed)
        return changed

    async def finish(self, running: Steps, wait: float | None, changed: asyncio.Event) -> dict[str, Any]:
        """Go on with a call that waits, until it has its answer."""
        try:
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait)
                changed.clear()
                try:
                    wait = next(running)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
        finally:
            self._changed.discard(changed)


class _Connection(asyncio.Protocol):
    """A keep-alive connection, whose requests come one after the other."""

    def __init__(self, sqs: ScriptedSqs, faulty: bool) -> None:
        self._sqs = sqs
        self._faulty = faulty
        self._buffer = b""
        self._waiting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sqs.connections.add(transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while self._waiting is None and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
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

    def connection_lost(self, _error: Exception | None) -> None:
        self._sqs.connections.discard(self._transport)
        self._sqs.wake()

    def _request(self, head: bytes, body: bytes) -> None:
        target = _TARGET.search(head)
        if target is None:
            self._write(200, in_bytes(self._sqs.control(head.split(b" ", 2)[1].decode(), body)))
            return
        running = steps(
            self._sqs.store,
            self._sqs.script,
            target[1].decode(),
            read(body),
            _Headers(head) if self._faulty else {},
            self._transport.is_closing,
            faulty=self._faulty,
        )
        try:
            wait = next(running)
        except Exception as end:
            self._end(end)
        else:
            # It watches at once: the task begins later, and what another connection changes until then must wake it.
            changed = self._sqs.watch()
            self._waiting = asyncio.get_running_loop().create_task(self._wait(running, wait, changed))

    async def _wait(self, running: Steps, wait: float | None, changed: asyncio.Event) -> None:
        try:
            self._write(200, in_bytes(await self._sqs.finish(running, wait, changed)))
        except Exception as end:
            self._end(end)
        self._waiting = None
        self.data_received(b"")

    def _end(self, end: Exception) -> None:
        """Answer a call by the exception that ended it."""
        if isinstance(end, StopIteration):
            self._write(200, in_bytes(end.value))
        elif isinstance(end, ApiError):
            self._write(end.status, in_bytes(end.body), f"x-amzn-query-error: {end.query_error}\r\n".encode())
        elif isinstance(end, Foreign):
            self._write(200, end.content)
        elif isinstance(end, HungUp):
            self._transport.close()
        else:
            self._write(500, in_bytes(ApiError("InternalFailure", repr(end)).body))

    def _write(self, status: int, body: bytes, headers: bytes = b"") -> None:
        answer = (
            b"HTTP/1.1 %d X\r\nx-amzn-RequestId: 8c1f2d3e-0000-5000-8000-1234567890ab\r\n"
            b"Content-Type: application/x-amz-json-1.0\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, headers, len(body), body)
        )
        if self._sqs.distance:
            asyncio.get_running_loop().call_later(self._sqs.distance, self._transport.write, answer)
        else:
            self._transport.write(answer)


class _Headers(Mapping[str, str]):
    """The headers of a request by their names in lower case, parsed once someone looks, which few do."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    @cached_property
    def _parsed(self) -> dict[str, str]:
        lines = (line.partition(":") for line in self._head.decode("latin-1").split("\r\n")[1:])
        return {name.strip().lower(): value.strip() for name, _, value in lines}

    def __getitem__(self, name: str) -> str:
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed)

    def __len__(self) -> int:
        return len(self._parsed)


class RunningSqs:
    """A scripted SQS that serves this process and its children from a thread."""

    def __init__(self) -> None:
        self.store = SqsStore()
        self.script = Script()
        self.endpoint = ""

    def advance(self, seconds: float) -> None:
        """Move the server's clock on."""
        self.store.advance(seconds)


@contextmanager
def serving_sqs(upstream: Store | None = None) -> Iterator[RunningSqs]:
    """A scripted SQS on a port of its own, as long as the block runs.

    :param upstream: what answers instead of a store of its own.
    """
    running, loop, ready = RunningSqs(), asyncio.new_event_loop(), threading.Event()
    sqs = ScriptedSqs(upstream or running.store, running.script)

    def run() -> None:
        server = loop.run_until_complete(sqs.listen())
        running.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        loop.run_forever()
        server.close()
        loop.run_until_complete(sqs.close())
        loop.close()

    thread = threading.Thread(target=run, name="scripted-sqs")
    thread.start()
    assert ready.wait(20)
    try:
        yield running
    finally:
        running.script.release()
        sqs.wake()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
