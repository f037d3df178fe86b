"""The start of a received message's visibility timeout."""

from __future__ import annotations

import json
import time

from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import KEYS, URL, PiecesServer, serving


def test_visibility_is_counted_from_before_the_answer() -> None:
    """The visibility timeout counts from before the answer, when SQS took the message."""
    # Given an answer that takes two seconds to arrive, as a large one does over a slow network
    body = json.dumps({"Messages": [{"Body": "b", "ReceiptHandle": "h", "MessageId": "m"}]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    parts = [body[start : start + 20] for start in range(0, len(body), 20)]
    with serving(PiecesServer(head, *parts, pause=2.0 / len(parts))) as server:
        queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)

        # When a message is received
        begin = time.monotonic()
        (message,) = queue.receive(10, 0, 30)
        end = time.monotonic()

    # Then its visibility is counted from the beginning of the answer
    assert begin <= message.received <= end - 1.9
