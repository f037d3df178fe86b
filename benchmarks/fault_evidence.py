"""The kinds of fault, and by which counts a run shows that each has happened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

#: The kinds of fault that there are. Each has happened if every one of these counts is more than 0: of faults by their
#: names, of runs by the names of consumers.
EVIDENCE = {
    "sqs": (
        "delayed",
        "delivered_after_delete",
        "delivered_twice",
        "dropped_after",
        "dropped_before",
        "entry_done",
        "entry_not_done",
        "error_500",
        "error_503",
        "outage",
        "throttled",
        "throttled_403",
    ),
    "nonsense": ("nonsense",),
    "slow": ("slow", "hanging"),
    "permissions": (
        "denied_ChangeMessageVisibility",
        "denied_DeleteMessage",
        "denied_GetQueueAttributes",
        "denied_ReceiveMessage",
        "denied_SendMessage",
    ),
    "credentials": ("credentials_given",),
    "clock": ("clock_jumped",),
    "dns": ("names_failed", "failed_lookups"),
    "disk": ("disk_full",),
    "processes": ("child_killed", "engine_killed", "worker_killed", "worker_terminated", "group_killed"),
    "stopped": ("engine_stopped", "engine_stopped_briefly", "worker_stopped"),
    "replaced": ("worker_replaced",),
    "versions": ("engine_of_another_release", "worker_of_another_release", "versions_mixed"),
    "autoscale": ("pool_grow", "pool_shrink", "scaled_up"),
    "pauses": ("rate_limit", "cancel_consumer", "add_consumer", "balog_pause", "balog_resume"),
    "broker": ("broker_killed", "broker_frozen"),
    "broker-emptied": ("broker_emptied",),
    "queue-deleted": ("queue_deleted", "moved"),
    "backend": ("backend_killed", "backend_frozen", "hanging", "exiting", "rejecting"),
    "memory": ("hungry",),
    "base-exceptions": ("raising", "stubborn", "together"),
    "fifo": ("ordered",),
}
FAULTS = tuple(EVIDENCE)
#: What the log shows, by the name of its count.
LINES = {
    "versions_mixed": "the worker speaks version",
    "scaled_up": "Scaling up",
    "scaled_down": "Scaling down",
}


def in_log(log: str) -> Counter[str]:
    """Count the faults that show in the log of the workers and engines."""
    return Counter({name: len(re.findall(re.escape(line), log)) for name, line in LINES.items()})


def never_happened(kinds: Collection[str], counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Return, for each of *kinds* that has not happened in full, the counts that are 0."""
    missing = {kind: [name for name in EVIDENCE[kind] if not counts.get(name)] for kind in FAULTS if kind in kinds}
    return {kind: names for kind, names in missing.items() if names}
