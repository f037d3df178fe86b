"""Celery with SQS as its broker: the messages are tasks, and the worker reads them."""

from __future__ import annotations

import os

from celery import Celery
from function import QUEUE, note

ENDPOINT = os.environ["AWS_ENDPOINT_URL_SQS"]

app = Celery("celery_sqs", broker=ENDPOINT.replace("http", "sqs", 1))
app.conf.update(
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=50,
    worker_enable_remote_control=False,
    broker_transport_options={
        "is_secure": False,
        "predefined_queues": {QUEUE: {"url": f"{ENDPOINT}/000000000000/{QUEUE}"}},
        "visibility_timeout": 3600,
        "wait_time_seconds": 20,
        "polling_interval": 0.1,
    },
)
app.task(name="note")(note)
