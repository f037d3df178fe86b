"""How consumers are operated: which queue a topic is, and how a function is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import BatchFailure, ConfigurationError
from ..records import FacilityRecord
from ..text import printable
from .consumer import Consumer, check_batch_topic


class ConsumerOperator:
    """Operates consumers: topics are taken as written, functions are called with the event alone.

    Subclass it, or give any object that has both methods, to fill in topics and to pass more arguments.
    """

    def get_topic(self, consumer: Consumer) -> str:
        """The name or URL of the queue that *consumer* listens to."""
        return consumer.topic

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        """Call the function of *consumer* with *event*, or a list of them if it takes batches; what it returns is the
        result of the task."""
        return consumer.func(event)


def resolve_topic(operator: Any, consumer: Consumer) -> str:
    """Ask *operator* for the topic of *consumer*, and check that it is one.

    :raises ConfigurationError: the operator failed, or left a placeholder in the name; or the topic is not for batches.
    """
    try:
        topic = operator.get_topic(consumer)
    except Exception as error:
        raise ConfigurationError(
            f"{type(operator).__name__}.get_topic failed for {consumer.task_name} (topic {consumer.topic!r}): {error!r}"
        ) from error
    if not isinstance(topic, str) or not topic or "{" in topic:
        raise ConfigurationError(
            f"the topic of {consumer.task_name} is {topic!r}, which is no queue's name or URL: "
            "give a consumer operator whose get_topic fills in the placeholders"
        )
    check_batch_topic(consumer, topic)
    return topic


def check_operator(operator: Any) -> None:
    """Check that *operator* has the two methods of a consumer operator.

    :raises ConfigurationError: it has not.
    """
    for method in ("get_topic", "process_event"):
        if not callable(getattr(operator, method, None)):
            raise ConfigurationError(f"the consumer operator {operator!r} has no method {method}")


#: A reason is no longer than that, in characters: a batch has many.
_REASON = 500


class Processed(NamedTuple):
    """What a batch consumer did with its events. Those that failed are told by their position, with the reason."""

    #: What its function returned; None if it was not called, as there was nothing for it.
    result: Any
    #: What the function says of, and what may work another time.
    failed: dict[int, str]
    #: What it was not called with, because it is not what the function's model asks for.
    unfit: dict[int, str]


def process_batch(operator: Any, consumer: Consumer, records: Iterable[FacilityRecord]) -> Processed:
    """Have *operator* call the function of *consumer*, which takes batches, with *records*, each looked at but once.

    :raises ValueError: the function names a failed event that is none of the batch.
    :raises Exception: whatever else it raises, and then all of the events have failed.
    """
    arguments: dict[int, Any] = {}
    unfit: dict[int, str] = {}
    ids: list[str] = []
    for position, record in enumerate(records):
        ids.append(record.header.id)
        try:
            arguments[position] = consumer.argument(record)
        except Exception as error:
            unfit[position] = printable(repr(error), _REASON)
    if not arguments:
        return Processed(None, {}, unfit)
    try:
        result = operator.process_event(consumer, list(arguments.values()))
    except BatchFailure as failure:
        result = failure
    if not isinstance(result, BatchFailure):
        return Processed(result, {}, unfit)
    cause = result.__cause__ or result.__context__
    why = repr(cause) if cause else "the function says that it failed"
    failed: dict[int, str] = {}
    for which, reason in result.failed.items():
        for position in _positions(which, list(arguments), ids):
            failed[position] = printable(reason or why, _REASON)
    return Processed(None, failed, unfit)


def _positions(which: int | str, given: Sequence[int], ids: Sequence[str]) -> list[int]:
    """Where the events are that a function calls *which*, of those that it was given, by all the events' *ids*."""
    if isinstance(which, int):
        found = [given[which]] if 0 <= which < len(given) else []
    else:
        found = [position for position in given if ids[position] == which]
    if not found:
        raise ValueError(
            f"BatchFailure names {which!r}, which is neither the index nor the id of an event of the batch"
        )
    return found
