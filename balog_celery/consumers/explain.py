"""Explains why a consumer gets an event, or does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..events.conditions import VersionCondition, matches, parse_version
from ..events.patterns import view_of
from ..events.records import FacilityRecord
from ..sqs.addresses import queue_name
from ..text import printable
from .consumer import Consumer


class Reason(NamedTuple):
    """One reason why a consumer does not get an event.

    :param code: ``topic``, ``cls_type``, ``version unreadable``, ``version`` or ``where``.
    :param text: the reason in words, on one line.
    """

    code: str
    text: str


def why_not(consumer: Consumer, event: FacilityRecord, attributes: Mapping[str, Any] | None = None) -> list[Reason]:
    """Return every reason why *consumer* does not want *event*, regardless of its topic; none if it wants it.

    :param attributes: the message's; None if they are not known, and then no condition on them is a reason.
    """
    found = []
    if consumer.cls_types and not any(matches(wanted, event.payload.cls_type) for wanted in consumer.cls_types):
        wanted = ", ".join(sorted(consumer.cls_types))
        found.append(Reason("cls_type", printable(f"cls_type {event.payload.cls_type} is not {wanted}")))
    if consumer.condition is not None:
        found += _version_reasons(consumer.condition, event.schema_version)
    if consumer.pattern is not None:
        failing = consumer.pattern.failing(view_of(event, attributes))
        found += [Reason("where", printable(text, 300)) for text in failing]
    return found


def _version_reasons(condition: VersionCondition, schema: str) -> list[Reason]:
    version = parse_version(schema)
    if version is None:
        text = f"schema {schema} is not a version, and the consumer asks for {condition}"
        return [Reason("version unreadable", printable(text))]
    failing = condition.failing(version)
    return [Reason("version", printable(f"version {schema} is not {','.join(failing)}"))] if failing else []


def explain(
    event: FacilityRecord,
    topics: Mapping[str, Iterable[Consumer]],
    sent_to: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> dict[Consumer, list[Reason]]:
    """Return for each consumer why it does not get *event*; consumers that get it have no reasons.

    :param topics: the consumers of each topic.
    :param sent_to: the topic to which the event is sent, by name or URL; None: any topic will do.
    :param attributes: as for :func:`why_not`.
    """
    verdicts: dict[Consumer, list[Reason]] = {}
    for topic, consumers in topics.items():
        elsewhere = sent_to is not None and queue_name(topic) != queue_name(sent_to)
        reasons = [Reason("topic", f"it listens to {printable(topic)}")] if elsewhere else []
        verdicts |= {consumer: [*reasons, *why_not(consumer, event, attributes)] for consumer in consumers}
    return verdicts
