"""The cost of sending an event, against boto3's calls with a hand-made record: latency, and CPU in batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache, partial
from typing import Any

from bench_base import BenchSqs, Figure, Options, median, ratios

QUEUE = "bench-send"
#: How many are sent together.
EVENTS = 100
PAYLOAD = {"cls_type": "order-placed", "order": 1041, "lines": [{"sku": f"sku-{n}", "count": n} for n in range(10)]}


def body() -> str:
    """Return a hand-made record."""
    header = {"id": os.urandom(12).hex(), "channel": "bench", "timestamp": datetime.now(timezone.utc).isoformat()}
    return json.dumps({"schema": "0.0.1", "header": header, "payload": PAYLOAD})


def _measure(clock: Callable[[], float], call: Callable[[], Any], calls: int, events: int) -> float:
    """Return microseconds of *clock* per event."""
    began = clock()
    for _ in range(calls):
        call()
    return (clock() - began) / (calls * events) * 1e6


def main(rounds: int, calls: int) -> None:
    """Measure, and write the times."""
    import boto3

    from balog_celery import send, send_many

    sqs = boto3.client("sqs")
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        name = f"{QUEUE}-{number}"
        url = sqs.create_queue(QueueName=name)["QueueUrl"]

        def batches(url: str = url) -> None:
            for _ in range(EVENTS // 10):
                entries = [{"Id": str(number), "MessageBody": body()} for number in range(10)]
                assert len(sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 10

        sides: dict[str, tuple[Callable[[], float], Callable[[], Any], int]] = {
            "boto3_latency": (time.perf_counter, partial(sqs.send_message, QueueUrl=url, MessageBody=body()), 1),
            "send_latency": (time.perf_counter, partial(send, PAYLOAD, topic=name), 1),
            "boto3_cpu": (time.process_time, batches, EVENTS),
            "send_many_cpu": (time.process_time, partial(send_many, [PAYLOAD] * EVENTS, topic=name), EVENTS),
        }
        for side, (clock, call, events) in sides.items():
            call()  # warm up
            times.setdefault(side, []).append(_measure(clock, call, calls, events))
    print(json.dumps(times))


@cache
def _run(options: Options) -> dict[str, list[float]]:
    with BenchSqs() as server:
        env = {name: value for name, value in {**os.environ, **server.env}.items() if value is not None}
        argv = [sys.executable, __file__, str(options.pick(15, 5)), str(options.pick(100, 20))]
        done = subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE, text=True)
    times: dict[str, list[float]] = json.loads(done.stdout)
    return times


def send_latency(options: Options) -> Figure:
    """Measure the time until SQS has one event."""
    times = _run(options)
    sides = {"ours_us": median(times["send_latency"]), "boto3_us": median(times["boto3_latency"])}
    return Figure("send-latency", median(ratios(times["send_latency"], times["boto3_latency"])), "<= 1.5", sides)


def send_many_cpu(options: Options) -> Figure:
    """Measure the CPU of 100 events that are sent together, ten in a call to SQS."""
    times = _run(options)
    sides = {"ours_us": median(times["send_many_cpu"]), "boto3_us": median(times["boto3_cpu"])}
    return Figure("send-many-cpu", median(ratios(times["boto3_cpu"], times["send_many_cpu"])), ">= 3", sides)


FIGURES = {"send-latency": send_latency, "send-many-cpu": send_many_cpu}

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
