"""Queue addresses: what a topic, given as a name or as a URL, says about its queue.

The rest of the package reads topics with these functions only, so a topic has the same name everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

#: Such as ``eu-west-1``, ``us-gov-east-1`` and ``eusc-de-east-1``.
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]{1,2}")
#: Labels that mark an SQS host; ``queue`` marks the legacy ones.
_SERVICE = {"sqs", "sqs-fips", "queue"}
#: The legacy host without a region belongs to this one.
_LEGACY_REGION = "us-east-1"
_ACCOUNT = re.compile(r"[0-9]{12}")


class QueueAddress(NamedTuple):
    """The address of a queue.

    :param name: the queue's name.
    :param region: its AWS region; None if the topic does not say.
    :param account: the id of its AWS account, 12 digits; None if the topic does not say.
    """

    name: str
    region: str | None = None
    account: str | None = None

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue, as the suffix ``.fifo`` says."""
        return self.name.endswith(".fifo")


def is_url(topic: str) -> bool:
    """Return whether *topic* is a queue URL, not a name."""
    return topic[:8].lower().startswith(("https://", "http://"))


def is_arn(topic: str) -> bool:
    """Return whether *topic* is the ARN of a queue, which SQS's API does not accept in place of a name or URL."""
    return topic.startswith("arn:")


def queue_address(topic: str) -> QueueAddress:
    """Return what *topic*, a queue's name or URL, says about the queue.

    The region is known for every kind of SQS host: regional, dual-stack, FIPS, China, VPC endpoint and legacy.
    """
    if not is_url(topic):
        return QueueAddress(topic)
    before, _, name = topic.rstrip("/").rpartition("/")
    account = before.rpartition("/")[2]
    return QueueAddress(name, _region_of(topic), account if _ACCOUNT.fullmatch(account) else None)


def queue_name(topic: str) -> str:
    """Return the queue's name in *topic*, a name or a URL."""
    return queue_address(topic).name


def topics_named(name: str, topics: Iterable[str]) -> list[str]:
    """Return those of *topics* that *name* can mean, sorted. A URL means that queue only, a name any queue so named."""
    if is_url(name):
        return [topic for topic in topics if topic == name]
    return sorted(topic for topic in topics if queue_name(topic) == name)


def dead_letter_topic(template: str | None, topic: str) -> str | None:
    """Return the dead-letter queue of *topic*, or None if *template* is None.

    It is in the same region and account: for a URL, the URL with the dead-letter queue's name. A ``.fifo`` suffix moves
    to the end.
    """
    if template is None:
        return None
    name = queue_name(topic)
    plain = name.removesuffix(".fifo")
    return beside(topic, template.format(topic=plain) + name[len(plain) :])


def beside(topic: str, other: str) -> str:
    """Return the topic for the queue *other* in the region and account of *topic*.

    :param other: a queue's name; a URL is returned unchanged.
    """
    if not is_url(topic) or is_url(other):
        return other
    return topic.rstrip("/").rpartition("/")[0] + "/" + other


def _region_of(url: str) -> str | None:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    labels = host.split(".")
    if _SERVICE.isdisjoint(labels):
        return None
    default = _LEGACY_REGION if host == "queue.amazonaws.com" else None
    return next((label for label in labels if _REGION.fullmatch(label)), default)
