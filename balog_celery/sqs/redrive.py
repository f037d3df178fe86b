"""The redrive policy of a queue, by which SQS itself moves messages that were received too often."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import QueueError
from ..text import printable


class Redrive(NamedTuple):
    """A redrive policy.

    :param target: the name of the queue to which messages are moved.
    :param receives: the number of receives after which they are moved.
    """

    target: str
    receives: int


def redrive_of(attributes: Mapping[str, str]) -> Redrive | None:
    """Return the redrive policy in a queue's *attributes*, or None if it has none.

    :raises QueueError: it cannot be read.
    """
    text = attributes.get("RedrivePolicy") or "{}"
    try:
        policy = json.loads(text)
        if policy == {}:
            return None
        target = policy["deadLetterTargetArn"].rpartition(":")[2]
        receives = int(policy["maxReceiveCount"])
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        target, receives = "", 0
    if not target:
        raise QueueError(f"its RedrivePolicy cannot be read: {printable(text)}")
    return Redrive(target, receives)
