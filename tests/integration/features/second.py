"""Consumers of the second worker, whose settings the first one cannot have."""

from __future__ import annotations

from balog_celery.celery import app
from balog_celery.consumers import consumer_config

from .base import TOPIC, note, noting


@app.task(bind=True)
def called(self):
    note("called", str(self.request.is_eager))


@consumer_config(TOPIC, cls_type="served", bind=True, queue=f"{TOPIC}-served")
@noting
def served(self, event):
    called.delay()


@consumer_config(TOPIC, cls_type="protocol", bind=True)
@noting
def protocol(self, event):
    note("protocol", event["header"]["id"])
