"""Consumers with routes, limits and annotations."""

from __future__ import annotations

import time

from balog_celery.consumers import consumer_config

from .base import TOPIC, note, noting


@consumer_config(TOPIC, cls_type="routed_by_name", bind=True)
@noting
def routed_by_name(self, event):
    note("route", "name", to=self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="globbed_task", bind=True)
@noting
def globbed_task(self, event):
    note("route", "glob", to=self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="chosen", bind=True)
@noting
def chosen(self, event):
    note("route", "function", to=self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="queued", bind=True, queue=f"{TOPIC}-other")
@noting
def queued(self, event):
    note("route", "queue", to=self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="excluded", bind=True, queue=f"{TOPIC}-excluded")
@noting
def excluded(self, event):
    pass


@consumer_config(f"{TOPIC}-cancelled", cls_type="cancelled", bind=True, queue=f"{TOPIC}-other")
@noting
def cancelled(self, event):
    pass


@consumer_config(TOPIC, cls_type="prior", bind=True, priority=7)
@noting
def prior(self, event):
    note("priority", str(self.request.delivery_info.get("priority")))


@consumer_config(TOPIC, cls_type="annotated", bind=True)
@noting
def annotated(self, event):
    note("annotation", str(self.max_retries))


@consumer_config(TOPIC, cls_type="compressed", bind=True, compression="bzip2")
@noting
def compressed(self, event):
    pass


@consumer_config(TOPIC, cls_type="limited", bind=True, rate_limit="1/h")
@noting
def limited(self, event):
    pass


@consumer_config(TOPIC, cls_type="limited_later", bind=True)
@noting
def limited_later(self, event):
    pass


@consumer_config(TOPIC, cls_type="limited_in_time", bind=True)
@noting
def limited_in_time(self, event):
    time.sleep(event["payload"]["seconds"])
    note("outlived", event["header"]["id"])


@consumer_config(TOPIC, cls_type="missing", bind=True, queue=f"{TOPIC}-missing")
@noting
def missing(self, event):
    pass
