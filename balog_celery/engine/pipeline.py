"""Decodes received messages, routes their events to consumers, and dispatches the jobs."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

from ..consumers.context import MESSAGE, EventContext, message_header
from ..consumers.delivery import Delivery, Job, Settlement, State
from ..consumers.router import Router
from ..dead_letters.original import OriginalMessage
from ..dispatch.dispatcher import MANY_JOBS, DispatchError
from ..errors import DecodeError
from ..events.conditions import parse_version
from ..events.decoders.documents import Reading
from ..events.limits import MAX_TRIES, check_limits
from ..events.message import attributes_of
from ..events.records import FacilityRecord
from ..producer.lineage import cause_of
from ..signals import event_received
from ..sqs.messages import BATCH_SIZE, Message
from .outage import Outage
from .topic import Topic
from .undispatched import Undispatched


class MessagePipeline:
    """The way of a poller's messages from the receive to the dispatcher. Used by one thread.

    :param topic: the topic.
    :param stop: set when dispatching must not be retried.
    """

    def __init__(self, topic: Topic, stop: threading.Event) -> None:
        #: Whether the dispatcher takes jobs.
        self.outage = Outage(f"{topic.name}: dispatching")
        self._topic = topic
        self._name = topic.name
        self._stop = stop
        self._undispatched = Undispatched(topic)
        self._poison = self._undispatched.poison
        self._router = Router(topic.consumers)
        #: Messages with events of paused consumers. They stay in flight until :meth:`take_held`.
        self.held: deque[Delivery] = deque()
        #: What was paused when they were taken last.
        self.pauses = topic.config.pauses.now
        self._by_message = any(consumer.wants_message for consumer in topic.consumers)
        self._by_version = any(consumer.condition is not None for consumer in topic.consumers)

    def process(self, deliveries: Sequence[Delivery], *, has_room: bool = True) -> None:
        """Decode, route and dispatch *deliveries*. All of them are settled, or will be, even if this raises.

        Many jobs are dispatched in parts, for each of which the dispatcher is ready: other topics have their turns
        between them.

        :param has_room: whether the dispatcher has been ready; otherwise wait until it is.
        """
        jobs: list[Job] = []
        rejected: list[tuple[Delivery, Callable[[], None]]] = []
        failed: BaseException | None = None
        for delivery in (*deliveries, None):
            if delivery is not None:
                try:
                    self._decode(delivery, jobs, rejected)
                except BaseException as error:  # a decoder may call sys.exit()
                    self._undispatched.fault(delivery, error)
                if len(jobs) < MANY_JOBS:
                    continue
            # After each message with many events, so that those of several such messages are not in memory together.
            for together in self._without_suspects(jobs) if self._poison else [jobs] if jobs else []:
                while together:
                    size = 1 if has_room and len(together) == 1 else self._next_part(is_ready=has_room)
                    if not size:
                        self._release(together)
                        break
                    part, together, has_room = together[:size], together[size:], False
                    try:
                        self._dispatch(part)
                    except BaseException as error:
                        self._undispatched.suspect(part)
                        failed = failed or error
            jobs = []
        # After the dispatch, as these make calls to SQS.
        for delivery, reject in rejected:
            try:
                reject()
            except BaseException as error:
                self._undispatched.fault(delivery, error)
        for delivery in deliveries:
            if delivery.state is not State.RECEIVED:  # one that is held is decoded again
                delivery.drop_content()
        if failed is not None:
            raise failed

    def _next_part(self, *, is_ready: bool) -> int:
        """Return how many jobs to dispatch next, after waiting while consumers are busy; 0 at a stop.

        :param is_ready: whether the dispatcher has been ready.
        """
        topic = self._topic
        while not is_ready and not self._stop.is_set():
            readiness = topic.dispatcher.ready(topic.task_queues, 1.0)
            if not readiness and not readiness.is_back_pressure:
                return sys.maxsize  # dispatching reports the reason
            is_ready = bool(readiness)
        return (topic.dispatcher.room() or BATCH_SIZE) if is_ready else 0

    @property
    def held_size(self) -> int:
        """How much memory the bodies of the messages take that wait for paused consumers, in bytes."""
        return sum([sys.getsizeof(delivery.message.body) for delivery in list(self.held)])

    def take_held(self) -> list[Delivery]:
        """Return the messages that were held, after something was paused or resumed; they may be held again."""
        self.pauses = self._topic.config.pauses.now
        taken = [self.held.popleft() for _ in range(len(self.held))]
        lapsed = {delivery for delivery in taken if self._topic.extender.has_lapsed(delivery)}
        for delivery in lapsed:  # another engine may have it
            delivery.settle_now(Settlement.EXPIRE)
        return [delivery for delivery in taken if delivery not in lapsed]

    def release_held(self) -> None:
        """Release the messages that wait for paused consumers: the engine stops."""
        for _ in range(len(self.held)):
            self.held.popleft().settle_now(Settlement.RELEASE)

    def _hold(self, delivery: Delivery) -> None:
        self.held.append(delivery)
        if self._stop.is_set():
            self.release_held()

    def _waits(self, events: Sequence[tuple[FacilityRecord, str]], message: Message) -> bool:
        """Return whether an event of *message* is for a paused consumer: then all of it waits, for all consumers."""
        pauses, source = self._topic.config.pauses, self._topic.source
        attributes = attributes_of(message)
        return any(pauses.holds(source, self._router.route(event, attributes)) for event, _ in events)

    def _without_suspects(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Split *jobs* so that each message with which a dispatch failed before is dispatched alone."""
        together: list[Job] = []
        alone: dict[Delivery, list[Job]] = {}
        for job in jobs:
            is_suspect = job.delivery.message.message_id in self._poison
            (alone.setdefault(job.delivery, []) if is_suspect else together).append(job)
        return [group for group in (together, *alone.values()) if group]

    def _decode(self, delivery: Delivery, jobs: list[Job], rejected: list[tuple[Delivery, Callable[[], None]]]) -> None:
        """Append the jobs of a message to *jobs*, and what to do about the rest of it to *rejected*."""
        message = delivery.message
        if self._poison.get(message.message_id, 0) >= MAX_TRIES:
            rejected.append((delivery, partial(self._undispatched.give_up, delivery)))
            return
        if not message.sent:
            # What has no time has that of this receive, which a dead letter keeps.
            message = message._replace(sent=int(time.time() * 1000))
        config = self._topic.config
        try:
            if message.problem:
                raise DecodeError(message.problem)
            check_limits(message.body, config.max_depth, config.max_body_bytes)
            events = self._topic.reader(message)
            for _, text in events:
                if text is not message.body:
                    # A JSON text inside the body, as SNS sends it, did not count for the body's depth.
                    check_limits(text, config.max_depth)
        except DecodeError as error:
            rejected.append((delivery, partial(self._undispatched.undecodable, delivery, error.reason)))
            return
        if any(config.pauses.now) and self._waits(events, message):
            self._hold(delivery)
            return
        matched, unmatched = self._route(delivery, message, events)
        if not matched:
            rejected.append((delivery, partial(self._undispatched.unmatched, delivery, unmatched)))
        # All unmatched events of a message count as one job.
        elif delivery.dispatch(len(matched) + bool(unmatched)):
            jobs += matched
            if unmatched:
                rejected.append((delivery, partial(self._undispatched.unmatched_beside, delivery, unmatched)))

    def _route(
        self, delivery: Delivery, message: Message, events: Sequence[Reading]
    ) -> tuple[list[Job], list[Reading]]:
        """Match the *events* of a delivery with consumers. Return the jobs, and the events that match none.

        :param message: the delivery's, with a time.
        """
        received, now = delivery.message, int(time.time() * 1000)
        matched: list[Job] = []
        unmatched: list[Reading] = []
        attributes = attributes_of(message) if message.attributes or message.typed else message.attributes
        for event, text in events:
            header, emitted = event.header, int(event.header.timestamp.timestamp() * 1000)
            times = {"emitted": emitted, "sent": received.sent, "received": now}
            self._topic.lag.note(emitted, received.sent, now)
            if self._topic.telemetry is not None:
                self._topic.telemetry.arrived(self._name, times)
            if event_received.receivers:
                event_received.send(self._name, event=event)
            if self._by_version and parse_version(event.schema_version) is None:
                self._undispatched.unreadable_version(message, event)
            consumers = self._router.route(event, attributes)
            if not consumers:
                unmatched.append((event, text))
                continue
            kept, cause = OriginalMessage.of(message, text, len(events)), cause_of(event)
            receives = message.first_received, message.receive_count
            context = EventContext(header.id, event.payload.cls_type, times, *receives, message.group, kept, cause)
            full = headers = context.to_headers()
            if self._by_message:
                full = {**headers, MESSAGE: message_header(received, self._name)}
            for one in consumers:
                matched.append(Job(delivery, event, text, one, full if one.wants_message else headers))
        return matched, unmatched

    def _dispatch(self, jobs: Sequence[Job]) -> None:
        """Dispatch *jobs*, retrying until the dispatcher takes them; release them if it never does."""
        telemetry, is_dispatched = self._topic.telemetry, False
        try:
            with nullcontext() if telemetry is None else telemetry.dispatching(self._name, jobs):
                while not is_dispatched:
                    try:
                        self._topic.dispatcher.dispatch(jobs)
                        is_dispatched = True
                    except DispatchError as error:
                        if self._stop.wait(self.outage.failed(error)):
                            raise
        except BaseException as error:
            if not is_dispatched:  # else telemetry failed, and the jobs run
                self._release(jobs)
            if not isinstance(error, DispatchError):  # with that, the engine stops
                raise
        else:
            self.outage.succeeded()
            self._topic.stats.add("dispatched", len(jobs))

    def _release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            # Released at once, a message that failed before would be received and fail in a tight loop.
            has_failed = job.delivery.message.message_id in self._poison
            job.delivery.settle_now(Settlement.EXPIRE if has_failed else Settlement.RELEASE)
