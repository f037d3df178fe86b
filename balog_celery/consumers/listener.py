"""Listens to one topic: receives, decodes, routes, dispatches, and sees to what cannot be."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from ..backoff import Backoff
from ..dead_letters import DeadLetters
from ..decoders import Reader
from ..errors import ConfigurationError, DecodeError, QueueError
from ..queues import BATCH_SIZE, Message, Queue
from ..records import FacilityRecord, as_event
from ..telemetry import Telemetry
from ..text import printable
from .bounds import check_bounds, check_depth
from .consumer import Consumer
from .delivery import GROUP, RECEIVES, TIMES, Delivery, Job, settle
from .dispatcher import Dispatcher, DispatchError
from .hub import Router
from .keeper import Keeper
from .lanes import Lanes
from .predicates import parse_version
from .stats import Lag, Stats

logger = logging.getLogger(__name__)

#: With so many deletes owed, SQS is in trouble: receiving more would only add to it.
MAX_OWED = 1000
#: How many message ids are remembered, so that one that comes again is not logged again.
_REMEMBERED = 10_000


class Listener:
    """One polling thread of a topic; of a FIFO topic also its lanes.

    :param queue: its queue.
    :param consumers: who listens to it.
    :param reader: reads the events of a body.
    :param keeper: keeps what is in flight.
    :param dispatcher: serves the consumers.
    :param dead_letters: where bad bodies go.
    :param default_event_handler: called with an event that nobody wants.
    :param wait_time: how long one poll waits for a first message, in seconds.
    :param max_body_bytes: the largest body that is decoded, in bytes.
    :param max_depth: how deep a body may be nested.
    :param stats: where to count.
    :param lag: where to note how late events are.
    :param telemetry: who else is told.
    """

    def __init__(
        self,
        queue: Queue,
        consumers: Sequence[Consumer],
        *,
        reader: Reader,
        keeper: Keeper,
        dispatcher: Dispatcher,
        dead_letters: DeadLetters,
        default_event_handler: Callable[[Any], Any] | None,
        wait_time: int,
        max_body_bytes: int,
        max_depth: int,
        stats: Stats,
        lag: Lag,
        telemetry: Telemetry,
    ) -> None:
        self.topic = queue.name
        self.keeper = keeper
        self._polled = time.monotonic()
        self._doing = "starting"
        self._trouble = ""
        self._queue = queue
        self._consumers = consumers
        self._queues = dispatcher.queues_of(consumers)
        self._reader = reader
        self._router = Router(consumers)
        self._by_version = any(consumer.condition is not None for consumer in consumers)
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters
        self._default_event_handler = default_event_handler
        self._wait_time = wait_time
        self._max_body_bytes = max_body_bytes
        self._max_depth = max_depth
        self._stats = stats
        self._telemetry = telemetry
        self._lag = lag
        self._stop = threading.Event()
        self._sqs = Backoff()
        self._said: type[Exception] | None = None
        self._broker = Backoff()
        self._logged: OrderedDict[str, None] = OrderedDict()
        self._lanes = Lanes(queue.name, keeper, self._take) if queue.is_fifo else None
        self._misconfigured: ConfigurationError | None = None
        self._thread = self._new_thread()

    def start(self) -> None:
        """Start polling."""
        if self._lanes is not None:
            self._lanes.start()
        self._thread.start()

    def ensure_alive(self) -> None:
        """Start a new thread if the one that polls has died, for whatever reason.

        :raises ConfigurationError: it has ended because the dispatcher cannot serve a FIFO topic.
        """
        if self._misconfigured is not None:
            raise self._misconfigured
        if self._lanes is not None:
            self._lanes.ensure_alive()
        if not self._thread.is_alive() and not self._stop.is_set():
            logger.error("the poller of %s died: starting a new one", printable(self.topic))
            self._stats.add(self.topic, "restarted")
            self._thread = self._new_thread()
            self._thread.start()

    def stop(self) -> None:
        """Stop polling; returns at once. What a poll under way still delivers is given back."""
        self._stop.set()
        if self._lanes is not None:
            self._lanes.stop()

    def join(self, deadline: float) -> bool:
        """Wait until the thread has ended; True if that came before *deadline*, by ``time.monotonic()``."""
        if self._lanes is not None:
            self._lanes.join(deadline)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """What it is doing, in numbers and words: seconds, counts, and the last trouble while there is one."""
        return {
            "doing": self._doing,
            "trouble": self._trouble,
            "last_poll": time.monotonic() - self._polled,
            **self.keeper.status(),
            "lag": self._lag.shown(),
            **self._stats.of(self.topic),
        }

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"poller-{self.topic}", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._poll()
            except QueueError as error:
                self._back_off(error)
            except ConfigurationError as error:
                self._misconfigured = error
                return
            except Exception as error:
                # A fault of ours must not end the loop; nothing was deleted, so SQS delivers again.
                logger.exception("unexpected error while polling %s", printable(self.topic))
                self._back_off(error)

    def _back_off(self, error: Exception) -> None:
        # Said once when the trouble starts, or becomes another one, and once when it is over.
        if not self._sqs.failing or type(error) is not self._said:
            logger.error("polling %s failed, trying again and again: %s", printable(self.topic), error)
            self._said = type(error)
        self._doing = "failing"
        self._trouble = printable(error, 500)
        self._stop.wait(self._sqs.failed())

    def _poll(self) -> None:
        if not self.keeper.wait_until_owed(MAX_OWED, 1.0):
            self._doing = "paused"
            return
        if not self._dispatcher.ready(self._queues, 1.0):
            self._doing = "paused"
            return
        if self._lanes is not None:
            self._dispatcher.check_order(self._consumers)
            if not self._lanes.wait_for_room(1.0):
                self._doing = "paused"
                return
        self._doing = "polling"
        messages = self._queue.receive(BATCH_SIZE, self._wait_time)
        if self._sqs.failing:
            logger.info("polling %s works again", printable(self.topic))
        self._sqs.succeeded()
        self._trouble = ""
        self._polled = time.monotonic()
        if self._stop.is_set():
            self.keeper.give_back(messages)
        elif messages:
            self._stats.add(self.topic, "received", len(messages))
            self._telemetry.received(self.topic, len(messages))
            if self._lanes is not None:
                self._lanes.add(messages)
                return
            # Which may take as long as what is before it in the worker: no illness.
            self._doing = "dispatching"
            self.take(messages)

    def take(self, messages: Sequence[Message]) -> None:
        """Decode, route and dispatch what was received."""
        self._take([Delivery(message, 1, self.keeper.settle) for message in messages])

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        """The same, with a delivery of each message; those of lanes are held already."""
        jobs: list[Job] = []
        others: list[tuple[Delivery, Callable[[], None]]] = []
        for delivery in deliveries:
            try:
                self._open(delivery, jobs, others)
            except Exception:
                self._fault(delivery)
        # What is good first: the others make calls of their own.
        if jobs:
            self._hold({job.delivery: None for job in jobs})
            self._dispatch(jobs)
        for delivery, action in others:
            try:
                action()
            except Exception:
                self._fault(delivery)

    def _open(self, delivery: Delivery, jobs: list[Job], others: list[tuple[Delivery, Callable[[], None]]]) -> None:
        """Add to *jobs* what is to be dispatched of a message, or to *others* what else is to be done about it."""
        message = delivery.message
        try:
            events = self._read(message)
        except DecodeError as error:
            others.append((delivery, partial(self._undecodable, delivery, error.reason)))
            return
        wanted: list[tuple[FacilityRecord, str, Consumer, dict[str, Any]]] = []
        unwanted: list[tuple[FacilityRecord, str]] = []
        for event, text in events:
            headers = self._arrived(message, event)
            if consumers := self._route(message, event):
                wanted += [(event, text, consumer, headers) for consumer in consumers]
            else:
                unwanted.append((event, text))
        if not wanted:
            others.append((delivery, partial(self._nobodys, delivery, unwanted)))
            return
        # A message is one delivery, whatever is in it; what nobody wants of it counts as one job.
        if not delivery.expect(len(wanted) + bool(unwanted)):
            return
        jobs += [Job(delivery, *job) for job in wanted]
        if unwanted:
            others.append((delivery, partial(self._nobodys_among_others, delivery, unwanted)))

    def _read(self, message: Message) -> Sequence[tuple[FacilityRecord, str]]:
        """The events of *message*, each with its text.

        :raises DecodeError: it cannot be read, or not all of it.
        """
        if message.problem:
            raise DecodeError(message.problem)
        check_bounds(message.body, self._max_body_bytes, self._max_depth)
        events = self._reader(message.body)
        for _, text in events:
            if text is not message.body:
                # What was a text in the body, such as what SNS sends, may be deep now.
                check_depth(text, self._max_depth)
        return events

    def _arrived(self, message: Message, event: FacilityRecord) -> dict[str, Any]:
        """Note how late *event* is; return what goes with its tasks."""
        emitted, received = int(event.header.timestamp.timestamp() * 1000), int(time.time() * 1000)
        self._lag.note(emitted, message.sent, received)
        times = {"emitted": emitted, "sent": message.sent, "received": received}
        self._telemetry.arrived(self.topic, times)
        headers = {TIMES: times, RECEIVES: {"first": message.first_received, "count": message.receive_count}}
        return {**headers, GROUP: message.group} if message.group else headers

    def _fault(self, delivery: Delivery) -> None:
        # One message's trouble must not be that of the others. It is a fault of ours, so the message stays with SQS.
        self._say_fault(delivery.message)
        self._leave(delivery)

    def _say_fault(self, message: Message) -> None:
        logger.exception(
            "unexpected error with message %s of %s: it comes again",
            printable(message.message_id),
            printable(self.topic),
        )

    def _route(self, message: Message, event: FacilityRecord) -> tuple[Consumer, ...]:
        if self._by_version and parse_version(event.schema_version) is None:
            self._stats.add(self.topic, "unreadable_version")
            if self._first_time(message):
                logger.warning(
                    "event %s of %s has schema %s, which is no version: it matches no version condition",
                    printable(event.header.id),
                    printable(self.topic),
                    printable(event.schema_version),
                )
        return self._router.route(event)

    def _dispatch(self, jobs: Sequence[Job]) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._telemetry.dispatching(self.topic, jobs))
            except BaseException:
                # What a user's span processor raises, for instance. Nobody else would settle them.
                _abandon(jobs)
                raise
            self._hand_over(jobs)

    def _hand_over(self, jobs: Sequence[Job]) -> None:
        """Hand the jobs over, however long it takes: their leases are kept meanwhile, and nothing more is received."""
        while True:
            try:
                self._dispatcher.dispatch(jobs)
                break
            except DispatchError as error:
                # Nothing is received meanwhile, as if the dispatcher were not ready.
                self._doing = "paused"
                if not self._broker.failing:
                    logger.error("%s: dispatching failed, trying again and again: %s", printable(self.topic), error)
                if self._stop.wait(self._broker.failed()):
                    _abandon(jobs)
                    return
            except BaseException:
                _abandon(jobs)
                raise
        if self._broker.failing:
            logger.info("%s: dispatching works again", printable(self.topic))
        self._broker.succeeded()
        self._stats.add(self.topic, "dispatched", len(jobs))
        self._telemetry.dispatched(self.topic, jobs)

    def _undecodable(self, delivery: Delivery, reason: str) -> None:
        message = delivery.message
        self._stats.add(self.topic, "undecodable")
        kept = self._bury(message, message.body, "undecodable", reason)
        self._end(delivery, done=kept)
        if self._first_time(message):
            logger.error(
                "message %s of %s cannot be decoded (%s): %s",
                printable(message.message_id),
                printable(self.topic),
                printable(reason),
                f"it is in {self._dead_letters.name(self.topic)} now" if kept else "it stays in the queue",
            )

    def _nobodys(self, delivery: Delivery, events: Sequence[tuple[FacilityRecord, str]]) -> None:
        """See to a message of which nobody wants anything, or in which there is nothing."""
        message = delivery.message
        if not events:
            self._stats.add(self.topic, "empty")
            if self._first_time(message):
                logger.info(
                    "message %s of %s holds no event: it is deleted",
                    printable(message.message_id),
                    printable(self.topic),
                )
        self._end(delivery, done=self._see_to_unwanted(message, events))

    def _nobodys_among_others(self, delivery: Delivery, events: Sequence[tuple[FacilityRecord, str]]) -> None:
        """See to what nobody wants of a message of which other events are wanted."""
        done = False
        try:
            done = self._see_to_unwanted(delivery.message, events)
        except Exception:
            self._say_fault(delivery.message)
        settle([delivery], refused=not done)

    def _see_to_unwanted(self, message: Message, events: Sequence[tuple[FacilityRecord, str]]) -> bool:
        """See to events of *message* that nobody wants; False if it must come again because of one."""
        fates = [self._unwanted(message, event, text) for event, text in events]
        return all(fates)

    def _unwanted(self, message: Message, event: FacilityRecord, text: str) -> bool:
        self._stats.add(self.topic, "unwanted")
        if self._default_event_handler is not None:
            return self._call_default_handler(self._default_event_handler, message, event, text)
        logger.info(
            "no consumer of %s wants event %s (cls_type %s, schema %s): it is deleted",
            printable(self.topic),
            printable(event.header.id),
            printable(event.payload.cls_type),
            printable(event.schema_version),
        )
        return True

    def _call_default_handler(
        self, handler: Callable[[Any], Any], message: Message, event: FacilityRecord, text: str
    ) -> bool:
        try:
            handler(as_event(event))
        except Exception as error:
            self._stats.add(self.topic, "failed")
            kept = self._bury(message, text, "default_event_handler", repr(error))
            if self._first_time(message):
                logger.exception(
                    "the default event handler failed on event %s of %s: %s",
                    printable(event.header.id),
                    printable(self.topic),
                    "it is a dead letter now" if kept else "it stays in the queue",
                )
            return kept
        return True

    def _bury(self, message: Message, body: str, reason: str, error: str) -> bool:
        """Make a dead letter of *body*, which is of *message*; where that cannot be, it is for the redrive policy."""
        kept = self._dead_letters.bury(message, body, self.topic, reason, error=error)
        if kept:
            self._stats.add(self.topic, "dead")
        return bool(kept)

    def _end(self, delivery: Delivery, *, done: bool) -> None:
        """Have a message deleted that needed no consumer, or leave it to its visibility timeout."""
        if done:
            self._hold([delivery])
            settle([delivery], refused=False)
        else:
            self._leave(delivery)

    def _hold(self, deliveries: Iterable[Delivery]) -> None:
        if self._lanes is None:  # which hold what they get at once, as it may have to wait
            self.keeper.hold(deliveries)

    def _leave(self, delivery: Delivery) -> None:
        if self._lanes is not None:
            self._lanes.leave(delivery)

    def _first_time(self, message: Message) -> bool:
        if message.message_id in self._logged:
            return False
        self._logged[message.message_id] = None
        if len(self._logged) > _REMEMBERED:
            self._logged.popitem(last=False)
        return True


def _abandon(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.delivery.abandon()
