"""Consumers that end in the ways in which a task of Celery can end."""

from __future__ import annotations

import os
import time

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from balog_celery.consumers import consumer_config

from .base import TOPIC, attempts, note, noting


@consumer_config(TOPIC, cls_type="flaky", bind=True, autoretry_for=(ValueError,), max_retries=3, default_retry_delay=0)
@noting
def flaky(self, event):
    if self.request.retries < 2:
        raise ValueError("again")


@consumer_config(
    TOPIC, cls_type="in_vain", bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0
)
@noting
def in_vain(self, event):
    raise ValueError("never")


@consumer_config(
    TOPIC,
    cls_type="backoff",
    bind=True,
    autoretry_for=(ValueError,),
    max_retries=1,
    retry_backoff=2,
    retry_jitter=False,
)
@noting
def backoff(self, event):
    if self.request.retries < 1:
        raise ValueError("again")


@consumer_config(
    TOPIC,
    cls_type="jitter",
    bind=True,
    autoretry_for=(ValueError,),
    max_retries=1,
    retry_backoff=1,
    retry_backoff_max=1,
    retry_jitter=True,
)
@noting
def jitter(self, event):
    if self.request.retries < 1:
        raise ValueError("again")


@consumer_config(
    TOPIC, cls_type="endless", bind=True, autoretry_for=(ValueError,), max_retries=None, default_retry_delay=0
)
@noting
def endless(self, event):
    if self.request.retries < 5:
        raise ValueError("again")


@consumer_config(
    TOPIC,
    cls_type="spared",
    bind=True,
    autoretry_for=(Exception,),
    dont_autoretry_for=(KeyError,),
    max_retries=3,
    default_retry_delay=0,
)
@noting
def spared(self, event):
    raise KeyError("no")


@consumer_config(TOPIC, cls_type="expected", bind=True, throws=(KeyError,))
@noting
def expected(self, event):
    raise KeyError("no")


@consumer_config(TOPIC, cls_type="ignores", bind=True)
@noting
def ignores(self, event):
    raise Ignore


@consumer_config(TOPIC, cls_type="rejects", bind=True)
@noting
def rejects(self, event):
    raise Reject("no")


@consumer_config(TOPIC, cls_type="requeues", bind=True)
@noting
def requeues(self, event):
    if attempts("requeues") == 1:
        raise Reject("again", requeue=True)


@consumer_config(TOPIC, cls_type="retries_by_hand", bind=True, max_retries=1)
@noting
def retries_by_hand(self, event):
    if self.request.retries < 1:
        raise Retry("by hand", when=0)


@consumer_config(TOPIC, cls_type="retries_itself", bind=True, max_retries=1)
@noting
def retries_itself(self, event):
    if self.request.retries < 1:
        raise self.retry(countdown=0)


@consumer_config(TOPIC, cls_type="patient", bind=True, max_retries=1)
@noting
def patient(self, event):
    raise self.retry(countdown=900)


@consumer_config(TOPIC, cls_type="returns_to_its_queue", bind=True, queue=f"{TOPIC}-other", max_retries=1)
@noting
def returns_to_its_queue(self, event):
    if self.request.retries < 1:
        raise self.retry(countdown=0, headers={"published": "yes"})
    note("returned_to", self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="elsewhere_again", bind=True, max_retries=1)
@noting
def elsewhere_again(self, event):
    if self.request.retries < 1:
        raise self.retry(countdown=0, queue=f"{TOPIC}-other")
    note("retried_to", self.request.delivery_info["routing_key"])


@consumer_config(TOPIC, cls_type="soft", bind=True, soft_time_limit=1, time_limit=500)
@noting
def soft(self, event):
    try:
        time.sleep(300)
    except SoftTimeLimitExceeded:
        note("softly", event["header"]["id"])


@consumer_config(TOPIC, cls_type="hard", bind=True, time_limit=2)
@noting
def hard(self, event):
    time.sleep(300)


@consumer_config(TOPIC, cls_type="exits", bind=True, max_retries=1, default_retry_delay=0)
@noting
def exits(self, event):
    os._exit(7)


@consumer_config(TOPIC, cls_type="early", bind=True, acks_late=False)
@noting
def early(self, event):
    pass


@consumer_config(TOPIC, cls_type="expires", bind=True, expires=0.2)
@noting
def expires(self, event):
    pass


@consumer_config(TOPIC, cls_type="unserialisable", bind=True, ignore_result=False)
@noting
def unserialisable(self, event):
    return lambda: None


@consumer_config(TOPIC, cls_type="eats", bind=True)
@noting
def eats(self, event):
    b"x" * (event["payload"].get("size", 350) * 1024 * 1024)
