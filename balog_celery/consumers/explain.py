"""Why a consumer gets an event, or does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..records import FacilityRecord
from ..settings import queue_name
from ..text import printable
from .consumer import Consumer
from .predicates import matches, parse_version


class Reason(NamedTuple):
    """One reason why a consumer does not get an event.

    :param code: ``topic``, ``cls_type``, ``version unreadable`` or ``version``.
    :param text: the reason in words, fit for one line.
    """

    code: str
    text: str


def why_not(consumer: Consumer, event: FacilityRecord) -> list[Reason]:
    """Every reason why *consumer* does not want *event*, whatever its topic; none if it wants it."""
    found = []
    if consumer.cls_types and not any(matches(wanted, event.payload.cls_type) for wanted in consumer.cls_types):
        wanted = ", ".join(sorted(consumer.cls_types))
        found.append(Reason("cls_type", printable(f"cls_type {event.payload.cls_type} is not {wanted}")))
    if consumer.condition is not None:
        schema = event.schema_version
        version = parse_version(schema)
        if version is None:
            found.append(
                Reason(
                    "version unreadable",
                    printable(f"schema {schema} is no version, and it asks for {consumer.condition}"),
                )
            )
        elif failing := consumer.condition.failing(version):
            found.append(Reason("version", printable(f"version {schema} is not {','.join(failing)}")))
    return found


def explain(
    event: FacilityRecord, topics: Mapping[str, Iterable[Consumer]], sent_to: str | None = None
) -> dict[Consumer, list[Reason]]:
    """Why each consumer does not get *event*: no reasons for those that get it.

    :param topics: the consumers of each topic.
    :param sent_to: the topic to which the event is sent, by name or URL; None: the topic is not looked at.
    """
    verdicts: dict[Consumer, list[Reason]] = {}
    for topic, consumers in topics.items():
        elsewhere = sent_to is not None and queue_name(topic) != queue_name(sent_to)
        reasons = [Reason("topic", f"it listens to {printable(topic)}")] if elsewhere else []
        verdicts |= {consumer: [*reasons, *why_not(consumer, event)] for consumer in consumers}
    return verdicts
