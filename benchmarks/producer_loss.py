"""Measures what producers lose that are killed at random: nothing unreported by SIGTERM, at most a buffer by SIGKILL.

Processes log to an ``SQSHandler``, each until it is killed by one of the signals, a random time after its first record.
A process notes each record in a ledger when the logger's call has returned. In the end the queue is compared with
that::

    python benchmarks/producer_loss.py --records 10000 --seed 1

The last line is ``unreported=`` and a number: records of processes that SIGTERM ended, or that ended by themselves, and
that are neither in the queue nor reported on standard error. Exit code 1 if there is one, or if a killed process lost
more than its buffer holds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from bench_base import BenchSqs

KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "secret"}
CAPACITY = 1000
#: How many producers run at once.
PRODUCERS = 4
PROGRAM = f"""
import logging, os, sys, time
from balog_celery import SQSHandler, get_logger
name, count, ledger = sys.argv[1], int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
logging.getLogger("app").addHandler(SQSHandler("producer-loss", capacity={CAPACITY}))
logging.getLogger("app").setLevel(logging.INFO)
logger = get_logger("app")
for number in range(count):
    logger.info("done", payload={{"cls_type": "test", "of": f"{{name}}-{{number}}"}})
    os.write(ledger, f"{{name}}-{{number}}\\n".encode())
    time.sleep(0.01)
"""


@dataclass
class Account:
    """Counts what was logged, by the end of its process, and what the queue has."""

    received: set[str] = field(default_factory=set)
    logged: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unreported: int = 0
    most_lost_at_once: int = 0

    def add(self, end: str, logged: set[str], output: str) -> None:
        """Add one process."""
        lost = len(logged - self.received)
        self.logged[end] = self.logged.get(end, 0) + len(logged)
        self.lost[end] = self.lost.get(end, 0) + lost
        if end == "SIGKILL":
            self.most_lost_at_once = max(self.most_lost_at_once, lost)
        else:
            reported = [int(number) for number in re.findall(r"\((\d+) dropped", output)]
            self.unreported += max(0, lost - max(reported, default=0))


def produce(records: int, seed: int, server: BenchSqs, folder: Path) -> list[tuple[str, set[str], str]]:
    """Run producers until *records* records are logged; return each end, ledger and report."""
    chance, ended, logged = random.Random(seed), [], 0
    running: list[tuple[str, float, subprocess.Popen[str], Path]] = []
    #: When each is killed: not before it logs, which a busy machine may delay.
    kills: dict[Path, float] = {}
    number = 0
    while logged < records or running:
        while len(running) < PRODUCERS and logged + sum(count(ledger) for *_, ledger in running) < records:
            ledger = folder / f"{number}"
            argv = [sys.executable, "-c", PROGRAM, str(number), str(records), str(ledger)]
            env = {name: value for name, value in {**os.environ, **server.env}.items() if value is not None}
            process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
            end = chance.choice(["SIGTERM", "SIGKILL"])
            running.append((end, chance.uniform(0.0, 3.0), process, ledger))
            number += 1
        time.sleep(0.02)
        for one in list(running):
            end, after, process, ledger = one
            if count(ledger) and ledger not in kills:
                kills[ledger] = time.monotonic() + after
            if process.poll() is None and time.monotonic() < kills.get(ledger, math.inf):
                continue
            process.send_signal(getattr(signal, end))
            output = process.communicate(timeout=60)[1]
            end = end if process.returncode == -getattr(signal, end) else f"exit {process.returncode}"
            ended.append((end, set(ledger.read_text().split()) if ledger.exists() else set(), output))
            logged += count(ledger)
            running.remove(one)
    return ended


def count(ledger: Path) -> int:
    """Return how many records a ledger has."""
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def drain(client: Any, url: str, received: set[str], stop: threading.Event) -> None:
    """Receive until the queue is empty and *stop* is set."""
    while True:
        stopping = stop.is_set()
        messages = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
        if not messages and stopping:
            return
        received.update(json.loads(message["Body"])["payload"]["of"] for message in messages)
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
        if entries:
            client.delete_message_batch(QueueUrl=url, Entries=entries)


def main() -> int:
    """Run, and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    account, stop = Account(), threading.Event()
    with BenchSqs() as server, tempfile.TemporaryDirectory() as folder:
        client = boto3.client("sqs", "us-east-1", endpoint_url=server.endpoint_url, **KEYS)
        url = client.create_queue(QueueName="producer-loss")["QueueUrl"]
        receiver = threading.Thread(target=drain, args=(client, url, account.received, stop), daemon=True)
        receiver.start()
        ended = produce(given.records, given.seed, server, Path(folder))
        stop.set()
        receiver.join(300)
    for end, logged, output in ended:
        account.add(end, logged, output)
    print(f"{len(ended)} processes; logged {account.logged}; lost {account.lost}")
    print(f"the most that a SIGKILL lost: {account.most_lost_at_once} of a buffer of {CAPACITY}")
    print(f"unreported={account.unreported}")
    return 1 if account.unreported or account.most_lost_at_once > CAPACITY else 0


if __name__ == "__main__":
    sys.exit(main())
