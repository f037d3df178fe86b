"""Polls the queue of a topic."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from ..consumers.delivery import Delivery
from ..dispatch.dispatcher import Readiness
from ..errors import ConfigurationError, QueueError
from ..sqs.messages import BATCH_SIZE, Message
from ..text import printable
from ..threads import SupervisedThread
from . import pauses
from .acknowledger import Acknowledger
from .message_groups import MessageGroups
from .outage import Outage
from .pipeline import MessagePipeline
from .poller_state import Activity, LatestReceive
from .topic import Topic

logger = logging.getLogger(__name__)

#: Stop receiving while this many deletes are pending.
MAX_PENDING = 1000
#: Stop receiving while this many messages wait for paused consumers.
MAX_WAITING = 1000
#: The same for the memory that their bodies take, in bytes.
MAX_WAITING_BYTES = 64 * 2**20
#: The longest poll while messages are held for paused consumers, in seconds: each poll ends with a check of the pauses.
_HELD_WAIT = 2
#: How often a poller that waits for room checks the number of messages in flight, in seconds.
_FULL_INTERVAL = 0.5
#: The same with ``max_in_flight``, which may be so low that the messages are done within milliseconds.
_ROOM_INTERVAL = 0.05
#: How much longer than its wait time a receive may take, in seconds, for the round trip.
_DISTANCE = 1.0
#: The shortest time between two receives that return nothing at once, in seconds: a long poll should have waited.
_SHORTEST_POLL = 0.1


class Poller:
    """One polling thread of a topic, with its acknowledger, and for a FIFO topic the thread that keeps the order.

    :param topic: the topic.
    :param release_delay: returns for how many seconds released messages are to stay invisible; None: release none now.
    """

    def __init__(self, topic: Topic, release_delay: Callable[[], int | None]) -> None:
        name = topic.name
        self._topic = topic
        most = topic.config.max_in_flight
        # With room for fewer messages than a call deletes, a delete would wait for others that cannot come.
        linger = topic.config.linger if most is None or most >= BATCH_SIZE else 0.0
        self._acknowledger = Acknowledger(topic.queue, topic.extender, topic.stats, release_delay, linger=linger)
        self._stop = threading.Event()
        self._pipeline = MessagePipeline(topic, self._stop)
        self._groups = (
            MessageGroups(name, topic.extender, self._acknowledger, partial(self._pipeline.process, has_room=False))
            if topic.queue.is_fifo
            else None
        )
        self._outage = Outage(f"polling {name}")
        #: The latest receive: while it may be open, it may take what is released.
        self.latest = LatestReceive()
        self._polled = time.monotonic()
        self._activity = Activity("starting", self._polled)
        #: When the status first showed that the dispatcher accepts no jobs; 0 if it accepts them.
        self._stuck_since = 0.0
        self._misconfigured: ConfigurationError | None = None
        self._thread = SupervisedThread(f"the poller of {name}", f"poller-{name}", self._run)

    def start(self) -> None:
        """Start polling."""
        self._acknowledger.start()
        if self._groups is not None:
            self._groups.start()
        self._thread.start()

    def ensure_alive(self) -> None:
        """Replace threads that have died.

        :raises ConfigurationError: polling has ended because the dispatcher cannot serve a FIFO topic.
        """
        if self._misconfigured is not None:
            raise self._misconfigured
        self._acknowledger.ensure_alive()
        if self._groups is not None:
            self._groups.ensure_alive()
        if self._thread.ensure_alive():
            self._topic.stats.add("restarted")

    def stop(self) -> None:
        """Stop polling. Returns at once; messages that a poll still receives are released."""
        self._stop.set()
        self._topic.queue.stop_polling()
        if self._groups is not None:
            self._groups.stop()
        self._pipeline.release_held()

    def join(self, deadline: float) -> bool:
        """Wait until polling has ended. Return False if it has not by *deadline*, of ``time.monotonic()``."""
        if self._groups is not None:
            self._groups.join(deadline)
        return self._thread.join(deadline)

    def close(self, deadline: float) -> int:
        """Make the pending deletes and releases. Return how many are left at *deadline*, of ``time.monotonic()``."""
        return self._acknowledger.close(deadline)

    def process(self, messages: Sequence[Message]) -> None:
        """Process *messages* in this thread: for tests."""
        deliveries = [Delivery(message, 1, self._acknowledger.settle) for message in messages]
        self._pipeline.process(self._topic.extender.hold(deliveries))

    def status(self) -> dict[str, Any]:
        """What the poller does, for how many seconds, its counters, and its outages."""
        doing, since, reason, is_back_pressure = self._activity
        if doing == "dispatching" and (stuck := self._why_stuck()):
            doing, reason, since = "paused", stuck, self._stuck_since
        pending = self._acknowledger.status()
        if self._pipeline.outage.problem:
            pending["outages"]["dispatch"] = self._pipeline.outage.status()
        now = time.monotonic()
        return {
            "doing": doing,
            "reason": reason,
            "back_pressure": is_back_pressure,
            "doing_for": now - since,
            "trouble": self._outage.problem,
            "last_poll": now - self._polled,
            **pending,
            "held": len(self._pipeline.held),
            "paused": self._topic.config.pauses.of(self._topic.source, self._topic.consumers),
            "lag": self._topic.lag.status(),
            **self._topic.stats.counts(),
        }

    def _why_stuck(self) -> str:
        """Why the dispatcher does not take what it is given; "" if it does, or if consumers are busy."""
        readiness = self._topic.dispatcher.ready(self._topic.task_queues, 0.0)
        if readiness.is_healthy:
            self._stuck_since = 0.0
            return ""
        self._stuck_since = self._stuck_since or time.monotonic()
        return readiness.value

    def _enter(self, doing: str, reason: str = "", *, is_back_pressure: bool = False) -> None:
        before = self._activity
        # A pause for another reason of the same kind is the same pause.
        is_same = (doing, is_back_pressure) == (before.doing, before.is_back_pressure)
        since = before.since if is_same else time.monotonic()
        self._activity = Activity(doing, since, reason, is_back_pressure)

    def _run(self) -> None:
        acknowledger, starts_deletes = self._acknowledger, self._acknowledger.can_start_deletes
        while not self._stop.is_set():
            try:
                if self._pipeline.pauses is not self._topic.config.pauses.now:
                    self._resume()
                limit, room = self._room(), self._topic.room
                if starts_deletes:
                    acknowledger.start_deletes()
                with nullcontext(limit) if room is None else room.reserve(limit) as granted:
                    deliveries = self._receive(granted) if granted else []
                if starts_deletes:
                    acknowledger.finish_deletes(is_attending=bool(deliveries))
                if deliveries:
                    # May block while the worker is busy; that is healthy.
                    self._enter("dispatching")
                    self._pipeline.process(deliveries)
            except QueueError as error:
                if self._stop.is_set():
                    break
                self._back_off(error)
            except ConfigurationError as error:
                self._misconfigured = error
                return
            except Exception as error:
                # Go on: nothing was deleted, so SQS delivers the messages again.
                logger.exception("unexpected error while polling %s", printable(self._topic.name))
                self._back_off(error)

        if self._topic.queue.is_fifo and self.latest.ends:
            self._release_lost()

    def _release_lost(self) -> None:
        """Release what the receive that the stop has ended would have brought: it would block its groups."""
        visibility = self._topic.extender.visibility.seconds
        try:
            self._acknowledger.release(self._topic.queue.receive(BATCH_SIZE, 0, visibility), visibility)
        except QueueError as error:
            logger.warning("the last receive of %s is lost: %s", printable(self._topic.name), error)

    def _back_off(self, error: Exception) -> None:
        self._enter("failing")
        self._stop.wait(self._outage.failed(error, type(error)))

    def _resume(self) -> None:
        """Process what was held for paused consumers: some may have been resumed."""
        held = self._pipeline.take_held()
        if held and self._groups is not None:
            self._groups.start_again(held)
        elif held:
            self._enter("dispatching")
            self._pipeline.process(held)

    def _room(self) -> int:
        """Return for how many messages there is room, after waiting up to a second if there is none."""
        topic, held, acknowledger = self._topic, self._pipeline.held, self._acknowledger
        is_back_pressure, wait = True, 0.0
        if topic.source in topic.config.pauses.now.topics:
            reason, wait = pauses.REASON, _FULL_INTERVAL
        elif held and (len(held) >= MAX_WAITING or self._pipeline.held_size >= MAX_WAITING_BYTES):
            reason, wait = f"{len(held)} messages wait for paused consumers", _FULL_INTERVAL
        elif acknowledger.pending > MAX_PENDING and not acknowledger.wait_until_pending(MAX_PENDING, 1.0):
            reason, is_back_pressure = f"more than {MAX_PENDING} deletes are pending", False
        elif topic.extender.is_full:
            reason, wait = "as many messages are in flight as can be kept invisible", _FULL_INTERVAL
        elif topic.room is not None and topic.room.is_full:
            reason, wait = "as many messages are in flight as max_in_flight allows", _ROOM_INTERVAL
        elif (readiness := topic.dispatcher.ready(topic.task_queues, 1.0)) is not Readiness.READY:
            reason, is_back_pressure = readiness.value, readiness.is_healthy
        elif self._groups is not None and not self._groups.wait_for_room(1.0):
            reason = "as many messages as can be held wait for their turn in their groups"
        else:
            if self._groups is not None:
                topic.dispatcher.check_order(topic.consumers)
            return min(BATCH_SIZE, topic.dispatcher.room())
        self._enter("paused", reason, is_back_pressure=is_back_pressure)
        self._stop.wait(wait)
        return 0

    def _check_groups(self, messages: Sequence[Message], visibility: int) -> None:
        """Check that each message of a FIFO topic names its group; otherwise release all of them.

        :raises ConfigurationError: one does not, so the order cannot be kept.
        """
        if not all(message.group for message in messages):
            self._acknowledger.release(messages, visibility)
            raise ConfigurationError(
                f"topic {printable(self._topic.name)!r} is FIFO, but its messages come without a MessageGroupId, so "
                "their order cannot be kept: the server ignores MessageSystemAttributeNames; use a newer one, or a "
                "standard queue"
            )

    def _receive(self, limit: int) -> list[Delivery]:
        """Receive up to *limit* messages. Return those to process in this thread; message groups have their own."""
        self._enter("polling")
        topic, chunks = self._topic, self._topic.chunks
        wait_time = min(topic.config.wait_time, _HELD_WAIT) if self._pipeline.held else topic.config.wait_time
        if chunks is not None and chunks.has_chunks:
            wait_time = 0  # a chunk takes what is in the queue, and does not wait for more
        began = time.monotonic()
        topic.extender.visibility.update()
        visibility = topic.extender.visibility.seconds
        self.latest = LatestReceive(began + wait_time + _DISTANCE, is_open=True)
        try:
            # Check the flag only after `latest` is set: a release after a stop waits for every receive that has begun.
            messages = [] if self._stop.is_set() else topic.queue.receive(limit, wait_time, visibility)
            self.latest = LatestReceive()
        except BaseException:
            self.latest = LatestReceive(self.latest.ends) if self._stop.is_set() else LatestReceive()
            raise
        self._polled = time.monotonic()
        self._outage.succeeded()
        # Paused while the poll was open: what it has received goes back, for engines that are not paused.
        if self._stop.is_set() or topic.source in topic.config.pauses.now.topics:
            self._acknowledger.release(messages, visibility)
        elif messages:
            topic.stats.add("received", len(messages))
            if topic.telemetry is not None:
                topic.telemetry.received(topic.name, len(messages))
            if self._groups is None:
                deliveries = [Delivery(message, 1, self._acknowledger.settle) for message in messages]
                return topic.extender.hold(deliveries, visibility)
            self._check_groups(messages, visibility)
            self._groups.add(messages, visibility)
        elif chunks is not None and chunks.has_chunks:
            chunks.dispatch_chunks()
        elif self._polled - began < min(wait_time, 1):
            self._stop.wait(_SHORTEST_POLL)
        return []
