"""Operators: which queue a topic is, and how a function is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import BatchFailure, ConfigurationError
from ..events.records import FacilityRecord
from ..signatures import why_not
from ..sqs.addresses import is_arn
from ..text import plain_topic, printable
from .consumer import Consumer, check_order


class ConsumerOperator:
    """The default operator: takes topics as written, and calls functions with the event alone.

    Subclass it, or give any object that has both methods, to fill in topics and to pass more arguments.
    """

    def get_topic(self, consumer: Consumer) -> str:
        """Return the name or URL of the queue that *consumer* listens to."""
        return consumer.topic

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        """Call the function of *consumer* with *event*, or with a list of events.

        The task's result is what this returns.
        """
        return consumer.func(event)


def resolve_topic(operator: Any, consumer: Consumer) -> str:
    """Ask *operator* for the topic of *consumer*, and check that it is one.

    :raises ConfigurationError: the operator failed, or left a placeholder in the name; or the topic is FIFO, and
        its tasks may have several events.
    """
    try:
        topic = operator.get_topic(consumer)
    except Exception as error:
        raise ConfigurationError(
            f"{type(operator).__name__}.get_topic failed for {consumer.task_name} (topic {consumer.topic!r}): {error!r}"
        ) from error
    topic = plain_topic(topic) if isinstance(topic, str) else topic
    if not isinstance(topic, str) or not topic or "{" in topic or is_arn(topic):
        raise ConfigurationError(
            f"the topic of {consumer.task_name} is {topic!r}, which is not a queue's name or URL: "
            "give a consumer operator whose get_topic fills in the placeholders"
        )
    check_order(consumer, topic)
    return topic


def check_operator(operator: Any) -> None:
    """Check that *operator* has the two methods of a consumer operator.

    :raises ConfigurationError: it has not, or one cannot be called as it is.
    """
    for method, *parameters in (("get_topic", "consumer"), ("process_event", "consumer", "event")):
        found = getattr(operator, method, None)
        if not callable(found):
            raise ConfigurationError(f"the consumer operator {operator!r} has no method {method}")
        if wrong := why_not(found, *parameters, may_await=method == "process_event"):
            raise ConfigurationError(f"{method} of the consumer operator {operator!r}: {wrong}")


#: The longest reason, in characters: a batch has many.
_REASON = 500


class EachResult(NamedTuple):
    """The outcome of a batch whose events were processed one by one: reasons by index."""

    #: Events to retry.
    failed: dict[int, str]
    #: Events that failed permanently.
    dead: dict[int, str]
    #: The error of the first that failed.
    cause: BaseException | None


class Processed(NamedTuple):
    """The outcome of a batch: failures have the positions of their events, with the reasons."""

    #: What the function returned; None if it was not called, because no event fits it.
    result: Any
    #: Events that the function reported as failed; they may be retried.
    failed: dict[int, str]
    #: Events that failed permanently, such as those that do not fit the function's model and were not passed to it.
    unfit: dict[int, str]
    #: The first error that is known, with its traceback.
    cause: BaseException | None = None


def process_batch(call: Callable[[list[Any]], Any], consumer: Consumer, records: Iterable[FacilityRecord]) -> Processed:
    """Call the function of the batch consumer *consumer* with *records*, which are read once.

    :param call: calls it with a list of events.
    :raises ValueError: the function names a failed event that is not in the batch.
    :raises Exception: the function raised it: all of the events have failed.
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
        result = call(list(arguments.values()))
    except BatchFailure as failure:
        result = failure
    if isinstance(result, EachResult):
        given = list(arguments)
        failed = {given[index]: printable(reason, _REASON) for index, reason in result.failed.items()}
        dead = {given[index]: printable(reason, _REASON) for index, reason in result.dead.items()}
        return Processed(None, failed, {**unfit, **dead}, result.cause)
    if not isinstance(result, BatchFailure):
        return Processed(result, {}, unfit)
    cause = result.__cause__ or result.__context__
    why = repr(cause) if cause else "the function says that it failed"
    failed = {}
    for which, reason in result.failed.items():
        for position in _positions(which, list(arguments), ids):
            failed[position] = printable(reason or why, _REASON)
    return Processed(None, failed, unfit, (cause or result) if failed else None)


def _positions(which: int | str, given: Sequence[int], ids: Sequence[str]) -> list[int]:
    """Return the positions, among *given*, of the events that *which* names, by index or by one of *ids*."""
    if isinstance(which, int):
        found = [given[which]] if 0 <= which < len(given) else []
    else:
        found = [position for position in given if ids[position] == which]
    if not found:
        raise ValueError(
            f"BatchFailure names {which!r}, which is neither the index nor the id of an event of the batch"
        )
    return found
