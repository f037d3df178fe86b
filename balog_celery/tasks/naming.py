"""The ids of consumers' tasks, and the ``argsrepr`` that Celery, Flower and logs show in place of their arguments."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from functools import lru_cache

from ..events.records import FacilityRecord
from ..text import printable

#: The namespace of task ids: a name-based UUID (RFC 9562, version 5) of event id and task name.
_NAMESPACE = uuid.UUID("5a0c8a5e-52f3-5d0b-9c39-6d6c0f6b4f0a").bytes
#: The fourth group of a UUID begins with two bits that say that it is one: by the digit that they replace.
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
#: How much of a text is shown, in characters.
_SHOWN = 100


def task_id(event_id: str, task_name: str) -> str:
    """Return the id of the task that serves one event to one consumer. It is the same at each redelivery."""
    # As str(uuid.uuid5(...)), in a third of the time: this runs for every event.
    name = f"{event_id}:{task_name}".encode()
    digest = hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def batch_id(event_ids: Sequence[str], task_name: str) -> str:
    """Return the id of the task that serves these events, in any order, to one consumer as a batch."""
    return task_id(json.dumps(sorted(event_ids)), task_name)


def argsrepr(event: FacilityRecord, topic: str) -> str:
    """Return the ``argsrepr`` of an event's task: which event it is, without its content."""
    event_id = event.header.id
    if len(event_id) > _SHOWN or not event_id.isprintable():  # seldom, and a call takes time for every event
        event_id = printable(event_id, _SHOWN)
    return f"(<Event {event_id} cls_type={_common(event.payload.cls_type)} topic={_common(topic)}>,)"


def batch_argsrepr(events: Sequence[FacilityRecord], topic: str) -> str:
    """Return the ``argsrepr`` of a batch's task: how many events of which types, and the first one's id."""
    cls_types = printable(",".join(sorted({event.payload.cls_type for event in events})), _SHOWN)
    first = printable(events[0].header.id, _SHOWN) if events else "none"
    return f"(<Batch of {len(events)} events cls_type={cls_types} topic={_common(topic)} first={first}>,)"


@lru_cache(256)
def _common(text: str) -> str:
    """Return a text that many events have in common as it is shown."""
    return printable(text, _SHOWN)
