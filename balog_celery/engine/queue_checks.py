"""What an engine checks, and logs, about its queues before it receives."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence

from ..dead_letters.writer import DeadLetters
from ..errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from ..sqs.codes import MISCONFIGURED, may_be_renewed
from ..sqs.protocols import Connect, Queue
from ..sqs.queue_names import check_queue
from ..sqs.queues import SQSQueue
from ..text import printable
from ..threads import StopFlag
from .config import EngineConfig
from .visibility_timeout import VisibilityTimeout

logger = logging.getLogger(__name__)


def check_dead_letters(topics: Iterable[str], dead_letters: DeadLetters, on_sqs: Container[str] = ()) -> None:
    """Check that no topic is its own dead-letter queue, from which each dead letter would come again at once.

    :param on_sqs: the topics whose dead-letter queues must have names that SQS allows.
    :raises ConfigurationError: one is, or has no such name.
    """
    for topic in topics:
        if topic in on_sqs:
            check_dead_letter(topic, dead_letters.name(topic))
        if (dead_letters.name(topic) or "").rstrip("/") == topic.rstrip("/"):
            raise ConfigurationError(
                f"topic {printable(topic)!r} is its own dead-letter queue, so each dead letter would come again "
                "and be another: correct balog_dead_letter"
            )


def check_dead_letter(topic: str, name: str | None) -> None:
    """Check that SQS can have the queue *name* for the dead letters of *topic*; None: there are none.

    :raises ConfigurationError: it cannot.
    """
    if name is not None:
        check_queue(name, what=f"dead-letter queue of {printable(topic)!r} (balog_dead_letter),")


def check_queues(
    queues: Mapping[str, Queue], config: EngineConfig, dead_letters: DeadLetters, connect: Connect, stop: StopFlag
) -> dict[str, VisibilityTimeout]:
    """Check that the queue of each topic exists, and log what becomes of its bad messages.

    :param stop: ends the checks where SQS does not answer, as each then takes seconds.
    :returns: the visibility timeout to receive with, by topic.
    :raises ConfigurationError: queues are missing, one is its own dead-letter queue, two topics are one queue, or no
        client of SQS can be made.
    :raises AccessDenied: the credentials are missing, wrong, or lack a permission.
    """
    visibilities: dict[str, VisibilityTimeout] = {}
    missing: list[str] = []
    same: dict[str, list[str]] = {}
    is_answering = True
    check_dead_letters(queues, dead_letters, {topic for topic, queue in queues.items() if isinstance(queue, SQSQueue)})
    for topic, queue in queues.items():
        attributes: Mapping[str, str] = {}
        visibility = visibilities[topic] = VisibilityTimeout(queue, config.of(topic).visibility_timeout)
        if not is_answering and stop.wait(0.0):
            continue
        try:
            if config.create_queues:
                _create(topic, queue, dead_letters, connect)
            attributes = queue.attributes()
            if isinstance(queue, SQSQueue):
                queue.payloads.check()
            visibility.read_from(attributes)
            # An old or small server may not tell it.
            same.setdefault(attributes.get("QueueArn", topic), []).append(topic)
        except QueueNotFound as error:
            missing.append(str(error))
            continue
        except QueueError as error:
            if isinstance(error, AccessDenied) and not may_be_renewed(error.code):
                raise
            if error.code in MISCONFIGURED:
                raise ConfigurationError(str(error)) from error
            is_answering = False
            logger.warning(
                "the attributes of queue %s are not known yet: %s; until they are, its messages are received with a "
                "visibility timeout of %d s",
                printable(topic),
                error,
                visibility.seconds,
            )
        _log_dead_letters(topic, attributes, dead_letters, has_default=config.default_event_handler is not None)
    if missing:
        raise ConfigurationError("; ".join(missing))
    check_distinct(same.values())
    return visibilities


def check_distinct(same: Iterable[Sequence[str]]) -> None:
    """Check that each queue is one topic: the events of one for consumers of the other would be deleted as unwanted.

    :param same: the topics of each queue.
    :raises ConfigurationError: one has several.
    """
    for topics in same:
        if len(topics) > 1:
            names = " and ".join(repr(printable(topic)) for topic in topics)
            raise ConfigurationError(f"topics {names} are the same queue: give all its consumers the same topic")


def _create(topic: str, queue: Queue, dead_letters: DeadLetters, connect: Connect) -> None:
    queue.create()
    dead = dead_letters.name(topic)
    if dead is not None:
        connect(dead).create()


def _log_dead_letters(
    topic: str, attributes: Mapping[str, str], dead_letters: DeadLetters, *, has_default: bool
) -> None:
    """Log where events go that cannot be decoded, that failed permanently, and that match no consumer."""
    name = dead_letters.name(topic)
    try:
        has_dead_letters = dead_letters.exists(topic)
    except QueueError as error:
        logger.warning("the dead-letter queue of %s cannot be checked yet: %s", printable(topic), error)
        return
    unmatched = "passed to the default event handler" if has_default else "deleted"
    if has_dead_letters and name is not None:
        logger.info(
            "topic %s: bodies that cannot be decoded and events that failed permanently go to %s; "
            "events that match no consumer are %s",
            printable(topic),
            printable(name),
            unmatched,
        )
        return
    redrive = attributes.get("RedrivePolicy")
    logger.warning(
        "topic %s has no dead-letter queue%s: bodies that cannot be decoded stay in it%s; events that failed "
        "permanently are logged whole as ERROR records; events that match no consumer are %s",
        printable(topic),
        f" {name!r}" if name else "",
        f" until its redrive policy {printable(redrive)} moves them" if redrive else " until they expire",
        unmatched,
    )
