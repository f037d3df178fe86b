"""The worker's side of the hand-off: takes tasks from the engine beside it, and has Celery execute them as its own.

The engine's side is in ``hand_off_engine.py``, the messages between them in ``protocol.py``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..celery_compat.worker import accepted_messages, execute, executes_here, rate_limited, reserved_task_ids
from ..sqs.messages import BATCH_SIZE
from ..tasks.local_retry import LocalRetry, LocalState
from ..tasks.request import EventRequest
from .channel import Channel
from .hand_off_message import HandOffMessage, MessageBuilder
from .local_tasks import LocalTask, LocalTasks
from .offer import Offer
from .protocol import VERSION, Alive, Closed, Done, Message, Open, Publish, Released, Remaining, Task, Version, Waiting
from .worker_loop import WorkerLoop

logger = logging.getLogger(__name__)

#: For how long after the hand-off a task may be retried in its worker, in seconds. SQS keeps it for 12 hours at most.
RETRY_PERIOD = 10 * 3600.0
#: The same for messages from a broker: RabbitMQ closes the channel of one that is 30 minutes old.
BROKER_RETRY_PERIOD = 20 * 60.0
#: For how long a worker that stops, or has lost its broker, waits for its engine to read, in seconds.
_FLUSH_TIMEOUT = 1.0


class HandOff:
    """Takes tasks from the engine, and reports their ends to it.

    A task waits here for its retry, while the engine keeps its message. When the broker is lost, Celery forgets
    every task that no child has accepted: new tasks then go back to the engine, and retries are scheduled again when
    there is a broker. When the worker stops, retries go back as well.

    In a worker without an event loop several threads, or greenlets, call this object: the pool's, the timer's, the
    worker's main one, and that of the loop. A task is withdrawn, or begins, under the lock of :class:`LocalTasks`.

    :param retry_period: for how long after the hand-off a task may be retried here, in seconds.
    :param reserve: how many tasks it takes beside twice the size of the pool; None: as many as Celery prefetches.
    """

    def __init__(self, retry_period: float = RETRY_PERIOD, reserve: int | None = BATCH_SIZE) -> None:
        self._retry_period = retry_period
        self._offer = Offer(reserve)
        self._channel: Channel | None = None
        self._consumer: Any = None
        self._loop: WorkerLoop | None = None
        self._executes_here = False
        self._declined = False
        self._ending = False
        self._tasks = LocalTasks()
        self._messages = MessageBuilder(self, retry_period)
        #: What the engine knows of this worker's credit and queues.
        self._announced: Open | None = None
        #: Whether the engine has been told of room for another receive, and has handed over nothing since.
        self._engine_has_room = False

    def use(self, channel: Channel) -> None:
        """Use the channel of a new engine. Tasks of an earlier engine go on, but their ends are reported to none."""
        self._forget_channel()
        self._channel = channel
        self._send(Version(VERSION))
        if self._consumer is not None:
            self._read()
        elif self._declined:
            self._send(Publish())

    def open(self, consumer: Any, loop: WorkerLoop) -> None:
        """Take tasks from now on, in *loop*."""
        self._consumer, self._loop = consumer, loop
        self._executes_here = executes_here(consumer)
        for task in self._idle():
            self._tasks.park(task)
            self._schedule(task)
        self._read()

    def beat(self) -> None:
        """Report that the loop runs, and write buffered messages."""
        self._send(Alive())

    def announce(self) -> None:
        """Report the worker's credit and queues if a control command has changed them."""
        consumer = self._consumer
        if consumer is None or self._channel is None or self._ending:
            return
        current = self._offer.of(consumer)
        if current != self._announced:
            self._announced = current
            self._send(current)

    def decline(self) -> None:
        """Take no tasks: this worker has no event loop, and a pool that takes them from one thread only."""
        self._declined = True
        self._send(Publish())

    def shut(self) -> None:
        """Take no tasks until :meth:`open`."""
        self._send(Closed())
        self._announced = None
        if self._loop is not None and self._channel is not None:
            self._loop.stop_reading(self._channel)
        self._consumer = self._loop = None
        for task in self._idle():
            if self._ending or not task.state.is_retry:
                self._withdraw(task)
            else:
                self._tasks.park(task)
        # The event loop does not run now, so it cannot flush later.
        self.flush(_FLUSH_TIMEOUT)

    def end(self) -> None:
        """Take no more tasks, release those that wait for a retry, and retry none: the worker stops."""
        self._ending = True
        self._send(Closed())  # first: an engine with credit would receive again what is released
        for task in self._idle():
            if task.state in (LocalState.PARKED, LocalState.SCHEDULED):
                self._withdraw(task)
        self.flush(_FLUSH_TIMEOUT)

    def begin(self, message: HandOffMessage) -> bool:
        """Return whether a thread or greenlet may execute *message* now: it was not given back meanwhile."""
        return not self._executes_here or self._tasks.begin(message)

    def settle(self, message: HandOffMessage, *, released: bool) -> None:
        """Report the end of a task to the engine.

        A message that is not current is ignored: its engine is gone, or it went back when the broker was lost.
        """
        if not self._tasks.end(message):
            return
        if released:
            self._report(message, Released(message.number))
        else:
            self._post(message.channel, Done(message.number), may_wait=self._may_wait(message))

    def _may_wait(self, message: HandOffMessage) -> bool:
        """Return whether the engine has nothing to do yet when the task of *message* is done: to wake it costs much."""
        offer, consumer = self._announced, self._consumer
        if offer is None or consumer is None or self._ending:
            return False
        if consumer.app.tasks[message.headers["task"]].fifo:
            return False
        knew_room = self._engine_has_room
        self._engine_has_room = offer.credit - self._tasks.using_credit >= offer.enough
        return knew_room or not self._engine_has_room

    def keep(self, message: HandOffMessage, again: HandOffMessage, remaining: list[int] | None = None) -> None:
        """Execute *again* in place of *message* when it is due.

        :param remaining: the positions of the events of a batch that *again* is for; None: all.
        """
        if self._tasks.current(message) is None:
            return
        if remaining is not None:
            self._report(message, Remaining(message.number, remaining))
        if self._ending:
            self.settle(message, released=True)
        elif (task := self._tasks.retry(message, again)) is not None:
            if not message.due:
                self._report(message, Waiting(message.number))
            if (loop := self._loop) is not None:
                # A pool of threads calls this from any of them.
                loop.call_soon(self._schedule, task)

    def _withdraw(self, task: LocalTask) -> None:
        """Give a task back to the engine, unless this process executes it."""
        if self._tasks.end(task.message, unless_begun=True):
            self._report(task.message, Released(task.message.number))

    def _idle(self) -> list[LocalTask]:
        """Return the tasks that no child has accepted."""
        running = {id(message) for message in accepted_messages()}
        return [task for task in self._tasks.all() if id(task.message) not in running]

    def _schedule(self, task: LocalTask) -> None:
        """Have a parked task executed when it is due."""
        consumer = self._consumer
        if consumer is None or task.state is not LocalState.PARKED:
            return
        app, message = consumer.app, task.message
        # `inspect scheduled` shows the timer's entries whose first argument is a request. It needs no copy of the body.
        request = EventRequest(
            message, app=app, task=app.tasks[message.headers["task"]], hostname=consumer.hostname, body=""
        )
        delay = max(0.0, message.due - time.monotonic())
        self._tasks.schedule(task, consumer.timer.call_after(delay, self._on_due, (request,)))

    def _on_due(self, request: EventRequest) -> None:
        if (loop := self._loop) is not None:
            # Not here: gevent's timer has a greenlet for each entry, which taking the task out of the timer would kill.
            loop.call_soon(self._retry, request.message)

    def _retry(self, message: HandOffMessage) -> None:
        consumer, task = self._consumer, self._tasks.current(message)
        if consumer is not None and task is not None and task.state is LocalState.SCHEDULED:
            self._tasks.resume(task)
            message.headers["eta"] = None  # it is due
            self._execute(consumer, message)

    def _read(self) -> None:
        if self._channel is not None and self._loop is not None:
            self._loop.start_reading(self._channel, partial(self._on_messages, self._channel))
            self.announce()

    def _on_messages(self, channel: Channel, messages: Sequence[Message] | None) -> None:
        if channel is not self._channel:
            return  # the end of an earlier engine
        if messages is None:
            self._forget_channel()
            return
        for message in messages:
            if isinstance(message, Task):
                self._take(channel, message)

    def _take(self, channel: Channel, given: Task) -> None:
        consumer = self._consumer
        if consumer is None or self._ending:  # since the engine sent the task
            self._post(channel, Released(given.number))
            return
        try:
            message = self._messages.build(consumer.app, channel, given, may_wait=self._tasks.has_room_for_retry)
        except Exception:
            logger.exception("a task of %s could not be taken from the engine: its event comes again", given.name)
            self._post(channel, Released(given.number))
        else:
            self._tasks.add(message)
            self._engine_has_room = False
            self._execute(consumer, message)

    def _execute(self, consumer: Any, message: HandOffMessage) -> None:
        task_name = message.headers["task"]
        if consumer.app.tasks[task_name].fifo and message.headers["id"] in reserved_task_ids():
            # An engine that was killed had handed it over before. Nothing may overtake that execution.
            message.retry(LocalRetry(when=1.0, retries=message.headers.get("retries", 0)))
            return
        try:
            execute(consumer, message)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # of a receiver of a signal, for instance
            logger.exception("a task of %s could not be executed: its event comes again", task_name)
            self.settle(message, released=True)
        else:
            self._free_credit(consumer, message)

    def _free_credit(self, consumer: Any, message: HandOffMessage) -> None:
        """Let the engine hand over another task if this one waits for its consumer's limits, and not for too long."""
        limited = rate_limited(consumer, message)
        is_soon = limited is not None and limited.position <= limited.rate * self._retry_period
        if (is_soon or message.is_queued) and self._tasks.limit(message):
            self._report(message, Waiting(message.number))

    def flush(self, timeout: float = 0.0) -> bool:
        """Write buffered messages to the engine.

        :param timeout: for how long to wait for it to read, in seconds.
        :returns: whether none remain.
        """
        # An engine that is gone needs no report: SQS delivers its messages again.
        with contextlib.suppress(OSError):
            return self._channel is None or self._channel.send(timeout=timeout)
        return True

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._post(self._channel, message)

    def _report(self, task: HandOffMessage, message: Message) -> None:
        """Report on a task to the engine that has handed it over, which may be gone."""
        self._post(task.channel, message)

    def _post(self, channel: Channel, message: Message, *, may_wait: bool = False) -> None:
        # Never wait: an engine that hangs must not stop its worker. The next message, or beat, takes the rest with it.
        with contextlib.suppress(OSError):
            if self._loop is None:
                channel.send(message, timeout=0.0)
            else:
                self._loop.send(channel, message, may_wait=may_wait)

    def _forget_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if self._loop is not None:
            self._loop.stop_reading(channel)
        self._announced = None
        channel.close()
        for task in self._tasks.all():
            self._tasks.end(task.message)
