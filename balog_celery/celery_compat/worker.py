"""Undocumented parts of Celery for a worker's main process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.events import EventDispatcher
from celery.exceptions import TaskRevokedError
from celery.worker import state, strategy
from celery.worker.request import Request

from .old_request import OldRequest

try:
    from greenlet import GreenletExit  # type: ignore[import-untyped]
except ImportError:  # neither gevent nor eventlet is installed

    class GreenletExit(BaseException):  # type: ignore[no-redef]
        """Ends the work of a thread of the pool."""


#: The prefetch limit of a worker that has none: Celery's ``worker_prefetch_multiplier = 0``.
UNLIMITED = 1000


#: Celery's request with the behaviour of 5.7: its own, if it has the methods of 5.7, else :class:`OldRequest`.
_Request: Any = Request if hasattr(Request, "_retry_worker_lost") else OldRequest


class HookedRequest(_Request):  # type: ignore[misc]
    """Celery's request, with names for the moments that it has only private methods for."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Contain the pool's errors in the classes that ``create_request_cls`` derives for each task."""
        super().__init_subclass__(**kwargs)
        execute = cls.execute_using_pool

        def execute_using_pool(self: HookedRequest, pool: Any, **options: Any) -> Any:
            try:
                return execute(self, pool, **options)
            except TaskRevokedError:
                raise
            except Exception as error:
                self.pool_refused(error)

        cls.execute_using_pool = execute_using_pool
        if "on_success" in vars(cls):  # the derived class does not call the one above it
            report_success = cls.on_success

            def on_success(self: HookedRequest, failed__retval__runtime: Any, **options: Any) -> Any:
                result = report_success(self, failed__retval__runtime, **options)
                failed, _, runtime = failed__retval__runtime
                if not failed:
                    self.succeeded(runtime)
                return result

            cls.on_success = on_success

    @property
    def context(self) -> Any:
        """The task's context, as its function sees it."""
        return self._context

    def may_begin(self) -> bool:
        """Return whether the task may be executed; asked when it is about to be, or in prefork's child is already."""
        return True

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Report the start of the task, unless it must not begin.

        Pools of threads and greenlets call this just before the function. There ``GreenletExit`` ends a greenlet
        without a traceback, and a thread's work without a result.
        """
        if not self.may_begin():
            raise GreenletExit
        super().on_accepted(pid, time_accepted)

    def pool_refused(self, error: Exception) -> None:
        """Called in place of raising *error* when the pool did not take the task."""

    def succeeded(self, runtime: float) -> None:
        """Called after the success of the task was reported.

        :param runtime: how long the task ran, in seconds.
        """

    def revoke_announced(self) -> None:
        """Called when the task is found revoked, by any of the methods that can find it."""

    def success_found(self) -> None:
        """Called when the result backend says that an earlier execution of the task had succeeded."""

    def lost_child(self, retry: Callable[[], bool]) -> bool:
        """Called when the pool lost the child that executed the task.

        :param retry: publishes the signature that the task makes, if ``retry_on_worker_lost`` asks for it.
        :returns: whether the task is retried.
        """
        return retry()

    def _announce_revoked(self, *args: Any) -> None:
        self.revoke_announced()
        super()._announce_revoked(*args)

    def _success_was_stored(self) -> Any:
        found = super()._success_was_stored()
        if found:
            self.success_found()
        return found

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> bool:
        publish = super()._retry_worker_lost
        return self.lost_child(lambda: bool(publish(exc, exc_info)))


def default_strategy(task: Any, app: Any, consumer: Any, events: Any) -> Callable[..., Any]:
    """Return Celery's handler of a task's messages, which sends its task events through *events*.

    The strategy reads the consumer's event dispatcher once, while it is made.
    """
    dispatcher, consumer.event_dispatcher = consumer.event_dispatcher, events
    try:
        handler: Callable[..., Any] = strategy.default(task, app, consumer)
    finally:
        consumer.event_dispatcher = dispatcher
    return handler


def execute(consumer: Any, message: Any) -> None:
    """Give *message*, which no broker has carried, to its task's strategy, as the consumer's own callback does.

    ``on_task_message`` has the autoscaler's callbacks, by which it notices that tasks wait.
    """
    strategy_of = consumer.strategies[message.headers["task"]]
    strategy_of(message, None, message.ack, message.reject, consumer.on_task_message)


class RateLimited(NamedTuple):
    """The place of a message behind its task's rate limit."""

    #: How many messages wait there, this one included.
    position: int
    #: How many of them are executed each second.
    rate: float


def rate_limited(consumer: Any, message: Any) -> RateLimited | None:
    """Return the place of *message*, which was executed last, if its task's rate limit holds it back.

    Celery keeps such messages in the task's token bucket, the newest at the end.
    """
    bucket = consumer.task_buckets[message.headers["task"]]
    if bucket is None or not bucket.contents or bucket.contents[-1][0].message is not message:
        return None
    return RateLimited(len(bucket.contents), bucket.fill_rate)


def is_known(request: Any) -> bool:
    """Return whether *request* is to be executed, or is being: Celery forgets it at its end, and with its connection.

    A hard time limit and a lost child are ends as well.
    """
    return request in state.reserved_requests or request in state.active_requests


def change_prefetch(consumer: Any, by: int) -> None:
    """Have the broker send one message more (*by* is 1), or one less (-1), as Celery does for tasks with an ETA."""
    qos = consumer.qos
    if qos is not None:
        (qos.increment_eventually if by > 0 else qos.decrement_eventually)()


def accepted_messages() -> list[Any]:
    """Return the messages whose tasks the pool has accepted, in a list of its own: other threads change the set."""
    return [request.message for request in list(state.active_requests)]


def reserved_task_ids() -> set[str]:
    """Return the ids of the tasks that the worker has taken and not finished."""
    return {request.id for request in list(state.reserved_requests)}


def stops_at_once() -> bool:
    """Return whether the worker stops cold, which kills what runs."""
    return bool(state.should_terminate)


def stop_warmly(exit_code: int) -> None:
    """Ask for a warm stop as Celery's own signal handlers do: ``WorkerShutdown`` does not leave a timer's callback."""
    state.should_stop = exit_code


def pool_size(consumer: Any) -> int:
    """Return how many tasks the pool executes at once, as it may grow."""
    # The autoscaler is an attribute of the worker only with --autoscale. `control autoscale` changes its maximum.
    autoscaler = getattr(consumer.controller, "autoscaler", None)
    return max(int(consumer.pool.num_processes), autoscaler.max_concurrency if autoscaler else 0)


def prefetch(consumer: Any, reserve: int | None) -> int:
    """Return how many tasks the worker takes at a time: Celery's prefetch limit, for the pool as it may grow.

    :param reserve: a limit for short tasks instead: twice the size of the pool, and this many.
    """
    size = pool_size(consumer)
    if consumer.app.conf.get("worker_disable_prefetch"):  # a setting of Celery 5.6 and later
        return size
    if reserve is not None:
        return 2 * size + reserve
    return size * int(consumer.prefetch_multiplier) or UNLIMITED


def executes_here(consumer: Any) -> bool:
    """Return whether the pool executes tasks in the worker's own process, in threads or greenlets."""
    return not isinstance(consumer.pool, PreforkPool)


def queue_names(worker: Any) -> list[str]:
    """Return the names of the queues that the worker, or its consumer, serves."""
    return list(worker.app.amqp.queues.consume_from)


def executes_in_its_loop(consumer: Any) -> bool:
    """Return whether the pool executes tasks in the worker's event loop, which then stands still."""
    return isinstance(consumer.pool, SoloPool)


def redirect_buffered_events(consumer: Any, callback: Callable[[EventDispatcher], None], limit: int) -> None:
    """Have *callback* called when a task event was buffered, in place of a flush in the next turn of the event loop.

    The dispatcher is made anew at each connection, and calls its attribute ``on_send_buffered``. There is none where
    events are off, and nothing to redirect where nothing is buffered.

    :param limit: how many buffered events are flushed at once.
    """
    dispatcher = consumer.event_dispatcher
    if dispatcher is not None and dispatcher.on_send_buffered is not None:
        keep_unsent_events(dispatcher)
        dispatcher.buffer_limit = limit
        dispatcher.on_send_buffered = lambda: callback(dispatcher)


def keep_unsent_events(dispatcher: EventDispatcher) -> None:
    """Have *dispatcher* keep a group of events that the broker did not take, for the next connection.

    Before Celery 5.7, ``flush`` keeps the very list that it then empties. It gets a copy here.
    """
    publish = dispatcher._publish

    def publish_copy(event: Any, *args: Any, **options: Any) -> Any:
        return publish(list(event) if isinstance(event, list) else event, *args, **options)

    dispatcher._publish = publish_copy


def restore_buffered_events(consumer: Any) -> None:
    """Undo :func:`redirect_buffered_events`, and send what is buffered; without a broker it stays in the buffer."""
    dispatcher = consumer.event_dispatcher
    if dispatcher is not None and dispatcher.on_send_buffered is not None:
        dispatcher.on_send_buffered = consumer.on_send_event_buffered
        dispatcher.flush()
