"""Consumers for the tests of what users test with."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from celery import current_task
from celery.exceptions import Ignore, Reject

from balog_celery import Payload
from balog_celery.consumers import BatchFailure, consumer_config

#: What the consumers were called with; a test empties it.
seen: list[Any] = []
#: The ids of the events of each call of ``ship``.
shipped: list[list[str]] = []


class Order(Payload):
    cls_type: Literal["test-order"] = "test-order"
    total: float


class Flaky(Exception):
    pass


@consumer_config("shop", cls_type="metrics", version="<1.0")
def count(event: dict[str, Any]) -> int:
    seen.append(event)
    return len(event["payload"]["values"])


@consumer_config("shop", cls_type="test-order")
def book(order: Order) -> float:
    seen.append(order)
    return order.total


@consumer_config("shop", cls_type="flaky", autoretry_for=(Flaky,), max_retries=3, retry_backoff=2)
def flaky(event: dict[str, Any]) -> str:
    seen.append(event)
    if len(seen) <= event["payload"]["failures"]:
        raise Flaky(f"failure {len(seen)}")
    return "at last"


@consumer_config("shop", cls_type="shipment", batch=3, max_retries=2)
def ship(events: list[dict[str, Any]]) -> None:
    shipped.append([event["header"]["id"] for event in events])
    tried = Counter(event_id for call in shipped for event_id in call)
    raise BatchFailure(
        {event["header"]["id"]: "lost" for event in events if tried[event["header"]["id"]] <= event["payload"]["fails"]}
    )


@consumer_config("shop", cls_type="doomed")
def doomed(event: dict[str, Any]) -> None:
    raise ValueError("never works")


@consumer_config("shop", cls_type="by-hand")
def by_hand(event: dict[str, Any]) -> None:
    raise current_task.retry(countdown=7, max_retries=1, exc=Flaky("by hand"))


@consumer_config("shop", cls_type="rejected")
def rejected(event: dict[str, Any]) -> None:
    raise Reject("no", requeue=False)


@consumer_config("shop", cls_type="ignored")
def ignored(event: dict[str, Any]) -> None:
    raise Ignore


@consumer_config("shop", cls_type="single", once=True)
def single(event: dict[str, Any]) -> None:
    seen.append(event)
    if event["payload"].get("fail") and len(seen) == 1:
        raise Flaky("once")


@consumer_config("shop", cls_type="aws.s3.ObjectCreated:*")
def stored(event: dict[str, Any]) -> str:
    return str(event["payload"]["s3"]["object"]["key"])
