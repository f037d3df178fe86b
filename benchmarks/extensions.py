"""Measure how many messages one visibility extender keeps invisible.

``python benchmarks/extensions.py`` holds 1,000 and 10,000 messages for two visibility timeouts (``--visibility``, 30 s)
with calls that take ``--latency`` (15 ms) each. It prints the calls per second, the shortest time that was left when a
message was extended, and how many visibility timeouts ended.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from balog_celery.consumers.delivery import Delivery
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import CAPACITY, VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout
from balog_celery.sqs.messages import EntryFailure
from scripted_sqs.observed import ObservedQueue


class SlowQueue(ObservedQueue):
    """A queue that answers after *latency* seconds, and notes how much time was left to its messages."""

    def __init__(self, latency: float) -> None:
        super().__init__()
        self.shortest = float("inf")
        self.count = 0
        self._latency = latency

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        time.sleep(self._latency)
        self.count += 1
        now = self.store.clock.now()
        self.shortest = min(self.shortest, *(self.visible_at(self.name_of(handle)) - now for handle in handles))
        return super().change_visibility(handles, seconds)


def measure(messages: int, visibility: int, latency: float) -> str:
    """Hold *messages* for twice their visibility timeout. Return what was seen, as a line."""
    queue = SlowQueue(latency)
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, visibility), TopicStats())
    extender.start()
    queue.put(*["body"] * messages)
    extender.hold([Delivery(queue.take(f"m{n + 1}", visibility), 1, lambda _: None) for n in range(messages)])
    is_full = False
    for _ in range(20):
        threading.Event().wait(2 * visibility / 20)
        is_full = is_full or extender.is_full
    extender.close(time.monotonic() + 5)
    full = "full" if is_full else "not full"
    return (
        f"{messages:>7} messages of {CAPACITY * visibility}: {queue.count / (2 * visibility):6.1f} calls/s, "
        f"{queue.shortest:5.1f} s left at least, {messages - len(queue.in_flight())} ended; {full}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure how many messages one visibility extender keeps invisible.")
    parser.add_argument("--visibility", type=int, default=30, help="the visibility timeout in seconds")
    parser.add_argument("--latency", type=float, default=0.015, help="how long a call takes, in seconds")
    given = parser.parse_args()
    for count in (1_000, 10_000):
        print(measure(count, given.visibility, given.latency), flush=True)
