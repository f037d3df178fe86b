"""Faults by chance: which call goes wrong, and how, is drawn from a seed and counted by kind.

The draws follow the seed; which call meets which draw depends on the timing of processes, and so differs from run to
run. Each kind happens at its first chance, so that no run lacks one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from .causes import Causes
from .errors import ApiError, denied
from .message import StoredMessage
from .nonsense import forms
from .queue import StoredQueue
from .script import Fault
from .store import SqsStore, arn_of

#: What may happen to a whole call, and how often, by the kind of fault (as ``faults.py --faults`` names them).
CALL_FAULTS = {
    "sqs": {
        "error_500": 0.03,
        "error_503": 0.03,
        "throttled": 0.03,
        "throttled_403": 0.02,
        "dropped_before": 0.03,
        "dropped_after": 0.05,
        "delayed": 0.05,
    },
    "nonsense": {"nonsense": 0.1},
    "slow": {"slow": 0.1, "hanging": 0.02},
}
#: The permissions that a worker may lack for a while.
PERMISSIONS = ("ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "ReceiveMessage", "SendMessage")
#: What an outage may consist of: every call of a few seconds, longer than the client's own quick retries.
OUTAGE_FAULTS = {
    "sqs": ("error_500", "error_503", "throttled", "dropped_before", "dropped_after"),
    "nonsense": ("nonsense",),
    "permissions": tuple(f"denied_{permission}" for permission in PERMISSIONS),
}
#: How often an entry of a batch fails, without and with being carried out.
ENTRY_FAULTS = {"entry_not_done": 0.1, "entry_done": 0.1}
#: How often a received message stays visible to another receive at once, and a deleted one is delivered once more.
DELIVERY_FAULTS = {"delivered_twice": 0.05, "delivered_after_delete": 0.01}
#: The pause between outages and the length of one, in seconds.
PAUSE = (3.0, 8.0)
OUTAGE = (1.0, 3.5)
#: Seconds that a delayed answer, a slow one and one that never comes take.
DELAYS = {"delayed": (0.2, 2.0), "slow": (2.0, 5.0), "hanging": (15.0, 30.0)}

_ERRORS = {
    "error_500": ApiError("InternalFailure", status=500, sender_fault=False),
    "error_503": ApiError("ServiceUnavailable", status=503, sender_fault=False),
    "throttled": ApiError("ThrottlingException"),
    "throttled_403": ApiError("RequestThrottled", status=403),
}


class Chance:
    """Draws the faults of a store's calls while it is :attr:`on`.

    :param kinds: the kinds of fault that there are.
    :param seed: of the draws.
    :param gap: how many times rarer than usual each of them is.
    """

    def __init__(self, store: SqsStore, kinds: Collection[str], seed: int, gap: float = 1.0) -> None:
        self.on = False
        self.counts: Counter[str] = Counter()
        self.causes = Causes(store)
        self._store = store
        self._gap = gap
        self._random = random.Random(seed)
        self._calls = {
            fault: often for kind in CALL_FAULTS if kind in kinds for fault, often in CALL_FAULTS[kind].items()
        }
        self._outages = [fault for kind in OUTAGE_FAULTS if kind in kinds for fault in OUTAGE_FAULTS[kind]]
        self._delivery = "sqs" in kinds
        self._outage: str | None = None
        self._forms_seen: set[str] = set()
        self._changes_at = 0.0
        store.on_stale = self._on_stale

    def switch(self, on: bool) -> None:
        """Start or end all faults."""
        self.on = on
        self._outage = None
        self._changes_at = self._store.clock.now() + self._gap * self._random.uniform(*PAUSE)

    def fault(self, action: str, asked: Any) -> Fault | None:
        """Return the fault of a call that arrives now, and count it."""
        if not self.on:
            return None
        self._advance()
        denies = (self._outage or "").startswith("denied")
        kind = self._drawn(self._calls) if denies or not self._outage else self._outage
        fault = self._denial(action, asked) or (self._made(kind, action) if kind else None)
        if fault is None and action.endswith("Batch") and self._delivery:
            fault = self._of_entry(asked)
        if fault is not None:
            self.counts[fault.name] += 1
            self.causes.went_wrong(action, asked, fault.entries)
        return fault

    def _made(self, kind: str, action: str) -> Fault:
        if kind == "nonsense":
            wanted = forms(action)
            form = next((form for form in wanted if form not in self._forms_seen), self._random.choice(wanted))
            self._forms_seen.add(form)
            return Fault(form=form, carried_out=self._random.random() < 0.5, name=kind)
        if kind in _ERRORS:
            return Fault(error=_ERRORS[kind], name=kind)
        if kind in ("dropped_before", "dropped_after"):
            return Fault(hang_up=True, carried_out=kind == "dropped_after", name=kind)
        late = self._random.uniform(*DELAYS[kind])
        return Fault(delay=late, hang_up=kind == "hanging", carried_out=True, name=kind)

    def _denial(self, action: str, asked: Any) -> Fault | None:
        """Return the refusal of a call for which the caller lacks the permission now."""
        permission = action.removesuffix("Batch")
        if self._outage != f"denied_{permission}":
            return None
        name = asked.get("QueueName") or asked.get("QueueUrl", "").rpartition("/")[2]
        return Fault(error=denied(permission, arn_of(name)), name="refused_for_permission")

    def _of_entry(self, asked: Any) -> Fault | None:
        """Return a fault of one entry of a batch."""
        kind = self._drawn(ENTRY_FAULTS)
        if kind is None:
            return None
        entries = asked.get("Entries") or [None]
        error = ApiError("InternalError", sender_fault=self._random.random() < 0.5)
        position = self._random.randrange(len(entries))
        return Fault(error=error, entries={position}, carried_out=kind == "entry_done", name=kind)

    def _happens(self, kind: str) -> bool:
        """Whether a message is to be delivered once more than it should be."""
        return self.on and self._delivery and self._drawn({kind: DELIVERY_FAULTS[kind]}) is not None

    def received(self, queue: StoredQueue, message: StoredMessage) -> None:
        """A message was received: the store's hook."""
        self.causes.received(message)
        if message.exposed:
            message.exposed = False
        elif not queue.is_fifo and self._happens("delivered_twice"):
            self.counts["delivered_twice"] += 1
            queue.expose(message)

    def deleted(self, queue: StoredQueue, message: StoredMessage) -> None:
        """A message was deleted: the store's hook."""
        if not queue.is_fifo and self._happens("delivered_after_delete"):
            self.counts["delivered_after_delete"] += 1
            self.causes.restored(message)
            queue.restore(message)

    def _on_stale(self, what: str) -> None:
        """A stale handle is refused, or taken without effect: SQS promises neither."""
        if self._random.random() < 0.5:
            self.counts["stale_handle_ignored"] += 1
            return
        self.counts["stale_handle_refused"] += 1
        raise ApiError("ReceiptHandleIsInvalid", f"the handle to {what} is not the latest")

    def _advance(self) -> None:
        now = self._store.clock.now()
        if now < self._changes_at or not self._outages:
            return
        if self._outage is not None:
            self._outage = None
            self._changes_at = now + self._gap * self._random.uniform(*PAUSE)
            return
        unseen = [kind for kind in self._outages if not self.counts[kind]]
        self._outage = self._random.choice(unseen or self._outages)
        self._changes_at = now + self._random.uniform(*OUTAGE)
        self.counts["outage"] += 1
        if self._outage.startswith("denied"):
            self.counts[self._outage] += 1

    def _drawn(self, table: Mapping[str, float]) -> str | None:
        if unseen := next((kind for kind in table if not self.counts[kind]), None):
            return unseen
        draw = self._random.random() * self._gap
        for kind, probability in table.items():
            if draw < probability:
                return kind
            draw -= probability
        return None
