"""The benchmarks' project: a Celery app with one or two consumers that do nothing, configured by variables."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from celery import Celery

from balog_celery import install
from balog_celery.consumers import consumer_config

TOPIC = os.environ.get("BENCH_TOPIC", "bench")
LEDGER = os.environ.get("BENCH_LEDGER")
BATCH = int(os.environ.get("BENCH_BATCH", "0"))
CHUNK = int(os.environ.get("BENCH_CHUNK", "0")) or None
SLEEP = float(os.environ.get("BENCH_SLEEP", "0"))
#: How many topics there are in all, with a consumer each; and for how many seconds the functions of further ones wait.
TOPICS = int(os.environ.get("BENCH_TOPICS", "1"))
WAITS = [float(seconds) for seconds in os.environ.get("BENCH_WAITS", "").split(",") if seconds]

app = Celery("bench_project")
app.conf.update(
    broker_url=os.environ.get("BENCH_BROKER", "memory://"),
    worker_hijack_root_logger=False,
    worker_send_task_events=os.environ.get("BENCH_EVENTS", "1") == "1",
    balog_dispatch=os.environ.get("BENCH_DISPATCH", "publish"),
    balog_packages=["bench_project"],
    balog_pollers=int(os.environ.get("BENCH_POLLERS", "1")),
    balog_status_dir=os.environ.get("BENCH_STATUS_DIR"),
    balog_high_water=int(os.environ.get("BENCH_HIGH_WATER", "10000")),
)
install(app)

_ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if LEDGER else -1


def note(name: str, *events: Any) -> None:
    """Write 32 bytes for each event: the consumer and the event's id."""
    if SLEEP:
        time.sleep(SLEEP)
    if _ledger >= 0:
        os.write(_ledger, "".join([f"{name:<7}{event['header']['id']}\n" for event in events]).encode())


if BATCH:

    @consumer_config(topic=TOPIC, cls_type="metrics", batch=BATCH)
    def batch(events: list[Any]) -> None:
        """The batch consumer."""
        note("batch", *events)

else:

    @consumer_config(topic=TOPIC, cls_type="metrics", chunk=CHUNK)
    def first(event: Any) -> None:
        """The consumer of single events."""
        note("first", event)


if os.environ.get("BENCH_CONSUMERS") == "2":

    @consumer_config(topic=TOPIC, cls_type="metrics", version=">=0.0.1")
    def second(event: Any) -> None:
        """A second consumer of the same events."""
        note("second", event)


def _add(name: str, consumer: Any, **options: Any) -> None:
    consumer.__name__ = consumer.__qualname__ = name
    globals()[name] = consumer_config(topic=f"{TOPIC}-{name}", cls_type="metrics", **options)(consumer)


def _waiting(seconds: float) -> Any:
    def waits(event: Any) -> None:
        time.sleep(seconds)
        note("waits", event)

    async def waits_async(event: Any) -> None:
        await asyncio.sleep(seconds)
        note("waits", event)

    return waits_async if CHUNK else waits


for number in range(1, TOPICS):
    _add(f"topic_{number}", lambda event: note("more", event))
for wait in WAITS:
    _add(f"waits_{wait * 1000:.0f}", _waiting(wait), chunk=CHUNK)


@app.task(name="naive")  # type: ignore[untyped-decorator]
def naive(event: Any) -> None:
    """The task that the naive loop calls ``delay()`` on."""
