"""A worker of sqs-workers: it takes bodies as they are, calls the function and deletes ten messages at a time."""

from __future__ import annotations

import json
from typing import Any

from function import QUEUE, note
from sqs_workers import RawQueue, SQSEnv

queue = SQSEnv().queue(QUEUE, RawQueue)


@queue.raw_processor()
def consume(message: Any) -> None:
    """Process a message."""
    note(json.loads(message.body))


if __name__ == "__main__":
    queue.process_queue(wait_second=20)
