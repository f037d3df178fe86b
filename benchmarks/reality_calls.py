"""Receives and deletes over TLS, far away, and with large answers: this package's fast path beside boto3's client.

    python reality_calls.py PORTS ROUNDS

is the process that makes the calls, by both in turns. It writes a line of JSON for each case: the CPU that receiving
ten messages and deleting them takes, in microseconds, by each round of each side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_base import HERE, Options, Part, base_env, median, ratios

_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/events"
#: For how long each side is measured in each round, in seconds of its CPU, or of any time for a distant SQS; and how
#: many calls it makes at most.
_CPU, _WALL, _CALLS = 0.15, 1.0, 200


def by_fast_path(endpoint: str) -> Callable[[], int]:
    """Return what receives ten messages and deletes them as an engine does, and tells how many they were."""
    from balog_celery.sqs.queues import SQSQueue

    queue = SQSQueue(_URL, region="us-east-1", endpoint_url=endpoint)

    def call() -> int:
        messages = queue.receive(10, 0)
        assert not queue.delete([message.handle for message in messages])
        return len(messages)

    return call


def by_boto3(endpoint: str) -> Callable[[], int]:
    """Return what does the same by boto3's client."""
    import boto3

    sqs: Any = boto3.client("sqs", endpoint_url=endpoint)

    def call() -> int:
        messages = sqs.receive_message(QueueUrl=_URL, MaxNumberOfMessages=10)["Messages"]
        entries = [{"Id": str(number), "ReceiptHandle": m["ReceiptHandle"]} for number, m in enumerate(messages)]
        assert not sqs.delete_message_batch(QueueUrl=_URL, Entries=entries).get("Failed")
        return len(messages)

    return call


def cost(call: Callable[[], int]) -> float:
    """Return the CPU of a call in microseconds."""
    cpu, began, calls = time.process_time(), time.monotonic(), 0
    while calls < _CALLS and time.process_time() - cpu < _CPU and time.monotonic() - began < _WALL:
        assert call() == 10
        calls += 1
    return (time.process_time() - cpu) / calls * 1e6


def call_in_turns(ports: dict[str, dict[str, int]], rounds: int) -> None:
    """Measure all cases, and write what was found."""
    for kind, way, port in [(kind, way, port) for kind, ways in ports.items() for way, port in ways.items()]:
        endpoint = f"{'https' if 'TLS' in way else 'http'}://127.0.0.1:{port}"
        sides = [by_fast_path(endpoint), by_boto3(endpoint)]
        found: list[list[float]] = [[], []]
        for call in sides:  # the first calls open connections and fill caches
            call()
        for number in range(rounds):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                found[side].append(cost(sides[side]))
        print(json.dumps([kind, way, *found]), flush=True)


def calls(options: Options) -> Part:
    """Compare the fast path with boto3's client."""
    with TemporaryDirectory() as folder:
        pem = str(Path(folder) / "cert.pem")
        env = {**os.environ, **base_env(), "AWS_CA_BUNDLE": pem}
        server = subprocess.Popen(
            [sys.executable, str(HERE / "reality_server.py"), pem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with server:
            assert server.stdout is not None
            ports = server.stdout.readline().strip()
            argv = [sys.executable, str(HERE / "reality_calls.py"), ports, str(options.pick(7, 3))]
            made = subprocess.run(
                argv,
                env={key: value for key, value in env.items() if value is not None},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            server.communicate("")
    return compared([json.loads(line) for line in made.stdout.splitlines()])


def compared(found: list[Any]) -> Part:
    """Return the table of what was *found*: the kind, the way, and the microseconds of both sides by rounds."""
    rows, sides = [], {}
    for kind, way, ours, theirs in found:
        ratio = median(ratios(ours, theirs))
        sides[f"{kind}, {way}"] = ratio
        rows.append(f"| 10 x {kind} | {way} | {median(ours):,.0f} | {median(theirs):,.0f} | {ratio:.2f} |")
    head = "| messages | SQS by | fast path, us | boto3, us | ratio |\n" + "| --- " * 5 + "|\n"
    return Part(head + "\n".join(rows), sides)


def worst(ratios_by_case: dict[str, float]) -> float:
    """Return the largest ratio for messages of 1 MiB."""
    return max(ratio for case, ratio in ratios_by_case.items() if case.startswith("1 MiB"))


if __name__ == "__main__":
    call_in_turns(json.loads(sys.argv[1]), int(sys.argv[2]))
