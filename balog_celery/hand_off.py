"""The worker's side of the hand-off: takes tasks from the engine beside it, and has Celery execute them as its own.

The engine's side is in ``dispatch.py``, what travels between them in ``link.py``.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

from billiard.einfo import ExceptionWithTraceback
from celery import bootsteps
from celery.worker import state
from celery.worker.request import Request
from pydantic_core import to_json

from .link import Link
from .queues import BATCH_SIZE
from .tasks import BURYING, BURYING_LIMIT, HEADERS_GIVEN, STAYS_UNTIL, Left, LocalRetry

logger = logging.getLogger(__name__)

#: How many tasks may wait in a worker for their retry. Those of more are published to the broker.
MAX_WAITING = 1000
#: The tasks of how many events that wait for their consumer's rate limit take no room in a worker. Those of more do.
MAX_LIMITED = 100
#: For how long after it was handed over a task may be retried here, in seconds: SQS ends its lease after 12 hours.
STAY = 10 * 3600.0
#: The same where the message is kept by a broker: RabbitMQ ends the channel of one that is 30 minutes old.
STAY_FROM_BROKER = 20 * 60.0
#: After how many seconds an engine is told what it had no room for, as it hangs, or is slower than the worker.
_TELL_AGAIN = 0.1
#: For how long a worker that stops, or has lost its broker, waits for its engine to hear of it, in seconds.
_LAST_WORDS = 1.0


class EventRequest(Request):  # type: ignore[misc]
    """The task of an event in this worker; `inspect` shows which event it is, not what is in it."""

    def info(self, safe: bool = False) -> Any:
        """As Celery's own when it is told to be safe."""
        return super().info(safe=True)

    def on_retry(self, exc_info: Any) -> None:
        """As Celery's, but for a retry that stays here: its message is not acknowledged."""
        retry = exc_info.exception
        if isinstance(retry, ExceptionWithTraceback):
            retry = retry.exc
        if isinstance(retry, LocalRetry):
            self._stay(retry.retries, float(retry.when), retry.burying, retry.left)
        super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, but the engine hears of it last: the message is there until its dead letter is made."""
        with self._burying():
            super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's, and as :meth:`on_failure`."""
        with self._burying():
            super().on_timeout(soft, timeout)

    @contextlib.contextmanager
    def _burying(self) -> Iterator[None]:
        """Let the receiver of ``task_failure`` know the request; have a child make the dead letter that it leaves."""
        self.task.request_stack.push(self._context)
        try:
            if not isinstance(self.message, HandedTask):
                yield
                return
            with self.message.settled_last():
                yield
                if (error := getattr(self._context, "unburied", None)) is not None:
                    self.message.retry(self._context.retries, 0.0, error)
        finally:
            self.task.request_stack.pop()

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> bool:
        """As Celery's, which publishes the signature that the task makes, but for a retry that stays here.

        Called by ``on_failure``; not documented.
        """
        delay = self.task.default_retry_delay
        if isinstance(self.message, HandedTask) and self.task.may_be_retried_here(self._context, delay):
            self._stay(self._context.retries + 1, delay)
        return bool(super()._retry_worker_lost(exc, exc_info))

    def _stay(self, retries: int, delay: float, burying: str | None = None, left: Left | None = None) -> None:
        # Celery takes it to be acknowledged, and goes on: with events, signals, logs.
        self.acknowledged = True
        self.message.retry(retries, delay, burying, left)


class HandOffStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the engine hand tasks to this worker for as long as it is connected to its broker."""

    name = "balog-hand-off"
    # Its strategies are what tasks are given to (userguide/extending); Celery makes them anew at each connection.
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # The worker's steps are made before the consumer's.
        self._hand_off: HandOff | None = getattr(consumer.controller, "balog_hand_off", None)
        self.enabled = self._hand_off is not None

    def start(self, consumer: Any) -> None:
        if self._hand_off is not None and consumer.hub is None:
            self._hand_off.decline()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called by Celery when the loop of an (again) connected consumer is about to run."""
        if self._hand_off is not None:
            self._hand_off.open(consumer, hub)

    def stop(self, consumer: Any) -> None:
        if self._hand_off is not None:
            self._hand_off.shut()

    terminate = stop


class HandedTask:
    """What a strategy needs of a message, for a task that no broker has seen."""

    content_type = "application/json"
    content_encoding = "utf-8"
    _EMBED: ClassVar[dict[str, None]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

    def __init__(
        self,
        hand_off: HandOff,
        number: int,
        headers: dict[str, Any],
        given: dict[str, Any],
        event: str | list[str],
        queue: str,
        stays_until: float,
    ) -> None:
        self.number = number
        self.headers = {**headers, **given}
        self.properties: dict[str, Any] = {
            "correlation_id": headers["id"],
            "reply_to": "",
            STAYS_UNTIL: stays_until,
            HEADERS_GIVEN: list(given),
        }
        # Where a retry goes that is published.
        self.delivery_info = {"exchange": "", "routing_key": queue}
        self._carry(event)
        #: When it is to be retried, by ``time.monotonic()``; 0 for a task that is executed for the first time.
        self.due = 0.0
        #: The timer's entry for that.
        self.entry: Any = None
        self._hand_off = hand_off
        self._settling_last = False
        self._how = ""

    def _carry(self, event: str | list[str]) -> None:
        self.payload: tuple[Any, ...] = ((event,), {}, self._EMBED)
        self.body = to_json(self.payload).decode()

    def ack(self, *_: Any) -> None:
        """It has finished."""
        self._settle("done")

    def reject(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """It is to come again; without *requeue* it has failed for good, and is a dead letter."""
        self._settle("refused" if requeue else "done")

    def retry(self, retries: int, delay: float, burying: str | None, left: Left | None = None) -> None:
        """Execute it again, *delay* seconds from now.

        :param retries: how often it will have been retried then.
        :param burying: why it failed for good, if only its dead letter is left to be made.
        :param left: what is left of it, if it is a batch, and not all of it.
        """
        eta = datetime.now(timezone.utc) + timedelta(seconds=delay)
        again = copy.copy(self)
        again._settling_last, again._how = False, ""
        again.headers = {**self.headers, "retries": retries, "eta": eta.isoformat()}
        if burying is not None:
            again.properties = {**self.properties, BURYING: burying}
            again.headers["timelimit"] = [BURYING_LIMIT, BURYING_LIMIT]
        if left is not None:
            ((events,), *_) = self.payload
            again._carry([events[position] for position in left.positions])
            again.headers["argsrepr"] = left.shown
        again.due = time.monotonic() + delay
        self._hand_off.keep(self, again, left.positions if left is not None else None)

    def cancel(self) -> None:
        """Take it out of the timer."""
        if self.entry is not None:
            self.entry.cancel()
            self.entry = None

    @contextlib.contextmanager
    def settled_last(self) -> Iterator[None]:
        """Put off acknowledging and rejecting until the end of the block."""
        self._settling_last = True
        try:
            yield
        finally:
            self._settling_last = False
            if self._how:
                self._settle(self._how)

    def _settle(self, how: str) -> None:
        if self._settling_last:
            self._how = how
        else:
            self._hand_off.settle(self, how)


class HandOff:
    """The worker's side of the hand-off: takes tasks from the engine, and tells it what became of them.

    A task that is to be retried waits here, with its message in the engine's keeping. When the broker is lost Celery
    forgets what no child has accepted yet: new tasks then go back to the engine, and retries are given to Celery again
    when it is connected. When the worker stops, those go back as well.

    :param stay: for how long after it was handed over a task may be retried here, in seconds.
    :param receives: for how many receives there is to be room beside what runs and what follows that.
    """

    def __init__(self, stay: float = STAY, receives: int = 1) -> None:
        self._stay = stay
        self._receives = receives
        self._link: Link | None = None
        self._consumer: Any = None
        self._hub: Any = None
        self._reading = False
        #: Whether the timer will tell the engine what it had no room for.
        self._telling = False
        self._declined = False
        self._ending = False
        # By the engine's numbers for them; a new engine begins with 1 again.
        self._taken: dict[int, HandedTask] = {}
        #: The numbers of those that wait for a retry, or have been retried.
        self._waiting: set[int] = set()
        #: Those that were put aside for their rate limit, and how many events each is for.
        self._limited: dict[int, int] = {}
        self._headers: dict[str, dict[str, Any]] = {}

    def use(self, link: Link) -> None:
        """A new engine has been started; an old one's tasks go on, but nobody waits for them."""
        self._forget_link()
        self._link = link
        if self._consumer is not None:
            self._read()
        elif self._declined:
            self._tell("publish")

    def open(self, consumer: Any, hub: Any) -> None:
        """Take tasks from now on."""
        self._consumer, self._hub = consumer, hub
        self._telling = False
        for task in self._idle():
            self._schedule(task)
        self._read()

    def decline(self) -> None:
        """This worker has no event loop, and takes no tasks."""
        self._declined = True
        self._tell("publish")

    def shut(self) -> None:
        """Take no tasks for now."""
        self._tell("closed")
        if self._reading and self._link is not None:
            self._hub.remove_reader(self._link.fileno())
        self._consumer = self._hub = None
        self._reading = False
        for task in self._idle():
            task.cancel()
            if self._ending or not task.due:
                self.settle(task, "refused")
        # There is no loop to do it any more, or not for now.
        self.flush(_LAST_WORDS)

    def end(self) -> None:
        """The worker stops: what waits goes back at once, and nothing is retried here any more."""
        self._ending = True
        for task in self._idle():
            if task.entry is not None:
                self.settle(task, "refused")
        self.flush(_LAST_WORDS)

    def settle(self, task: HandedTask, how: str) -> None:
        """Tell the engine what became of *task*: ``done`` or ``refused``."""
        # Else it is an old engine's, or went back when the broker was lost, and has run all the same.
        if self._taken.get(task.number) is task:
            del self._taken[task.number]
            self._let_go(task)
            self._tell(how, task.number)

    def keep(self, task: HandedTask, again: HandedTask, left: list[int] | None = None) -> None:
        """Execute *again* when it is due, in place of *task*.

        :param left: which events of a batch it still is for; None: all.
        """
        if self._taken.get(task.number) is not task:
            return
        if left is not None:
            self._tell("left", task.number, left)
        if self._ending:
            self.settle(task, "refused")
            return
        self._taken[task.number] = again
        if not task.due:
            self._waiting.add(task.number)
            self._tell("waiting", task.number)
        if self._hub is not None:
            # A pool of threads calls from any of them.
            self._hub.call_soon(self._schedule, again)

    def _idle(self) -> list[HandedTask]:
        """The tasks that no child has accepted."""
        running = {id(request.message) for request in state.active_requests}
        return [task for task in self._taken.values() if id(task) not in running]

    def _let_go(self, task: HandedTask) -> None:
        self._waiting.discard(task.number)
        self._limited.pop(task.number, None)
        task.cancel()

    def _schedule(self, task: HandedTask) -> None:
        """Have *task* executed when it is due; `inspect scheduled` shows the entries of the timer that are requests."""
        if self._consumer is None or task.entry is not None or self._taken.get(task.number) is not task:
            return
        app = self._consumer.app
        shown = EventRequest(task, app=app, task=app.tasks[task.headers["task"]], hostname=self._consumer.hostname)
        delay = max(0.0, task.due - time.monotonic())
        task.entry = self._consumer.timer.call_after(delay, self._retry, (shown,))

    def _retry(self, shown: EventRequest) -> None:
        task: HandedTask = shown.message
        task.entry = None
        if self._consumer is not None and self._taken.get(task.number) is task:
            task.headers["eta"] = None  # it is now
            self._execute(task)

    def _read(self) -> None:
        if self._link is None or self._reading:
            return
        self._reading = True
        self._hub.add_reader(self._link.fileno(), self._on_readable)
        concurrency = self._consumer.pool.num_processes
        queues = list(self._consumer.app.amqp.queues.consume_from)
        # As many as run, as many again to follow them, and room for the receives of ten that are under way.
        self._tell("open", 2 * concurrency + BATCH_SIZE * self._receives, queues)

    def _on_readable(self) -> None:
        lines = self._link.receive() if self._link is not None else None
        if lines is None:
            self._forget_link()
            return
        for _kind, number, task_id, name, shown, event, given in lines:
            try:
                headers = {**self._common_headers(name), "id": task_id, "root_id": task_id, "argsrepr": shown}
                queue = self._consumer.app.conf.task_default_queue
                # What holds a group has nowhere else to be retried; there is one of each group at a time.
                stays = len(self._waiting) < MAX_WAITING or self._consumer.app.tasks[name].fifo
                stays_until = time.monotonic() + self._stay if stays else 0.0
                task = self._taken[number] = HandedTask(self, number, headers, given, event, queue, stays_until)
            except Exception:
                logger.exception("a task of %s could not be taken from the engine: its event comes again", name)
                self._tell("refused", number)
            else:
                self._execute(task)

    def _execute(self, task: HandedTask) -> None:
        if self._consumer.app.tasks[task.headers["task"]].fifo and self._is_under_way(task):
            task.retry(task.headers.get("retries", 0), 1.0, None)
            return
        try:
            # How a strategy is called is not documented: see celery/worker/strategy.py, default().
            self._consumer.strategies[task.headers["task"]](task, None, task.ack, task.reject, [])
        except Exception:
            logger.exception("a task of %s could not be executed: its event comes again", task.headers["task"])
            self.settle(task, "refused")
        else:
            self._make_room(task)

    def _make_room(self, task: HandedTask) -> None:
        """Have the engine hand over others if *task* waits for its rate limit, for no longer than a task may stay."""
        # Where Celery keeps it then is not documented. The one that was put there last is at the end.
        bucket = self._consumer.task_buckets[task.headers["task"]]
        if bucket is None or not bucket.contents or bucket.contents[-1][0].message is not task:
            return
        ((event,), *_) = task.payload
        events = len(event) if isinstance(event, list) else 1
        few = sum(self._limited.values()) + events <= MAX_LIMITED
        if few and len(bucket.contents) <= bucket.fill_rate * self._stay:
            self._limited[task.number] = events
            self._tell("waiting", task.number)

    def _is_under_way(self, task: HandedTask) -> bool:
        """Whether it is being executed as an engine handed it over that was killed; nothing may overtake that."""
        return any(request.id == task.headers["id"] for request in state.reserved_requests)

    def _common_headers(self, name: str) -> dict[str, Any]:
        known = self._headers.get(name)
        if known is not None:
            return known
        app = self._consumer.app
        task = app.tasks[name]
        # As in dispatch.py: what Task.apply_async builds its message with.
        message = app.amqp.create_task_message(
            "",
            name,
            (),
            {},
            kwargsrepr="{}",
            ignore_result=task.ignore_result,
            time_limit=task.time_limit,
            soft_time_limit=task.soft_time_limit,
            expires=task.expires,
        )
        headers: dict[str, Any] = message.headers
        if task.expires is None:  # else they differ: a time to live counts from now
            self._headers[name] = headers
        return headers

    def flush(self, timeout: float = 0.0) -> bool:
        """Tell the engine what it had no room for; whether it has been told everything.

        :param timeout: for how many seconds to wait for it to read.
        """
        # An engine that is gone needs to know nothing; SQS delivers again what it had.
        with contextlib.suppress(OSError):
            return self._link is None or self._link.flush(timeout)
        return True

    def _tell(self, *items: Any) -> None:
        # Never waiting: an engine that hangs must not have the worker hang too.
        with contextlib.suppress(OSError):
            if self._link is not None and not self._link.post(items) and self._hub is not None:
                self._hub.call_soon(self._tell_later)

    def _tell_later(self) -> None:
        if self._consumer is not None and not self._telling:
            self._telling = True
            self._consumer.timer.call_after(_TELL_AGAIN, self._tell_rest)

    def _tell_rest(self) -> None:
        self._telling = False
        if not self.flush():
            self._tell_later()

    def _forget_link(self) -> None:
        if self._link is None:
            return
        if self._reading:
            self._hub.remove_reader(self._link.fileno())
        self._reading = False
        self._link.close()
        self._link = None
        for task in self._taken.values():
            self._let_go(task)
        self._taken.clear()
