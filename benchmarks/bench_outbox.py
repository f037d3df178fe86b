"""The rate of one outbox relay between PostgreSQL and an SQS that is 10 ms away, by the kind of topic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench_base import BenchSqs, Figure, Options, Skipped, servers

#: How far SQS is, in seconds.
DISTANCE = 0.01
PAYLOAD = {"cls_type": "order-placed", "order": 1041, "lines": [{"sku": f"sku-{n}", "count": n} for n in range(10)]}
#: The topics, and how many groups the rows of each have.
SIDES = {"standard": ("bench", 0), "fifo_100_groups": ("bench.fifo", 100), "fifo_1_group": ("bench.fifo", 1)}


def _relayed(engine: Any, store: Any, connect: Callable[[str], Any], topic: str, groups: int, rows: int) -> Any:
    """Return rows per second, and CPU of the relay in microseconds per row."""
    import sqlalchemy as sa

    from balog_celery.outbox.relay import Relay
    from balog_celery.outbox.sqlalchemy import add, outbox_table

    table = outbox_table(sa.MetaData())
    with engine.begin() as connection:
        for row in range(rows):
            add(connection, table, PAYLOAD, topic=topic, group=f"g{row % groups}" if groups else None)
    relay = Relay(store, connect)
    began, cpu = time.perf_counter(), time.process_time()
    sent = relay.sweep()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    if sent != rows:
        raise RuntimeError(f"{sent} of {rows} rows were sent")
    return round(rows / took), round(cpu / rows * 1e6)


def outbox(options: Options) -> Figure:
    """Measure how many rows one relay sends in a second; the goal is that of a FIFO topic with many groups."""
    import sqlalchemy as sa

    from balog_celery.outbox.sqlalchemy import SQLAlchemyStore, outbox_table
    from balog_celery.sqs.queues import SQSQueue

    if servers.PostgreSQL.programs() is None:
        raise Skipped("there is no PostgreSQL: apt install postgresql")
    sides: dict[str, Any] = {}
    with servers.PostgreSQL() as postgresql, BenchSqs(DISTANCE) as sqs:
        os.environ.update({name: value for name, value in sqs.env.items() if value is not None})
        engine = sa.create_engine(postgresql.url("postgresql+psycopg"))
        metadata = sa.MetaData()
        table = outbox_table(metadata)
        metadata.create_all(engine)
        connect = partial(SQSQueue, endpoint_url=sqs.endpoint_url)
        for name in {topic for topic, _ in SIDES.values()}:
            connect(name).create()
        for side, (topic, groups) in SIDES.items():
            rows = options.pick(2000, 500)
            rate, cpu = _relayed(engine, SQLAlchemyStore(engine, table), connect, topic, groups, rows)
            sides |= {f"{side}_per_s": rate, f"{side}_cpu_us": cpu}
        engine.dispose()
    return Figure("outbox-fifo", sides["fifo_100_groups_per_s"] / sides["fifo_1_group_per_s"], ">= 3", sides)


FIGURES = {"outbox-fifo": outbox}
