"""The naive loop: it receives ten messages, puts each on the broker for a Celery worker, and deletes it."""

from __future__ import annotations

import json
import os
from typing import Any

import boto3
from celery import Celery
from function import QUEUE, note

app = Celery("naive", broker=os.environ["BENCH_BROKER"])
app.task(name="note")(note)


def main() -> None:
    """Run the loop."""
    sqs: Any = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    while True:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        for message in answer.get("Messages", []):
            app.send_task("note", (json.loads(message["Body"]),))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    main()
