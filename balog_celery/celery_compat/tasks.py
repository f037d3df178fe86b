"""Undocumented parts of Celery for processes that publish tasks or execute them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from billiard import current_process
from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery, Task
from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t
from celery.utils.dispatch import Signal
from celery.utils.nodenames import anon_nodename


class TracedTask(Task):  # type: ignore[misc]
    """A task that may wrap its tracer and its result backend.

    The pool executes a task by its attribute ``__trace__``, which Celery sets when it starts a pool. No documented hook
    sees every end of a task: an error outside of the task's body reaches only the tracer.
    """

    abstract = True

    _tracer: Any = None

    @property
    def __trace__(self) -> Any:
        """The wrapped tracer."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        self._tracer = None if tracer is None else self.wrap_tracer(tracer)

    def wrap_tracer(self, tracer: Callable[..., Any]) -> Callable[..., Any]:
        """Return what the pool calls instead of Celery's *tracer*."""
        return tracer

    @property
    def backend(self) -> Any:
        """The wrapped result backend; Celery's own property keeps one that was set in ``_backend``."""
        return self.wrap_backend(super().backend)

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    def wrap_backend(self, backend: Any) -> Any:
        """Return what Celery uses instead of *backend* for this task."""
        return backend


def trace_result(retval: Any, info: Any, runtime: float, retstr: str) -> Any:
    """Return the tuple that a tracer returns to the pool."""
    return trace_ok_t(retval, info, runtime, retstr)


def trace_info(state: str, error: BaseException) -> Any:
    """Return the record of a task's state in a tracer's result."""
    return TraceInfo(state, error)


def exception_info(error: BaseException, *, internal: bool = False) -> Any:
    """Return *error* as the pool reports it to the main process.

    :param internal: whether it was raised outside of the task's body.
    """
    try:
        raise error
    except BaseException:
        return ExceptionInfo(internal=internal)


def reported_error(info: Any) -> BaseException:
    """Return the exception in the pool's report; billiard wraps it to carry its traceback."""
    error: BaseException = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def is_pool_child() -> bool:
    """Return whether this process is a pool's child; billiard names only the others ``MainProcess``."""
    return bool(current_process().name != "MainProcess")


def name_process(name: str) -> None:
    """Give this process the *name* that log lines have: Celery's formatter reads billiard's, others Python's."""
    multiprocessing.current_process().name = current_process().name = name


def is_terminating() -> bool:
    """Return whether this child unwinds because it was told to end; billiard's own work loop asks the same."""
    return bool(terminate_handler_fired())


def message_properties(request: Any) -> Mapping[str, Any]:
    """Return the message properties of *request*, a task's context; empty for an eager task."""
    return request.properties or {}


def has_sequel(request: Any) -> bool:
    """Return whether *request* carries callbacks, a chain or a chord, which only a published retry keeps."""
    return bool(request.chain or request.callbacks or request.errbacks or request.chord)


def pushed_context(request: Mapping[str, Any] | None, args: Any) -> Any:
    """Return a context for ``request_stack``, made of the request that a pool passes to the tracer."""
    return Context(request or {}, args=args, called_directly=False)


def route_of(app: Celery, task: Task) -> dict[str, Any]:
    """Return the queue and the publishing options of *task*, as ``Task.apply_async`` finds them.

    A route may leave the queue out, for instance to set a priority only. Celery then uses the default queue.
    """
    return {
        "queue": app.amqp.queues[app.conf.task_default_queue],
        **app.amqp.router.route({}, task.name, (), {}, task),
    }


def delivery_info_of(app: Celery, task: Task) -> dict[str, Any]:
    """Return the exchange, the routing key and the priority with which ``apply_async`` publishes *task*."""
    route = route_of(app, task)
    queue, exchange, routing_key = route["queue"], route.get("exchange"), route.get("routing_key")
    if not (exchange and routing_key) and queue.exchange.type == "direct":
        exchange, routing_key = "", queue.name
    return {
        "exchange": getattr(exchange, "name", exchange) if exchange is not None else queue.exchange.name,
        "routing_key": routing_key or queue.routing_key,
        "priority": route.get("priority", task.priority),
    }


def queues_of(app: Celery) -> list[Any]:
    """Return the queues that *app* knows: those of its settings, and those that it has added for routes."""
    return list(app.amqp.queues.values())


def connect(signal: Signal, receiver: Callable[..., None], uid: Hashable) -> None:
    """Connect *receiver* to *signal* while the process executes tasks.

    :param uid: identifies it: before Celery 5.7, a method of two objects counts as one receiver without it.
    """
    with _same_list(signal):
        signal.connect(receiver, weak=False, dispatch_uid=uid)


def disconnect(signal: Signal, uid: Hashable) -> None:
    """Disconnect the receiver *uid* from *signal*."""
    with _same_list(signal):
        signal.disconnect(dispatch_uid=uid)


@contextmanager
def _same_list(signal: Signal) -> Iterator[None]:
    """Keep the list of receivers, which a task's tracer has taken from the signal once.

    Before Celery 5.7, a signal makes a new list at a change after an object has died whose method was a receiver.
    """
    receivers = signal.receivers
    yield
    if signal.receivers is not receivers:
        receivers[:] = signal.receivers
        signal.receivers = receivers


class MessageFactory:
    """Makes the messages of one task as ``Task.apply_async`` does, without working out their common parts each time.

    ``amqp.create_task_message`` takes the id, the name and the arguments beside these.

    :param app: the Celery app.
    :param task: the task.
    """

    def __init__(self, app: Celery, task: Task) -> None:
        self._app = app
        self._create: Callable[..., Any] = app.amqp.create_task_message
        self._name = task.name
        self._common = {
            "kwargsrepr": "{}",
            "ignore_result": task.ignore_result,
            "time_limit": task.time_limit,
            "soft_time_limit": task.soft_time_limit,
            "expires": task.expires,
        }
        self._published = {"create_sent_event": app.conf.task_send_sent_event, "origin": anon_nodename()}

    def message(self, task_id: str, argsrepr: str, args: tuple[Any, ...]) -> Any:
        """Return a message for the broker: headers, properties, body and the ``task-sent`` event."""
        return self._create(task_id, self._name, args, {}, argsrepr=argsrepr, **self._common, **self._published)

    def headers(self) -> dict[str, Any]:
        """Return the headers that all messages have in common, for a task that no broker carries."""
        # Of protocol 2, which has headers, also with ``task_protocol = 1``.
        headers: dict[str, Any] = self._app.amqp.as_task_v2("", self._name, (), {}, **self._common).headers
        return headers


def sender(app: Celery) -> Callable[..., Any]:
    """Return what ``Task.apply_async`` publishes with: signals and ``task-sent`` events, but no ``AsyncResult``."""
    send: Callable[..., Any] = app.amqp.send_task_message
    return send


def begin_transactions(channel: Any) -> Callable[[], Any] | None:
    """Put *channel* into transaction mode; return what commits, or None if its transport has no AMQP transactions."""
    if not hasattr(channel, "tx_select"):
        return None
    channel.tx_select()
    commit: Callable[[], Any] = channel.tx_commit
    return commit


def drop_connection(connection: Any, timeout: float) -> None:
    """Close *connection* without waiting for a broker that may not answer, as ``close()`` would."""
    connection.collect(timeout)
