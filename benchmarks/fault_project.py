"""The project of the fault runs: a folder with consumers, a configuration and a ledger."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

TOPIC = "events"
#: The FIFO topic of the kind of fault of that name, its dead-letter queue, and how many groups its events are of.
ORDERED, ORDERED_DEAD, GROUPS = "ordered.fifo", "ordered-dead.fifo", 5
#: The queues on the broker; the second is bound to an exchange of its own.
QUEUES = ("celery", "routed")
#: Seconds after which SQS and the Redis transport deliver unsettled messages again.
SQS_VISIBILITY = 8
#: The KiB of memory with which Celery replaces a pool child, if consumers take that much.
MEMORY = 220_000
BROKER_VISIBILITY = 10

CONFIG = """
from kombu import Exchange, Queue

broker_url = {broker_url!r}
broker_transport_options = {transport_options!r}
task_queues = [Queue("celery"), Queue("routed", Exchange("routed", type="topic"), routing_key="routed")]
result_backend = {backend_url!r}
# A backend that is away, or hangs, is given up within a second or two, so that a short outage is one.
result_backend_transport_options = {{"retry_policy": {{"max_retries": 1, "interval_start": 0, "interval_step": 0.1}}}}
redis_socket_timeout = 1
redis_socket_connect_timeout = 1
balog_packages = ["proj"]
balog_default_event_handler = "proj.consumers:unwanted"
balog_wait_time = 1
balog_drain = 2
balog_publish_timeout = 2
balog_dispatch = {dispatch!r}
balog_visibility_timeout = {visibility!r}
worker_max_memory_per_child = {memory!r}
"""


class Kind(NamedTuple):
    """A kind of event."""

    #: The consumers that it must reach; what is no record reaches none and becomes a dead letter.
    wanted_by: tuple[str, ...]
    #: How many of all events are of this kind.
    share: float
    #: And how many at most: some take a pool child or seconds with them.
    most: int | None = None
    #: The kind of fault that they are or show; without it there are none.
    fault: str | None = None


#: All others are ordinary.
KINDS = {
    "doomed": Kind(("doomed",), 0.04),
    "unmatched": Kind(("unwanted",), 0.02),
    "broken": Kind(("undecodable",), 0.02),
    "spoilt": Kind(("plain",), 0.01),
    "tracked": Kind(("tracked", "by_hand"), 0.05, fault="backend"),
    "rejected": Kind(("rejecting",), 0.02, fault="backend"),
    "hangs": Kind(("hanging",), 0.01, most=30, fault="backend"),
    "exits": Kind(("exiting",), 0.01, most=30, fault="backend"),
    # Apart, for a message stays until the last of its consumers has finished, which hides what became of the others.
    "raises": Kind(("raising",), 0.02, most=100, fault="base-exceptions"),
    "raises-again": Kind(("stubborn",), 0.01, most=60, fault="base-exceptions"),
    "raises-together": Kind(("together",), 0.02, most=60, fault="base-exceptions"),
    "moved": Kind(("moved",), 0.05, fault="queue-deleted"),
    "ordered": Kind(("ordered",), 0.1, most=1000, fault="fifo"),
    "hungry": Kind(("hungry",), 0.02, most=60, fault="memory"),
}
ORDINARY = Kind(("plain", "flaky"), 1.0)
#: The least number of events of each kind.
FEWEST = 6


def write_project(
    folder: Path, dispatch: str, broker_url: str, backend_url: str | None, faults: Collection[str]
) -> Path:
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
    shutil.copy(Path(__file__).with_name("fault_consumers.py"), package / "consumers.py")
    (folder / "celeryconfig.py").write_text(
        CONFIG.format(
            broker_url=broker_url,
            backend_url=backend_url,
            dispatch=dispatch,
            transport_options=options if broker_url.startswith("redis") else {},
            visibility=SQS_VISIBILITY,
            memory=MEMORY if "memory" in faults else None,
        ).lstrip()
    )
    ledger = folder / "ledger"
    ledger.touch()
    return ledger


class Event(NamedTuple):
    """An event to send."""

    id: str
    kind: str
    body: str
    #: Its message group, if it goes to the FIFO topic.
    group: str = ""

    @property
    def wanted_by(self) -> tuple[str, ...]:
        """Return the consumers that the event must reach."""
        return KINDS.get(self.kind, ORDINARY).wanted_by


#: The kinds of event of which only a pool of processes survives the functions.
OF_PROCESSES = {"hangs", "exits", "raises", "raises-again", "raises-together", "hungry"}


def make_events(count: int, faults: Collection[str], seed: int, *, processes: bool = True) -> Iterator[Event]:
    """Return the events to send, of the kinds that these faults need.

    :param processes: whether the worker's pool is one of processes.
    """
    kinds: list[str] = []
    for name, kind in KINDS.items():
        if (kind.fault is None or kind.fault in faults) and (processes or name not in OF_PROCESSES):
            kinds += [name] * min(max(FEWEST, round(kind.share * count)), kind.most or count)
    kinds = kinds[:count] + ["ordinary"] * (count - len(kinds))
    random.Random(seed).shuffle(kinds)
    turns: Counter[str] = Counter()
    for number, name in enumerate(kinds):
        event_id = f"e{number}"
        turns[name] += 1
        body = f"no record {event_id}" if name == "broken" else _record(event_id, name, turns[name])
        yield Event(event_id, name, body, f"g{turns[name] % GROUPS}" if name == "ordered" else "")


def event_id_of(body: str) -> str:
    """Return the id of the event in a body that :func:`make_events` made."""
    if body.startswith("no record "):
        return body.removeprefix("no record ")
    return str(json.loads(body)["header"]["id"])


def _record(event_id: str, cls_type: str, turn: int) -> str:
    header = {"id": event_id, "channel": "faults", "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}}
    payload = {"cls_type": cls_type, "turn": turn, "filler": "x" * 200}
    return json.dumps({"schema": "0.0.1", "header": header, "payload": payload})
