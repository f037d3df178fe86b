"""A local SQS, S3 and SNS for the tests, in a process: ``python moto_server.py [PORT]`` prints its URL and serves."""

import logging
import sys
import threading
import time
from typing import Any
from unittest import mock

from moto.server import ThreadedMotoServer
from moto.sqs import models

_receive = models.SQSBackend.receive_message
_lock = threading.Lock()


def _receive_in_order(
    self: models.SQSBackend, name: str, count: int, wait: int, visibility: int, attributes: Any = None
) -> Any:
    """A FIFO queue as AWS has it: moto's long poll goes by the groups that were in flight when it began, and burns a
    core meanwhile; and of a group whose leases have ended it gives the last message first."""
    if not name.endswith(".fifo"):
        return _receive(self, name, count, wait, visibility, attributes)
    deadline = time.monotonic() + (wait or 0)
    while True:
        now = models.unix_time_millis()
        with _lock, mock.patch.object(models, "unix_time_millis", lambda now=now: now):
            queue = self.get_queue(name)
            for message in list(queue.pending_messages):
                if message.visible:
                    queue.pending_messages.discard(message)
            found = _receive(self, name, count, 0, visibility, attributes)
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    models.SQSBackend.receive_message = _receive_in_order
    server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
    threading.Event().wait()
