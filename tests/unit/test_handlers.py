"""SQSHandler against a scripted queue in memory, which fails as told; tests/integration has it with a real server."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from balog_celery.backoff import Backoff
from balog_celery.errors import AccessDenied, ConfigurationError, QueueError
from balog_celery.handlers import SQSHandler
from balog_celery.queues import MAX_MESSAGE_BYTES, EntryFailure, OutgoingMessage
from fakes import FakeQueue
from servers import wait_until

HOUR = 3600.0

Make = Callable[..., SQSHandler]


class LongBackoff(Backoff):
    """Waits for an hour."""

    def failed(self) -> float:
        return HOUR


@pytest.fixture
def queue() -> FakeQueue:
    """The queue that the test scripts."""
    return FakeQueue()


@pytest.fixture
def make(queue: FakeQueue) -> Iterator[Make]:
    """Makes handlers that send a line as it is, after an hour unless told otherwise; closes them at the end."""
    made: list[SQSHandler] = []

    def make(**arguments: Any) -> SQSHandler:
        handler = SQSHandler("topic", **{"queue": queue, "linger": HOUR, **arguments})
        handler.setFormatter(logging.Formatter("%(message)s"))
        made.append(handler)
        return handler

    yield make
    queue.on.clear()
    for handler in made:
        handler.close()


def log(handler: logging.Handler, message: str, name: str = "app") -> None:
    """Have *handler* handle a record, as a logger does."""
    handler.handle(logging.LogRecord(name, logging.INFO, __file__, 1, message, (), None))


def batches(queue: FakeQueue) -> list[list[str]]:
    """The bodies of each call of send."""
    return [[message.body for message in messages] for what, messages in queue.calls if what == "send"]


def bodies(queue: FakeQueue) -> list[str]:
    """What the queue has taken."""
    return [message.body for message in queue.sent]


def failing(times: int, failure: Callable[[Sequence[OutgoingMessage]], Any]) -> Callable[[Any], Any]:
    """A script for send: the first *times* calls go as *failure* says, the others well."""
    left = [times]

    def send(messages: Sequence[OutgoingMessage]) -> Any:
        left[0] -= 1
        return failure(messages) if left[0] >= 0 else None

    return send


def raising(error: Exception) -> Callable[[Any], Any]:
    """A failure of the whole call."""

    def fail(_: Any) -> Any:
        raise error

    return fail


def test_ten_records_make_a_batch(make: Make, queue: FakeQueue) -> None:
    """Sent at once; what is left waits for more."""
    handler = make()
    for number in range(25):
        log(handler, str(number))
    queue.wait_for(lambda: len(queue.sent) == 20)
    assert bodies(queue) == [str(number) for number in range(20)]
    assert all(len(batch) == 10 for batch in batches(queue))
    # The queue has a batch a moment before the handler knows.
    wait_until(lambda: handler.stats()["waiting"] == 5)


def test_a_record_waits_no_longer_than_linger(make: Make, queue: FakeQueue) -> None:
    """For others to fill its batch."""
    handler = make(linger=0.01)
    log(handler, "a")
    queue.wait_for(lambda: bodies(queue) == ["a"])


def test_a_batch_is_at_most_one_mebibyte(make: Make, queue: FakeQueue) -> None:
    """Together; a record of that size goes alone."""
    handler = make()
    sizes = [400_000, 400_000, 400_000, MAX_MESSAGE_BYTES, 1]
    for size in sizes:
        log(handler, "x" * size)
    assert handler.flush(60)
    assert [[len(body) for body in batch] for batch in batches(queue)] == [[400_000] * 2, [400_000], [sizes[3]], [1]]


def test_a_flush_sends_what_waits(make: Make, queue: FakeQueue) -> None:
    """And returns when it is sent."""
    handler = make()
    assert handler.flush(0)
    log(handler, "a")
    log(handler, "b")
    assert handler.flush(60)
    assert batches(queue) == [["a", "b"]]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 0, "waiting": 0}


def test_a_flush_in_vain_says_so(make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing is lost by it; the next one does not wait for the end of the back-off."""
    handler = make()
    handler._backoff = LongBackoff()
    queue.on["send"] = raising(QueueError("down"))
    log(handler, "a")
    assert not handler.flush(0.01)
    queue.wait_for(lambda: len(batches(queue)) == 1)
    assert handler.stats()["waiting"] == 1
    queue.on.clear()
    assert handler.flush(60)
    assert bodies(queue) == ["a"]
    assert "sending failed, and is tried again: down" in capfd.readouterr().err


@pytest.mark.parametrize("error", [QueueError("down", "InternalError"), AccessDenied("no", "AccessDenied"), OSError()])
def test_a_call_that_fails_is_made_again(make: Make, queue: FakeQueue, error: Exception) -> None:
    """With the same records, until it works; even a missing permission may be granted."""
    handler = make()
    queue.on["send"] = failing(2, raising(error))
    for number in range(10):
        log(handler, str(number))
    queue.wait_for(lambda: len(queue.sent) == 10)
    assert batches(queue) == [[str(number) for number in range(10)]] * 3


def test_entries_that_fail_are_sent_again(make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str]) -> None:
    """They alone."""
    handler = make()
    queue.on["send"] = failing(1, lambda _: [EntryFailure(1, "InternalError", "busy", False)])
    for message in "abc":
        log(handler, message)
    assert handler.flush(60)
    assert batches(queue) == [["a", "b", "c"], ["b"]]
    assert handler.stats() == {"sent": 3, "dropped": 0, "refused": 0, "waiting": 0}
    assert "InternalError: busy" in capfd.readouterr().err


def test_entries_that_are_at_fault_are_not_sent_again(
    make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are counted and told."""
    handler = make()
    queue.on["send"] = failing(
        1, lambda _: [EntryFailure(0, "InvalidMessageContents", "bad\n", True), EntryFailure(2, "Busy", "", False)]
    )
    for message in "abc":
        log(handler, message)
    assert handler.flush(60)
    assert batches(queue) == [["a", "b", "c"], ["c"]]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 1, "waiting": 0}
    assert "SQS refused a record: InvalidMessageContents: bad\\n (1 refused so far)" in capfd.readouterr().err


def test_one_bad_record_does_not_hold_up_the_others(make: Make, queue: FakeQueue) -> None:
    """Where SQS refuses a whole call because of it, each goes alone."""

    def send(messages: Sequence[OutgoingMessage]) -> Any:
        if any(message.body == "bad" for message in messages):
            raise QueueError("invalid characters", "InvalidMessageContents")

    handler = make()
    queue.on["send"] = send
    for message in ["a", "bad", "c"]:
        log(handler, message)
    assert handler.flush(60)
    assert bodies(queue) == ["a", "c"]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 1, "waiting": 0}


def test_a_record_larger_than_a_message_is_refused(
    make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """At once; its size counts in bytes, not characters."""
    handler = make()
    log(handler, "x" * (MAX_MESSAGE_BYTES + 1))
    log(handler, "é" * (MAX_MESSAGE_BYTES // 2 + 1))
    assert handler.stats() == {"sent": 0, "dropped": 0, "refused": 2, "waiting": 0}
    assert f"a record of {MAX_MESSAGE_BYTES + 1} bytes is larger" in capfd.readouterr().err
    assert handler.flush(60)
    assert not batches(queue)


def test_a_full_buffer_drops_the_new_record(make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str]) -> None:
    """The first ones, often the cause, are kept; the application does not wait."""
    handler = make(capacity=3)
    for message in "abcde":
        log(handler, message)
    assert handler.stats() == {"sent": 0, "dropped": 2, "refused": 0, "waiting": 3}
    assert "the buffer is full: 1 records were dropped so far" in capfd.readouterr().err
    assert handler.flush(60)
    log(handler, "f")
    assert handler.flush(60)
    assert bodies(queue) == ["a", "b", "c", "f"]


def test_the_buffer_is_bounded_in_bytes_too(make: Make, queue: FakeQueue) -> None:
    """64 MiB, whatever its capacity in records."""
    queue.on["send"] = raising(QueueError("down"))
    handler = make()
    for _ in range(100):
        log(handler, "x" * MAX_MESSAGE_BYTES)
    assert 64 <= handler.stats()["waiting"] <= 65  # one of them may be on its way
    assert handler.stats()["dropped"] == 100 - handler.stats()["waiting"]
    assert not handler.flush(0)


def test_what_was_sent_leaves_the_buffer(make: Make, queue: FakeQueue) -> None:
    """More than 64 MiB may pass through it."""
    handler = make()
    for _ in range(70):
        log(handler, "x" * MAX_MESSAGE_BYTES)
        assert handler.flush(60)
    assert handler.stats() == {"sent": 70, "dropped": 0, "refused": 0, "waiting": 0}


def test_what_cannot_be_sent_before_the_end_is_counted(
    make: Make, queue: FakeQueue, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush in vain is not repeated; later records are dropped too."""
    queue.on["send"] = raising(QueueError("down"))
    handler = make()
    log(handler, "a")
    log(handler, "b")
    assert not handler.flush(0.01)
    monkeypatch.setattr(handler, "flush", lambda: pytest.fail("it waits once more"))
    handler.close()
    handler.close()
    assert "2 records were not sent before the end" in capfd.readouterr().err
    log(handler, "c")
    assert handler.stats() == {"sent": 0, "dropped": 3, "refused": 0, "waiting": 0}


def test_close_sends_what_waits(make: Make, queue: FakeQueue) -> None:
    """And ends the thread."""
    handler = make()
    log(handler, "a")
    thread = handler._thread
    assert thread is not None
    assert thread.daemon
    handler.close()
    assert bodies(queue) == ["a"]
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["boto3", "botocore.endpoint", "urllib3.connectionpool", "s3transfer"])
def test_records_of_what_it_sends_with_are_ignored(make: Make, queue: FakeQueue, name: str) -> None:
    """They would make ever more of themselves."""
    handler = make()
    log(handler, "a", name)
    log(handler, "b", "botocorelike")
    assert handler.flush(60)
    assert bodies(queue) == ["b"]


def test_its_own_thread_cannot_feed_it(make: Make, queue: FakeQueue) -> None:
    """Nor wait for a lock that logging holds while it flushes at exit."""
    handler = make()

    def send(_: Any) -> None:
        log(handler, "from the thread")

    queue.on["send"] = send
    log(handler, "a")
    handler.acquire()
    try:
        assert handler.flush(60)
    finally:
        handler.release()
    assert bodies(queue) == ["a"]
    assert handler.stats() == {"sent": 1, "dropped": 0, "refused": 0, "waiting": 0}


def test_the_formatter_is_schema_formatter_unless_another_is_set(queue: FakeQueue) -> None:
    """So that plain lines are records on the queue."""
    handler = SQSHandler("topic", queue=queue, linger=HOUR)
    log(handler, "text")
    handler.close()
    assert json.loads(queue.sent[0].body)["payload"]["message"] == "text"


def test_a_formatter_that_fails_does_not_fail_the_application(
    make: Make, queue: FakeQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    """The standard library tells it on standard error."""
    handler = make()
    handler.setFormatter(logging.Formatter("%(nothing)s"))
    log(handler, "a")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.stats()["waiting"] == 0


@pytest.mark.parametrize("arguments", [{"capacity": 0}, {"linger": -1}])
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(ConfigurationError):
        SQSHandler("topic", **arguments)


def test_its_repr_shows_no_secret() -> None:
    """Only the topic and the level."""
    handler = SQSHandler("topic", aws_access_key_id="AKIA", aws_secret_access_key="hidden", level="ERROR")
    assert repr(handler) == "<SQSHandler topic (ERROR)>"
    handler.close()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_starts_afresh(make: Make, queue: FakeQueue) -> None:
    """What is buffered is sent once, by the parent; the child has a thread of its own."""
    handler = make()
    log(handler, "of the parent")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        log(handler, "of the child")
        handler.flush(60)
        os.write(writer, json.dumps(bodies(queue)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as pipe:
        assert json.load(pipe) == ["of the child"]
    assert handler.flush(60)
    assert bodies(queue) == ["of the parent"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a process of its own, with the fakes at hand."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=60, check=True
    )


def test_boto3_is_imported_when_something_is_sent() -> None:
    """Not by making a handler, nor by logging."""
    done = python(
        """
        import logging, sys
        from balog_celery import SQSHandler
        handler = SQSHandler("topic", linger=3600)
        assert not {"boto3", "botocore", "celery"} & sys.modules.keys()
        """
    )
    assert done.stderr == ""


def test_what_waits_is_sent_at_exit() -> None:
    """Without a word of the application."""
    done = python(
        """
        import logging
        from fakes import FakeQueue
        from balog_celery import SQSHandler, get_logger
        queue = FakeQueue()
        queue.on["send"] = lambda messages: print(len(messages), "sent")
        logging.basicConfig(handlers=[SQSHandler("topic", queue=queue, linger=3600)], level="INFO")
        get_logger().info("done", payload={"cls_type": "null"})
        logging.info("bye")
        """
    )
    assert done.stdout == "2 sent\n"
    assert done.stderr == ""


def test_an_exit_does_not_wait_for_a_queue_that_is_stuck() -> None:
    """At most 5 s; the loss is told."""
    done = python(
        """
        import logging, threading, time
        from fakes import FakeQueue
        from balog_celery import SQSHandler
        queue = FakeQueue()
        queue.on["send"] = lambda messages: threading.Event().wait()
        logging.basicConfig(handlers=[SQSHandler("topic", queue=queue)], level="INFO")
        logging.info("bye")
        """
    )
    assert "1 records were not sent before the end" in done.stderr
