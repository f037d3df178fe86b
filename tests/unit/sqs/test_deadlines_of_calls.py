"""How long calls to SQS are waited for: on the fast path, and through boto3's client."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from balog_celery.errors import QueueError
from balog_celery.sqs import clients, exchange
from balog_celery.sqs.deadlines import MOST_LEFT_BEHIND, Cancellation, within
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.payloads import Pointer, write_pointer
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import KEYS, URL, PiecesServer, Server, serving
from scripted_sqs.script import Fault
from scripted_sqs.server import serving_sqs
from servers import wait_until


@pytest.fixture(params=["direct", "client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Calls take the fast path, or boto3's client, as behind a proxy."""
    if request.param == "client":
        monkeypatch.setattr(clients, "needs_client", lambda _client: "a test")
    yield request.param
    clients.clients.forget()


def queue_at(endpoint: str, topic: str = URL) -> SQSQueue:
    return SQSQueue(topic, region="us-east-1", endpoint_url=endpoint, **KEYS)


def wait_until_no_call_goes_on() -> None:
    """No thread is left behind."""
    wait_until(lambda: not any(thread.name == "sqs-call" for thread in threading.enumerate()))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nX-Long: ", *[b"x"] * 1000],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 1000],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 1000],
    ],
    ids=["headers", "content", "chunks"],
)
def test_an_answer_that_drips_in_is_given_up(pieces: list[bytes]) -> None:
    """Each piece comes quickly, but an extension that takes long lets visibility timeouts end."""
    with serving(PiecesServer(*pieces, pause=0.05)) as server:
        before = time.monotonic()
        with pytest.raises(QueueError, match=r"no whole answer within 0\.5 s"):
            queue_at(server.endpoint).change_visibility(["a"], 2)
        wait_until_no_call_goes_on()
        assert time.monotonic() - before < 20


@pytest.mark.usefixtures("way")
def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer is given up before it fills the memory."""
    for module in (exchange, clients):
        monkeypatch.setattr(module, "LARGEST", 1_000_000)
    with serving(PiecesServer(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65_536] * 10_000, pause=0)) as server:
        with pytest.raises(QueueError, match=r"the answer did not come from SQS.*it is too large"):
            queue_at(server.endpoint).receive(10, 0, 600)
        wait_until_no_call_goes_on()


@pytest.mark.usefixtures("way")
def test_an_extension_has_a_share_of_the_visibility_timeout() -> None:
    """One that hangs leaves time for others (test_visibility.py), and is not repeated by itself."""
    with serving(Server()) as server:
        server.unanswered = {"ChangeMessageVisibilityBatch"}
        for seconds, share in ((2, "0.5"), (6, "1")):
            with pytest.raises(QueueError, match=f"no whole answer within {share} s"):
                queue_at(server.endpoint).change_visibility(["a"], seconds)
        assert len(server.seen) == 2


def test_the_attempts_of_an_extension_share_its_time() -> None:
    """The client's attempt has what the direct one, which fails late, has left."""
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    with serving(PiecesServer(begun, pause=0.35)) as server:
        with pytest.raises(QueueError, match="no whole answer") as caught:
            queue_at(server.endpoint).change_visibility(["a"], 2)
        assert float(re.findall(r"within ([^ ]+) s", str(caught.value))[0]) <= 0.15
    clients.clients.forget()


@pytest.mark.usefixtures("way")
def test_a_poll_ends_when_polling_stops() -> None:
    """At once, as do later ones; a receive that does not wait still works."""
    with serving_sqs() as sqs, ThreadPoolExecutor(1) as pool:
        queue = queue_at(sqs.endpoint, "events")
        queue.create()
        poll = pool.submit(queue.receive, 10, 20, 600)
        wait_until(lambda: sqs.script.calls_of("ReceiveMessage"))
        before = time.monotonic()
        queue.stop_polling()
        with pytest.raises(QueueError):
            poll.result(60)
        with pytest.raises(QueueError):
            queue.receive(10, 20, 600)
        wait_until_no_call_goes_on()  # its connection is closed, so that a server can notice it
        assert time.monotonic() - before < 10
        assert queue.receive(10, 0, 600) == []


@pytest.mark.usefixtures("way")
def test_what_a_poll_was_about_to_bring_to_a_fifo_queue_comes_with_the_next_receive() -> None:
    """It would block its group for its visibility timeout."""
    with serving_sqs() as sqs, ThreadPoolExecutor(1) as pool:
        queue = queue_at(sqs.endpoint, "events.fifo")
        queue.create()
        queue.send([OutgoingMessage("first", group="a")])
        # Given a poll whose answer does not come
        sqs.script.add(Fault("ReceiveMessage", hang=True, carried_out=True))
        poll = pool.submit(queue.receive, 10, 20, 600)
        wait_until(lambda: sqs.script.calls_of("ReceiveMessage"))
        # When polling stops
        queue.stop_polling()
        with pytest.raises(QueueError):
            poll.result(60)
        # Then the next receive is the same attempt
        (message,) = queue.receive(10, 0, 600)
        assert (message.body, message.receive_count) == ("first", 1)


def test_calls_that_never_end_are_limited() -> None:
    """Each of them has a thread; beyond the limit calls fail at once, until some of them have ended."""
    wait_until_no_call_goes_on()
    end = threading.Event()

    def hang() -> bool:
        return end.wait(60)

    try:
        for _ in range(MOST_LEFT_BEHIND):
            with pytest.raises(TimeoutError, match="no whole answer"):
                within(0.0, Cancellation(), "sqs", hang)
        with pytest.raises(TimeoutError, match=f"{MOST_LEFT_BEHIND} earlier calls have not ended"):
            within(60.0, Cancellation(), "sqs", hang)
        assert within(60.0, Cancellation(), "s3", lambda: True)  # another service goes on
    finally:
        end.set()
    wait_until_no_call_goes_on()
    assert within(60.0, Cancellation(), "sqs", hang) is True


def test_a_body_in_s3_is_read_while_its_message_is_invisible_or_not_now() -> None:
    """It drips in, so that each read succeeds; the message would be received again before the engine could hold it."""
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 1000]
    with serving_sqs() as sqs, serving(PiecesServer(*pieces, pause=0.05)) as s3:
        queue = SQSQueue(
            "events",
            region="us-east-1",
            endpoint_url=sqs.endpoint,
            s3_endpoint_url=s3.endpoint,
            payload_buckets=["b"],
            **KEYS,
        )
        queue_at(sqs.endpoint, "events").create()
        queue.send([OutgoingMessage(write_pointer(Pointer("b", "key"))), OutgoingMessage("in SQS")])
        before = time.monotonic()
        assert [message.body for message in queue.receive(10, 0, 6)] == ["in SQS"]
        assert time.monotonic() - before < 20
    clients.clients.forget()
