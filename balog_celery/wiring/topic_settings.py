"""The settings of single topics, ``balog_topics``: which topic each entry means, and the settings that result."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..consumers.consumer import Consumer
from ..consumers.operator import resolve_topic
from ..engine.queue_checks import check_dead_letter
from ..errors import ConfigurationError
from ..settings import PREFIX, Settings
from ..sqs.addresses import dead_letter_topic, is_url, queue_name, topics_named


def settings_by_topic(
    settings: Settings, topics: Mapping[str, Sequence[Consumer]], operator: Any
) -> dict[str, Settings]:
    """Return the settings of each topic that has some of its own.

    :param topics: the consumers of each topic, as it is resolved.
    :param operator: the consumer operator, which resolves placeholders in a topic's name.
    :raises ConfigurationError: an entry is for no consumer's topic, two are for the same, or no queue of SQS can have
        the name of a topic's dead-letter queue.
    """
    found: dict[str, Settings] = {}
    named: dict[str, str] = {}
    for name, own in settings.topics.items():
        meant = sorted(_meant(name, topics, operator))
        if not meant:
            raise ConfigurationError(
                f"{PREFIX}topics[{name!r}] = {own.model_dump(exclude_unset=True)!r} is for no consumer's topic: "
                f"{_hint(name, topics)}"
            )
        for topic in meant:
            if topic in found:
                raise ConfigurationError(
                    f"{PREFIX}topics[{named[topic]!r}] and {PREFIX}topics[{name!r}] are the same topic, {topic!r}: "
                    "make them one entry"
                )
            named[topic] = name
            found[topic] = settings.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
    for topic in topics if settings.event_broker_url is None else ():  # another broker has no such rules
        check_dead_letter(topic, dead_letter_topic(found.get(topic, settings).dead_letter, topic))
    return found


def _meant(name: str, topics: Mapping[str, Sequence[Consumer]], operator: Any) -> set[str]:
    """Return the topics that *name* means: as a consumer has it, as it is resolved, by the queue's name or URL."""
    meant = {topic for topic, consumers in topics.items() if name in {one.topic for one in consumers}}
    for resolved in {name, *_resolved(name, operator)}:
        meant.update(topics_named(resolved, topics))
        if is_url(resolved) and len(same := topics_named(queue_name(resolved), topics)) == 1 and not is_url(same[0]):
            meant.update(same)  # the topic's consumers name the queue without its account and region
    return meant


def _resolved(name: str, operator: Any) -> Iterator[str]:
    if "{" in name:
        try:
            yield resolve_topic(operator, Consumer(_no_consumer, name))
        except ConfigurationError:
            return  # an entry for no topic


def _no_consumer(_event: Any) -> None:
    """Stands for the function of a consumer of which only the topic counts."""


def _hint(name: str, topics: Mapping[str, Sequence[Consumer]]) -> str:
    known = sorted({*topics, *(one.topic for consumers in topics.values() for one in consumers)})
    if not known:
        return "there are no consumers"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the topics are {', '.join(sorted(topics))}"
