"""A project whose consumers write what they did to a ledger, for tests that run a real worker."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONSUMERS = """
import json, os, time
from balog_celery import FacilityRecord, MetricsPayload
from balog_celery.consumers import consumer_config

TOPIC = os.environ["TOPIC"]


def note(name, event_id, **more):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps({"consumer": name, "event": event_id, **more}) + "\\n")


@consumer_config(topic=TOPIC, cls_type="metrics", version="<1.0", rate_limit="1000/s")
def first(event):
    note("first", event["header"]["id"], value=event["payload"]["values"][0]["value"])


@consumer_config(topic=TOPIC, cls_type="metrics")
def typed(event: FacilityRecord):
    note("typed", event.header.id)


class Flaky(Exception):
    pass


@consumer_config(topic=TOPIC, cls_type="flaky", autoretry_for=(Flaky,), max_retries=3, default_retry_delay=0)
def flaky(event):
    note("flaky", event["header"]["id"])
    if sum("flaky" in line for line in open(os.environ["LEDGER"])) < 3:
        raise Flaky("again")


@consumer_config(topic=TOPIC, cls_type="doomed")
def doomed(event):
    note("doomed", event["header"]["id"])
    raise ValueError("never works")


@consumer_config(topic=TOPIC, cls_type="elsewhere", queue="other")
def elsewhere(event):
    note("elsewhere", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="slow")
def slow(event):
    note("slow", event["header"]["id"])
    time.sleep(event["payload"]["seconds"])
    note("slow-done", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type="long", time_limit=1)
def too_long(event):
    note("too_long", event["header"]["id"])
    time.sleep(30)
"""


class Project:
    """A folder with a consumer package, a configuration and a ledger.

    :param config: the text of its ``celeryconfig.py``, besides the packages to scan.
    """

    def __init__(self, folder: Path, topic: str, config: str = "") -> None:
        self.folder = folder
        self.topic = topic
        self.ledger = folder / "ledger.jsonl"
        self.ledger.touch()
        package = folder / "proj"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "consumers.py").write_text(CONSUMERS)
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration."""
        text = "balog_packages = ['proj']\nbalog_wait_time = 1\nbalog_drain = 10\n" + textwrap.dedent(config)
        (self.folder / "celeryconfig.py").write_text(text)

    @property
    def env(self) -> dict[str, str]:
        """What the consumers need in their environment."""
        return {"LEDGER": str(self.ledger), "TOPIC": self.topic}

    def entries(self) -> list[dict[str, Any]]:
        """What the consumers did, in order."""
        lines = self.ledger.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def runs(self) -> Counter[tuple[str, str]]:
        """How often each consumer ran for each event."""
        return Counter((entry["consumer"], entry["event"]) for entry in self.entries())

    def wait_for(self, condition: Callable[[Counter[tuple[str, str]]], bool], timeout: float = 40.0) -> None:
        """Wait until *condition* holds of :meth:`runs`."""
        deadline = time.monotonic() + timeout
        while not condition(runs := self.runs()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s: {dict(runs)}")
            time.sleep(0.05)
