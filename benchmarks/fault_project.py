"""The project that is put under faults: a folder with consumers, a configuration and a ledger, as a user has it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

TOPIC = "events"
#: Seconds after which SQS, and the Redis transport, deliver again what nobody settled.
SQS_VISIBILITY = 8
BROKER_VISIBILITY = 10

CONSUMERS = '''
"""Each function notes what it finished: one line, one write, so that a kill leaves all of it or nothing."""
import os
import random

from balog_celery.consumers import consumer_config
from balog_celery.queues import SQSQueue

LEDGER = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND)
random.seed()


def note(name, event):
    os.write(LEDGER, f"{name} {event['header']['id']}\\n".encode())


class Hiccup(Exception):
    pass


BATCH = int(os.environ["FAULTS_BATCH"])
batches = {"batch": BATCH, "batch_wait": 0.5} if BATCH else {}


# A task whose pool child was killed is retried after default_retry_delay: three minutes, if nothing else is said.
@consumer_config(topic="events", cls_type="ordinary", default_retry_delay=1, **batches)
def plain(events):
    for event in events if BATCH else [events]:
        note("plain", event)


@consumer_config(topic="events", cls_type="ordinary", autoretry_for=(Hiccup,), max_retries=20, default_retry_delay=1)
def flaky(event):
    if random.random() < 0.15:
        raise Hiccup
    note("flaky", event)


@consumer_config(topic="events", cls_type="doomed", default_retry_delay=1)
def doomed(event):
    raise ValueError("never works")


def unwanted(event):
    note("unwanted", event)


if "FAULTS_DELETE_FIRST" in os.environ:
    receive = SQSQueue.receive

    def receive_and_delete(self, limit, wait):
        """What a naive consumer does: what is received is deleted, and then worked on."""
        messages = receive(self, limit, wait)
        if messages:
            self.delete([message.handle for message in messages])
        return messages

    SQSQueue.receive = receive_and_delete
'''

CONFIG = """
broker_url = {broker_url!r}
broker_transport_options = {transport_options!r}
balog_packages = ["proj"]
balog_default_event_handler = "proj.consumers:unwanted"
balog_wait_time = 1
balog_drain = 2
balog_publish_timeout = 2
balog_dispatch = {dispatch!r}
balog_visibility_timeout = {visibility!r}
"""

#: Which consumers each kind of event must reach; what is no record reaches none and becomes a dead letter.
WANTED_BY = {
    "ordinary": ("plain", "flaky"),
    "doomed": ("doomed",),
    "nobody": ("unwanted",),
    "broken": ("undecodable",),
}
#: How many of a hundred events are of each kind.
SHARES = {"ordinary": 92, "doomed": 4, "nobody": 2, "broken": 2}


def write_project(folder: Path, broker_url: str, dispatch: str, *, redis: bool) -> Path:
    """Write the project into *folder*; return its ledger."""
    options = {
        "visibility_timeout": BROKER_VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it restores leaves its lock behind, by default for five minutes.
        "unacked_mutex_expire": 2,
    }
    package = folder / "proj"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "consumers.py").write_text(CONSUMERS)
    (folder / "celeryconfig.py").write_text(
        CONFIG.format(
            broker_url=broker_url,
            dispatch=dispatch,
            transport_options=options if redis else {},
            visibility=SQS_VISIBILITY,
        ).lstrip()
    )
    ledger = folder / "ledger"
    ledger.touch()
    return ledger


def bodies(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """The events to send: id, kind and message body of each."""
    draw = random.Random(seed)
    kinds = draw.choices(list(SHARES), list(SHARES.values()), k=count)
    for number, kind in enumerate(kinds):
        event_id = f"e{number}"
        yield event_id, kind, f"no record {event_id}" if kind == "broken" else _record(event_id, kind)


def event_id_of(body: str) -> str:
    """The id of the event in a message body that :func:`bodies` made."""
    if body.startswith("no record "):
        return body.removeprefix("no record ")
    return str(json.loads(body)["header"]["id"])


def _record(event_id: str, cls_type: str) -> str:
    header = {"id": event_id, "channel": "faults", "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}}
    return json.dumps({"schema": "0.0.1", "header": header, "payload": {"cls_type": cls_type, "filler": "x" * 200}})
