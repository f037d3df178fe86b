"""What both workers of the compatibility table have; tests copy this folder into their project."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balog_celery.consumers import consumer_config

LEDGER, TOPIC = os.environ["LEDGER"], os.environ["TOPIC"]
#: While it exists, what runs ``hold`` does not end.
HELD = Path(LEDGER).with_name(f"held-{os.environ['WORKER']}")


def note(name: str, event_id: str, **more: Any) -> None:
    """Write a line of the ledger, at once: several processes write."""
    line = json.dumps({"consumer": name, "event": event_id, "at": time.time(), "pid": os.getpid(), **more}, default=str)
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)


def attempts(name: str) -> int:
    """Return how often a consumer has begun."""
    with open(LEDGER) as ledger:
        return sum(json.loads(line)["consumer"] == name for line in ledger)


def noting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Note each attempt at an event."""

    @functools.wraps(function)
    def run(self: Any, event: dict[str, Any]) -> Any:
        note(function.__name__, event["header"]["id"], task=self.request.id, retries=self.request.retries)
        return function(self, event)

    return run


@consumer_config(TOPIC, cls_type="hold", bind=True)
@noting
def hold(self, event):
    while HELD.exists():
        time.sleep(0.02)
    note("held", event["header"]["id"])


@consumer_config(TOPIC, cls_type="quick", bind=True)
@noting
def quick(self, event):
    pass


@consumer_config(TOPIC, cls_type="answers", bind=True, ignore_result=False)
@noting
def answers(self, event):
    return 42
