"""The message of a task that was handed over, as Celery sees it."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timedelta, timezone
from sys import getsizeof
from typing import Any, ClassVar, Protocol

from celery import Celery

from ..celery_compat.tasks import MessageFactory, delivery_info_of
from ..tasks.context import HandOffContext
from ..tasks.dead_letter import TIME_LIMIT
from ..tasks.local_retry import LocalRetry
from .channel import Channel
from .protocol import Pace, Task


class Owner(Protocol):
    """Settles messages; see :class:`~balog_celery.dispatch.hand_off_worker.HandOff`."""

    def begin(self, message: HandOffMessage) -> bool:
        """Return whether the task may be executed now: it was not given back meanwhile."""

    def settle(self, message: HandOffMessage, *, released: bool) -> None:
        """Report the end of the task to the engine."""

    def keep(self, message: HandOffMessage, again: HandOffMessage, remaining: list[int] | None) -> None:
        """Execute *again* in place of *message* when it is due."""


class HandOffMessage:
    """Has what a Celery strategy and request read from a message, for a task that no broker has carried.

    Each attempt at a task has a message of its own, with the number of the first.

    It keeps its argument once. What Celery reads of it is made when it is read.

    :param owner: settles it.
    :param channel: the channel of the engine that has handed it over.
    :param number: that engine's number for the task.
    :param headers: the message headers, Celery's and those that the engine gave.
    :param argument: the task's argument: an event's JSON text, or a list of them.
    :param delivery_info: the exchange, the routing key and the priority that the task would have been published with;
        a published retry goes there.
    :param context: what tasks know about the hand-off.
    :param due: when it is to be executed, by ``time.monotonic()``; 0: at once, for the first time.
    """

    #: Without a content type a pool takes the body as the arguments: nothing is encoded, and as Celery's request holds
    #: the same objects, they are pickled once.
    content_type = content_encoding = None
    _EMBED: ClassVar[dict[str, None]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

    def __init__(
        self,
        owner: Owner,
        channel: Channel,
        number: int,
        headers: dict[str, Any],
        argument: str | list[str],
        delivery_info: dict[str, Any],
        context: HandOffContext,
        due: float = 0.0,
    ) -> None:
        self.channel = channel
        self.number = number
        self.headers = headers
        self.delivery_info = delivery_info
        self.properties = {
            "correlation_id": headers["id"],
            "reply_to": "",
            "priority": delivery_info["priority"],
            **context.to_properties(),
        }
        self.due = due
        #: Whether it waits because as many tasks of its consumer run as may.
        self.is_queued = False
        self._argument = argument
        self._owner = owner
        self._context = context

    @property
    def payload(self) -> tuple[Any, ...]:
        """The arguments of the task, and its callbacks, of which there are none."""
        return ([self._argument], {}, self._EMBED)

    @property
    def body(self) -> tuple[Any, ...]:
        """The payload."""
        return self.payload

    @property
    def events(self) -> int:
        """For how many events the task is."""
        return len(self._argument) if isinstance(self._argument, list) else 1

    @property
    def size(self) -> int:
        """How much memory its events take, in bytes."""
        texts = self._argument if isinstance(self._argument, list) else [self._argument]
        return sum(map(getsizeof, texts))

    def begin(self) -> bool:
        """Return whether the task may be executed now; pools of threads and greenlets ask just before they do."""
        return self._owner.begin(self)

    def ack(self, *_: Any) -> None:
        """Acknowledge: the task has finished."""
        self._owner.settle(self, released=False)

    def reject(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """Let the message come again; without *requeue* the task has failed permanently, and becomes a dead letter."""
        self._owner.settle(self, released=requeue)

    def report_pace(self, calls: int, seconds: float) -> None:
        """Report how long a consumer's calls took, which limits its next chunks."""
        with contextlib.suppress(OSError):  # an engine that is gone
            self.channel.send(Pace(self.headers["task"], calls, seconds), timeout=0.0)

    def retry(self, retry: LocalRetry) -> None:
        """Have the task executed again, ``retry.when`` seconds from now."""
        delay, remainder = float(retry.when), retry.remainder
        eta = datetime.now(timezone.utc) + timedelta(seconds=delay)
        headers = {**self.headers, "retries": retry.retries, "eta": eta.isoformat()}
        context, argument = self._context, self._argument
        if retry.failure is not None:
            context = context._replace(failure=retry.failure)
            headers["timelimit"] = [TIME_LIMIT, TIME_LIMIT]
        if remainder is not None:
            argument = [argument[position] for position in remainder.positions]
            headers["argsrepr"] = remainder.argsrepr
        way, due = self.delivery_info, time.monotonic() + delay
        again = HandOffMessage(self._owner, self.channel, self.number, headers, argument, way, context, due)
        self._owner.keep(self, again, None if remainder is None else remainder.positions)


class MessageBuilder:
    """Makes the messages of the tasks that are handed over.

    :param owner: settles them.
    :param retry_period: for how long after the hand-off a task may be retried in its worker, in seconds.
    """

    def __init__(self, owner: Owner, retry_period: float) -> None:
        self._owner = owner
        self._retry_period = retry_period
        self._headers: dict[str, dict[str, Any]] = {}
        self._ways: dict[str, dict[str, Any]] = {}

    def build(self, app: Celery, channel: Channel, given: Task, *, may_wait: bool) -> HandOffMessage:
        """Return the message of *given*.

        :param channel: where it came from.
        :param may_wait: whether a retry may wait in the worker; it is published if not.
        """
        task = app.tasks[given.name]
        headers = {
            **self._common_headers(app, given.name),
            # ``celery control time_limit`` changes them.
            "timelimit": [task.time_limit, task.soft_time_limit],
            "id": given.task_id,
            "root_id": given.task_id,
            "argsrepr": given.argsrepr,
            # What the task sees as ``request.headers``: left out, Celery works it out for each event.
            "headers": given.headers,
            **given.headers,
        }
        # A task that holds its message group cannot be published, and there is one per group at a time.
        may_wait = may_wait or task.fifo
        context = HandOffContext(time.monotonic() + self._retry_period if may_wait else 0.0, tuple(given.headers))
        way = self._way(app, given.name)
        return HandOffMessage(self._owner, channel, given.number, headers, given.argument, way, context)

    def _way(self, app: Celery, name: str) -> dict[str, Any]:
        known = self._ways.get(name)
        if known is None:
            known = self._ways[name] = delivery_info_of(app, app.tasks[name])
        return known

    def _common_headers(self, app: Celery, name: str) -> dict[str, Any]:
        known = self._headers.get(name)
        if known is not None:
            return known
        task = app.tasks[name]
        headers = MessageFactory(app, task).headers()
        if task.expires is None:  # an expiry counts from now
            self._headers[name] = headers
        return headers
