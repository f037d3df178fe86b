"""Messages and events that are not dispatched: undecodable, without a consumer, or poison."""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..consumers.delivery import Delivery, Job, Settlement, settle
from ..dead_letters.original import OriginalMessage
from ..events.limits import MAX_TRIES
from ..events.records import FacilityRecord, as_event
from ..signals import event_unmatched
from ..sqs.messages import Message
from ..text import printable
from .poison import PoisonMessages
from .topic import Topic

logger = logging.getLogger(__name__)

#: How many message ids are remembered, so that a message received again is not logged again.
_REMEMBERED = 10_000


class Undispatched:
    """Ends what one poller does not dispatch: in the dead-letter queue, by the default event handler, or by a delete.

    A message that can be neither deleted nor kept as a dead letter stays in its queue until its visibility timeout
    ends.
    """

    def __init__(self, topic: Topic) -> None:
        self.poison = PoisonMessages()
        self._name = topic.name
        self._source = topic.source
        self._dead_letters = topic.dead_letters
        self._default_event_handler = topic.config.default_event_handler
        self._stats = topic.stats
        self._logged: OrderedDict[str, None] = OrderedDict()

    def undecodable(self, delivery: Delivery, reason: str) -> None:
        """Make a dead letter of a message that cannot be decoded."""
        message = delivery.message
        self._stats.add("undecodable")
        is_dead = self._dead_letter(message, message.body, "undecodable", reason)
        _end(delivery, is_done=is_dead)
        if self._is_new(message):
            logger.error(
                "message %s of %s cannot be decoded (%s): %s",
                printable(message.message_id),
                printable(self._name),
                printable(reason),
                self._place(is_dead),
            )

    def unmatched(self, delivery: Delivery, events: Sequence[tuple[FacilityRecord, str]]) -> None:
        """End a message whose *events*, if any, match no consumer."""
        message = delivery.message
        if not events:
            self._stats.add("empty")
            if self._is_new(message):
                logger.info(
                    "message %s of %s has no events: deleted", printable(message.message_id), printable(self._name)
                )
        _end(delivery, is_done=self._end_events(message, events))

    def unmatched_beside(self, delivery: Delivery, events: Sequence[tuple[FacilityRecord, str]]) -> None:
        """End the unmatched *events* of a message that has others; they count as one of its jobs."""
        is_done = False
        try:
            is_done = self._end_events(delivery.message, events)
        except BaseException as error:
            is_done = self._is_poison(delivery.message, error)
        # Not released: received again at once, it would fail again at once.
        settle([delivery], Settlement.ACKNOWLEDGE if is_done else Settlement.EXPIRE)

    def fault(self, delivery: Delivery, error: BaseException) -> None:
        """End a message with which this package's code failed."""
        _end(delivery, is_done=self._is_poison(delivery.message, error))

    def suspect(self, jobs: Sequence[Job]) -> None:
        """Note that dispatching *jobs* failed. The culprit is known if they are from one message."""
        self._stats.add("faults")
        message_ids = {job.delivery.message.message_id for job in jobs}
        for message_id in message_ids:
            (self.poison.failed if len(message_ids) == 1 else self.poison.suspect)(message_id)

    def give_up(self, delivery: Delivery) -> None:
        """Make a dead letter of a poison message."""
        _end(delivery, is_done=self._give_up(delivery.message))

    def unreadable_version(self, message: Message, event: FacilityRecord) -> None:
        """Report an event whose schema version cannot be parsed."""
        self._stats.add("unreadable_version")
        if self._is_new(message):
            logger.warning(
                "event %s of %s has schema %s, which is not a version: it matches no version condition",
                printable(event.header.id),
                printable(self._name),
                printable(event.schema_version),
            )

    def _is_poison(self, message: Message, error: BaseException) -> bool:
        """Report *error*. Return True if the message has failed too often and is a dead letter now."""
        self._stats.add("faults")
        logger.error(
            "unexpected error with message %s of %s: it will be received again",
            printable(message.message_id),
            printable(self._name),
            exc_info=error,
        )
        tries = max(message.receive_count, self.poison.failed(message.message_id))
        return tries >= MAX_TRIES and self._give_up(message)

    def _give_up(self, message: Message) -> bool:
        reason = f"the engine failed with it {MAX_TRIES} times or more: its log has the errors"
        try:
            is_dead = self._dead_letter(message, message.body, "fault", reason)
        except Exception:
            logger.exception(
                "message %s of %s cannot be made a dead letter", printable(message.message_id), printable(self._name)
            )
            return False
        if self._is_new(message):
            logger.error(
                "message %s of %s makes the engine fail: %s",
                printable(message.message_id),
                printable(self._name),
                self._place(is_dead),
            )
        return is_dead

    def _end_events(self, message: Message, events: Sequence[tuple[FacilityRecord, str]]) -> bool:
        """Handle each unmatched event. Return False if the message is still needed because of one."""
        ended = [self._end_event(message, event, text, len(events)) for event, text in events]
        return all(ended)

    def _end_event(self, message: Message, event: FacilityRecord, text: str, events: int) -> bool:
        self._stats.add("unwanted")
        if event_unmatched.receivers:
            event_unmatched.send(self._name, event=event)
        if self._default_event_handler is not None:
            return self._call_default_handler(
                self._default_event_handler, message, event, OriginalMessage.of(message, text, events), text
            )
        logger.info(
            "event %s of %s matches no consumer (cls_type %s, schema %s): deleted",
            printable(event.header.id),
            printable(self._name),
            printable(event.payload.cls_type),
            printable(event.schema_version),
        )
        return True

    def _call_default_handler(
        self,
        handler: Callable[[Any], Any],
        message: Message,
        event: FacilityRecord,
        original: OriginalMessage,
        text: str,
    ) -> bool:
        try:
            result = handler(as_event(event))
            if inspect.isgenerator(result) or inspect.iscoroutine(result):
                result.close()  # without a warning that says the same
                raise TypeError(f"it returned a {type(result).__name__}, so none of its code has run")
        except Exception as error:
            self._stats.add("failed")
            is_dead = self._dead_letter(
                message, text, "default_event_handler", repr(error), event_id=event.header.id, original=original
            )
            if self._is_new(message):
                logger.exception(
                    "the default event handler failed on event %s of %s: %s",
                    printable(event.header.id),
                    printable(self._name),
                    self._place(is_dead),
                )
            return is_dead
        return True

    def _dead_letter(
        self,
        message: Message,
        body: str,
        reason: str,
        error: str,
        *,
        event_id: str = "",
        original: OriginalMessage | None = None,
    ) -> bool:
        """Make a dead letter of *body*. Return False if that is impossible; a redrive policy may move the message."""
        is_dead = bool(
            self._dead_letters.send_received(
                message, body, self._source, reason, error=error, event_id=event_id, original=original
            )
        )
        if is_dead:
            self._stats.add("dead")
        return is_dead

    def _place(self, is_dead: bool) -> str:
        return f"moved to {self._dead_letters.name(self._source)}" if is_dead else "it stays in the queue"

    def _is_new(self, message: Message) -> bool:
        """Return True for a message that was not logged yet."""
        if message.message_id in self._logged:
            return False
        self._logged[message.message_id] = None
        if len(self._logged) > _REMEMBERED:
            self._logged.popitem(last=False)
        return True


def _end(delivery: Delivery, *, is_done: bool) -> None:
    delivery.settle_now(Settlement.ACKNOWLEDGE if is_done else Settlement.EXPIRE)
