"""A local SQS, S3 and SNS for the tests, in a process: ``python moto_server.py [PORT]`` prints its URL and serves."""

import contextlib
import functools
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from moto.server import ThreadedMotoServer
from moto.sqs import models

#: moto serves requests in threads, but a delete makes a new list of what is left: what is sent meanwhile would be lost,
#: and what another thread deletes meanwhile would come again. Two receives at a time may give the same message. It
#: counts the visible messages before the others: one whose visibility ends in between would be in neither number.
_lock = threading.RLock()
_receive = models.SQSBackend.receive_message


@contextlib.contextmanager
def _at_one_time() -> Iterator[None]:
    """Run the block alone, and at one moment of moto's clock."""
    with _lock:
        now = models.unix_time_millis()
        with mock.patch.object(models, "unix_time_millis", lambda now=now: now):
            yield


def _one_at_a_time(name: str) -> None:
    method = getattr(models.SQSBackend, name)

    @functools.wraps(method)
    def call(*args: Any, **more: Any) -> Any:
        with _at_one_time():
            return method(*args, **more)

    setattr(models.SQSBackend, name, call)


def _receive_alone(
    self: models.SQSBackend, name: str, count: int, wait: int, visibility: int, attributes: Any = None
) -> Any:
    """Receive without moto's long poll, and in AWS's order for FIFO queues.

    Moto's long poll uses the groups that were in flight when it began, burns a core, and returns the last message of a
    group first whose visibility timeouts have ended.
    """
    deadline = time.monotonic() + (wait or 0)
    queue = self.get_queue(name)
    while True:
        with _at_one_time():
            if self.get_queue(name) is not queue:  # it was made anew, for others
                return []
            if queue.fifo_queue:
                for message in list(queue.pending_messages):
                    if message.visible:
                        queue.pending_messages.discard(message)
            found = _receive(self, name, count, 0, visibility, attributes)
        if found or time.monotonic() > deadline:
            return found
        if queue.fifo_queue:
            time.sleep(0.05)
        else:
            queue.wait_for_messages(0.2)


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    models.SQSBackend.receive_message = _receive_alone
    for name in ("send_message", "delete_message", "change_message_visibility", "purge_queue", "get_queue_attributes"):
        _one_at_a_time(name)
    server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
    threading.Event().wait()
