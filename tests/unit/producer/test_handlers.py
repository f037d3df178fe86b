"""SQSHandler with a scripted queue in memory; the integration tests have a real server."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from logging.handlers import MemoryHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.backoff import Backoff
from balog_celery.errors import AccessDenied, ConfigurationError, QueueError
from balog_celery.producer import sender
from balog_celery.producer.handlers import SQSHandler
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, EntryFailure, OutgoingMessage
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

HOUR = 3600.0

Make = Callable[..., SQSHandler]


class LongBackoff(Backoff):
    """A back-off of an hour."""

    def failed(self) -> float:
        return HOUR


@pytest.fixture
def queue() -> ObservedQueue:
    """The queue that the test scripts."""
    return ObservedQueue()


@pytest.fixture
def make(queue: ObservedQueue) -> Iterator[Make]:
    """Make handlers that send lines unchanged, with a linger of an hour by default, and close them at the end."""
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


SetBackoff = Callable[[Backoff], None]


@pytest.fixture
def backoff(monkeypatch: pytest.MonkeyPatch) -> SetBackoff:
    """Return a function that sets the back-off of handlers made from now on."""
    return lambda new: monkeypatch.setattr(sender, "Backoff", lambda *_: new)


def log(handler: logging.Handler, message: str, name: str = "app") -> None:
    """Have *handler* handle a record, as a logger does."""
    handler.handle(logging.LogRecord(name, logging.INFO, __file__, 1, message, (), None))


def batches(queue: ObservedQueue) -> list[list[str]]:
    """Return the bodies of each call of send."""
    return [[message.body for message in messages] for what, messages in queue.calls if what == "send"]


def bodies(queue: ObservedQueue) -> list[str]:
    """Return the bodies that the queue has accepted."""
    return [message.body for message in queue.sent]


def failing(times: int, failure: Callable[[Sequence[OutgoingMessage]], Any]) -> Callable[[Any], Any]:
    """Make a script for send: the first *times* calls fail with *failure*."""
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


def test_ten_records_make_a_batch(make: Make, queue: ObservedQueue) -> None:
    """Ten records are sent at once as a batch, and the rest waits for more."""
    handler = make()
    for number in range(25):
        log(handler, str(number))
    queue.wait_for(lambda: len(queue.sent) == 20)
    assert bodies(queue) == [str(number) for number in range(20)]
    assert all(len(batch) == 10 for batch in batches(queue))
    # The queue has a batch a moment before the handler knows.
    wait_until(lambda: handler.stats()["waiting"] == 5)


def test_a_record_waits_no_longer_than_linger(make: Make, queue: ObservedQueue) -> None:
    """A record is sent after *linger* at the latest."""
    handler = make(linger=0.01)
    log(handler, "a")
    queue.wait_for(lambda: bodies(queue) == ["a"])


def test_a_batch_is_at_most_one_mebibyte(make: Make, queue: ObservedQueue) -> None:
    """A batch is at most 1 MiB; a record of that size is sent alone."""
    handler = make()
    sizes = [400_000, 400_000, 400_000, MAX_MESSAGE_BYTES, 1]
    for size in sizes:
        log(handler, "x" * size)
    assert handler.flush(60)
    assert [[len(body) for body in batch] for batch in batches(queue)] == [[400_000] * 2, [400_000], [sizes[3]], [1]]


def test_a_flush_sends_what_waits(make: Make, queue: ObservedQueue) -> None:
    """A flush sends the buffer and returns when that is done."""
    handler = make()
    assert handler.flush(0)
    log(handler, "a")
    log(handler, "b")
    assert handler.flush(60)
    assert batches(queue) == [["a", "b"]]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}


def test_a_flush_in_vain_says_so(
    backoff: SetBackoff, make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """A flush that times out returns False and loses nothing; the next one interrupts the back-off."""
    backoff(LongBackoff())
    handler = make()
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
def test_a_call_that_fails_is_made_again(make: Make, queue: ObservedQueue, error: Exception) -> None:
    """A failed call is retried with the same records until it succeeds, also after a missing permission."""
    handler = make()
    queue.on["send"] = failing(2, raising(error))
    for number in range(10):
        log(handler, str(number))
    queue.wait_for(lambda: len(queue.sent) == 10)
    assert batches(queue) == [[str(number) for number in range(10)]] * 3


def test_entries_that_fail_are_sent_again(make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]) -> None:
    """Only the failed entries of a batch are sent again."""
    handler = make()
    queue.on["send"] = failing(1, lambda _: [EntryFailure(1, "InternalError", "busy", False)])
    for message in "abc":
        log(handler, message)
    assert handler.flush(60)
    assert batches(queue) == [["a", "b", "c"], ["b"]]
    assert handler.stats() == {"sent": 3, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}
    assert "InternalError: busy" in capfd.readouterr().err


def test_entries_that_are_at_fault_are_not_sent_again(
    make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """Entries with a fault of the sender are counted, reported and not sent again."""
    handler = make()
    queue.on["send"] = failing(
        1, lambda _: [EntryFailure(0, "InvalidMessageContents", "bad\n", True), EntryFailure(2, "Busy", "", False)]
    )
    for message in "abc":
        log(handler, message)
    assert handler.flush(60)
    assert batches(queue) == [["a", "b", "c"], ["c"]]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 1, "withheld": 0, "waiting": 0}
    assert (
        "SQS refused a record: InvalidMessageContents: bad\\n (0 dropped and 1 refused so far)"
        in capfd.readouterr().err
    )


class NoBackoff(Backoff):
    """A back-off of zero."""

    def failed(self) -> float:
        return 0.0


def test_a_record_that_is_blamed_for_an_unknown_reason_is_given_up_in_the_end(
    backoff: SetBackoff, make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """A record that SQS blames with an unknown code is given up after 20 tries."""
    backoff(NoBackoff())
    handler = make()

    def send(messages: Sequence[OutgoingMessage]) -> Any:
        return [
            EntryFailure(index, "NewFault", "", True)
            for index, message in enumerate(messages)
            if message.body == "bad" or (message.body == "throttled" and len(batches(queue)) < 15)
        ]

    queue.on["send"] = send
    for message in ["a", "bad", "throttled"]:
        log(handler, message)
    assert handler.flush(60)
    assert batches(queue) == [["a", "bad", "throttled"], *[["bad", "throttled"]] * 14, *[["bad"]] * 5]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 1, "withheld": 0, "waiting": 0}
    assert "SQS refused a record: NewFault" in capfd.readouterr().err


def test_a_record_is_sent_for_as_long_as_sqs_has_trouble(backoff: SetBackoff, make: Make, queue: ObservedQueue) -> None:
    """A record is sent again for as long as SQS has an outage."""
    backoff(NoBackoff())
    handler = make()
    queue.on["send"] = failing(200, lambda _: [EntryFailure(0, "InternalError", "", False)])
    log(handler, "a")
    assert handler.flush(60)
    assert handler.stats() == {"sent": 1, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}


def test_one_bad_record_does_not_hold_up_the_others(make: Make, queue: ObservedQueue) -> None:
    """If SQS refuses a call because of one record, each record is sent by itself."""

    def send(messages: Sequence[OutgoingMessage]) -> Any:
        if any(message.body == "bad" for message in messages):
            raise QueueError("invalid characters", "InvalidMessageContents")

    handler = make()
    queue.on["send"] = send
    for message in ["a", "bad", "c"]:
        log(handler, message)
    assert handler.flush(60)
    assert bodies(queue) == ["a", "c"]
    assert handler.stats() == {"sent": 2, "dropped": 0, "refused": 1, "withheld": 0, "waiting": 0}


def test_a_record_larger_than_a_message_is_refused(
    make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """A record larger than a message, in bytes, is refused at once."""
    handler = make()
    log(handler, "x" * (MAX_MESSAGE_BYTES + 1))
    log(handler, "é" * (MAX_MESSAGE_BYTES // 2 + 1))
    assert handler.stats() == {"sent": 0, "dropped": 0, "refused": 2, "withheld": 0, "waiting": 0}
    assert f"a record of {MAX_MESSAGE_BYTES + 1} bytes is larger" in capfd.readouterr().err
    assert handler.flush(60)
    assert not batches(queue)


def test_a_full_buffer_drops_the_new_record(
    make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full buffer drops the new record and keeps the first ones; the application does not wait."""
    handler = make(capacity=3)
    for message in "abcde":
        log(handler, message)
    assert handler.stats() == {"sent": 0, "dropped": 2, "refused": 0, "withheld": 0, "waiting": 3}
    assert "the buffer is full (1 dropped and 0 refused so far)" in capfd.readouterr().err
    assert handler.flush(60)
    log(handler, "f")
    assert handler.flush(60)
    assert bodies(queue) == ["a", "b", "c", "f"]


def test_the_buffer_is_bounded_in_bytes_too(make: Make, queue: ObservedQueue) -> None:
    """The buffer holds at most 64 MiB, whatever its capacity in records."""
    queue.on["send"] = raising(QueueError("down"))
    handler = make()
    for _ in range(100):
        log(handler, "x" * MAX_MESSAGE_BYTES)
    assert 64 <= handler.stats()["waiting"] <= 65  # one of them may be on its way
    assert handler.stats()["dropped"] == 100 - handler.stats()["waiting"]
    assert not handler.flush(0)


def test_what_was_sent_leaves_the_buffer(make: Make, queue: ObservedQueue) -> None:
    """Sent records leave the buffer, so more than 64 MiB may pass through it."""
    handler = make()
    for _ in range(70):
        log(handler, "x" * MAX_MESSAGE_BYTES)
        assert handler.flush(60)
    assert handler.stats() == {"sent": 70, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}


def test_what_cannot_be_sent_before_the_end_is_counted(
    make: Make, queue: ObservedQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    """Records that cannot be sent before the end are counted, and a flush in vain is not repeated."""
    queue.on["send"] = raising(QueueError("down"))
    handler = make(flush_timeout=HOUR)
    log(handler, "a")
    log(handler, "b")
    assert not handler.flush(0.01)
    handler.close()  # or the test would not end
    handler.close()
    assert capfd.readouterr().err.count("2 records were not sent before the end (2 dropped and 0 refused so far)") == 1
    assert handler.stats() == {"sent": 0, "dropped": 2, "refused": 0, "withheld": 0, "waiting": 0}


def test_a_record_that_is_sent_after_it_was_dropped_is_counted_once(make: Make, queue: ObservedQueue) -> None:
    """A record that was sent after it counted as dropped has one outcome."""
    go_on, gone_on = threading.Event(), threading.Event()

    def send(_: Any) -> None:
        go_on.wait(60)
        gone_on.set()

    queue.on["send"] = send
    handler = make(flush_timeout=0.01)
    log(handler, "a")
    handler.close()
    assert handler.stats() == {"sent": 0, "dropped": 1, "refused": 0, "withheld": 0, "waiting": 0}
    go_on.set()
    queue.wait_for(lambda: bodies(queue) == ["a"])
    wait_until(lambda: not any(thread.name == "balog-sqs-handler-topic" for thread in threading.enumerate()))
    assert gone_on.is_set()
    assert handler.stats() == {"sent": 0, "dropped": 1, "refused": 0, "withheld": 0, "waiting": 0}


@given(st.lists(st.lists(st.sampled_from(["ok", "again", "bad", "call", "bad call"]), min_size=10, max_size=10)))
def test_each_record_has_one_outcome(script: list[list[str]]) -> None:
    """For any answers of SQS, each record counts once, as sent or refused."""
    answers = iter(script)
    queue = ObservedQueue()

    def send(messages: Sequence[OutgoingMessage]) -> Any:
        answer = next(answers, [])
        if "call" in answer[:1]:
            raise QueueError("down")
        if "bad call" in answer[:1]:
            raise QueueError("no", "InvalidMessageContents")
        codes = {"again": ("InternalError", False), "bad": ("InvalidMessageContents", True)}
        failures = []
        for index, (_, kind) in enumerate(zip(messages, answer, strict=False)):
            if kind in codes:
                failures.append(EntryFailure(index, codes[kind][0], "", codes[kind][1]))
        return failures

    queue.on["send"] = send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender, "Backoff", lambda *_: NoBackoff())
        handler = SQSHandler("topic", queue=queue, linger=0)
        for _ in range(25):
            log(handler, "a")
        assert handler.flush(60)
        stats = handler.stats()
        handler.close()
    assert stats["sent"] == len(queue.sent)
    assert stats["sent"] + stats["refused"] == 25
    assert stats["dropped"] == stats["waiting"] == 0


def test_close_sends_what_waits(make: Make, queue: ObservedQueue) -> None:
    """Closing sends the buffer and ends the thread."""

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "balog-sqs-handler-topic"]

    handler = make()
    before = threads()
    log(handler, "a")
    (thread,) = [thread for thread in threads() if thread not in before]
    assert thread.daemon
    handler.close()
    assert bodies(queue) == ["a"]
    thread.join(60)
    assert not thread.is_alive()


def test_a_closed_handler_opens_again_when_it_is_used(make: Make, queue: ObservedQueue) -> None:
    """A closed handler opens again when it is used, as FileHandler does."""
    handler = make()
    for message in "abc":
        log(handler, message)
        handler.close()
    assert bodies(queue) == ["a", "b", "c"]
    assert handler.stats() == {"sent": 3, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}


@pytest.mark.parametrize("name", ["boto3", "botocore.endpoint", "urllib3.connectionpool", "s3transfer"])
def test_records_of_what_it_sends_with_are_ignored(make: Make, queue: ObservedQueue, name: str) -> None:
    """Records of boto3 and its libraries are ignored, as sending them would log more."""
    handler = make()
    log(handler, "a", name)
    log(handler, "b", "botocorelike")
    assert handler.flush(60)
    assert bodies(queue) == ["b"]


def test_its_own_thread_cannot_feed_it(make: Make, queue: ObservedQueue) -> None:
    """The handler's thread neither logs to itself nor waits for logging's lock at exit."""
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
    assert handler.stats() == {"sent": 1, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}


def test_its_thread_ships_what_others_have_logged(make: Make, queue: ObservedQueue) -> None:
    """A record that a MemoryHandler gives the handler in its own thread, but another made, is shipped."""
    handler = make()
    memory = MemoryHandler(100, target=handler)

    def send(_: Any) -> None:
        memory.flush()

    queue.on["send"] = send
    log(memory, "kept")
    log(handler, "a")
    assert handler.flush(60)
    assert handler.flush(60)
    assert bodies(queue) == ["a", "kept"]


def test_the_formatter_is_schema_formatter_unless_another_is_set(queue: ObservedQueue) -> None:
    """The default formatter is SchemaFormatter, so that plain lines are records on the queue."""
    handler = SQSHandler("topic", queue=queue, linger=HOUR)
    log(handler, "text")
    handler.close()
    assert json.loads(queue.sent[0].body)["payload"]["message"] == "text"


def test_a_formatter_that_fails_does_not_fail_the_application(
    make: Make, queue: ObservedQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing formatter is reported by the standard library and does not raise in the application."""
    handler = make()
    handler.setFormatter(logging.Formatter("%(nothing)s"))
    log(handler, "a")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.stats() == {"sent": 0, "dropped": 0, "refused": 1, "withheld": 0, "waiting": 0}


@pytest.mark.parametrize("arguments", [{"capacity": 0}, {"linger": -1}, {"flush_timeout": -1}])
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    """Bad arguments are refused when the handler is made."""
    with pytest.raises(ConfigurationError):
        SQSHandler("topic", **arguments)


def test_group_and_attributes_of_any_type_become_texts(make: Make) -> None:
    """Numbers as group, deduplication id and attributes become texts, and None means none: the application goes on."""
    queue = ObservedQueue("orders.fifo")
    handler = make(
        queue=queue,
        group=lambda record: 7 if record.name == "a" else None,
        deduplication_id=lambda record: int(record.msg),
        attributes=lambda record: {"order": 1041, "tenant": None, "kind": "test"},
    )
    log(handler, "1", "a")
    log(handler, "2", "b")
    assert handler.flush(60)
    assert [(message.group, message.deduplication_id) for message in queue.sent] == [("7", "1"), ("balog", "2")]
    assert queue.sent[0].attributes == {"order": "1041", "kind": "test"}


def test_its_repr_shows_no_secret() -> None:
    """The repr shows the topic and the level, and no secret."""
    handler = SQSHandler("topic", aws_access_key_id="AKIA", aws_secret_access_key="hidden", level="ERROR")
    assert repr(handler) == "<SQSHandler topic (ERROR)>"
    handler.close()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_starts_afresh(make: Make, queue: ObservedQueue) -> None:
    """The parent sends what was buffered before a fork; the child has an empty buffer and its own thread."""
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
    """Run *code* in a process of its own, with the scripted SQS at hand."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=60, check=True
    )


def test_boto3_is_imported_when_something_is_sent() -> None:
    """boto3 is imported at the first send, not by making a handler or logging."""
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
    """Buffered records are sent at exit, without a call by the application."""
    done = python(
        """
        import logging
        from scripted_sqs.observed import ObservedQueue
        from balog_celery import SQSHandler, get_logger
        queue = ObservedQueue()
        queue.on["send"] = lambda messages: print(len(messages), "sent")
        logging.basicConfig(handlers=[SQSHandler("topic", queue=queue, linger=3600)], level="INFO")
        get_logger().info("done", payload={"cls_type": "null"})
        logging.info("bye")
        """
    )
    assert done.stdout == "2 sent\n"
    assert done.stderr == ""


def test_an_exit_does_not_wait_for_a_queue_that_is_stuck() -> None:
    """An exit waits at most 5 s for a stuck queue, and reports the loss."""
    done = python(
        """
        import logging, threading, time
        from scripted_sqs.observed import ObservedQueue
        from balog_celery import SQSHandler
        queue = ObservedQueue()
        queue.on["send"] = lambda messages: threading.Event().wait()
        logging.basicConfig(handlers=[SQSHandler("topic", queue=queue)], level="INFO")
        logging.info("bye")
        """
    )
    assert "1 records were not sent before the end" in done.stderr


def test_the_lock_of_logging_is_what_a_configuration_holds() -> None:
    """``logging._lock``, which Python does not document, tells whether the current thread holds it."""
    done = python(
        """
        import logging, logging.config
        from balog_celery.producer.handlers import _holds_logging_lock

        class Probe(logging.Handler):
            def close(self):
                print("closed", _holds_logging_lock())
                super().close()

        probe = Probe()
        print(_holds_logging_lock())
        logging.config.dictConfig({"version": 1})
        print(_holds_logging_lock())
        """
    )
    assert done.stdout.split() == ["False", "closed", "True", "False"]
