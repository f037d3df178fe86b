"""Registers a task for each consumer with a Celery app, and routes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import celery
from celery import Celery, Task
from celery.exceptions import Reject

from ..celery_compat.configuration import missing_options
from ..celery_compat.tasks import route_of
from ..consumers.calling import prepare
from ..consumers.consumer import Consumer, check_limits
from ..consumers.options import MAKING_OPTIONS, ROUTING_OPTIONS, TASK_OPTIONS, check_task_options
from ..dead_letters.writer import DeadLetters
from ..errors import ConfigurationError
from ..signatures import is_coroutine_function
from .batch import BatchTask
from .calls import Middleware, compose, compose_calls
from .chunk import ChunkTask, Own
from .consumer import CallingTask, ConsumerTask
from .dead_letter import DeadLetterTask
from .idempotency import IdempotencyStore


def register(
    app: Celery,
    consumer: Consumer,
    operator: Any,
    topic: str,
    dead_letters: DeadLetters,
    idempotency_store: IdempotencyStore | None,
    fifo: str = "",
    middleware: Sequence[Middleware] = (),
) -> ConsumerTask:
    """Register the task of *consumer* with *app*, under the consumer's name and with its options.

    It derives from the consumer's ``base``, else from the app's own task class.

    :param operator: the consumer operator, which calls the function.
    :param topic: the topic of the consumer, a queue's name or URL.
    :param dead_letters: where events go that failed permanently.
    :param idempotency_store: remembers the events of a consumer with ``once``.
    :param fifo: as :attr:`EventTask.fifo`.
    :param middleware: what is called around the function, the outermost first.
    :raises ConfigurationError: another task has that name, Celery does not have one of its options, ``base`` is no task
        class, or the function does not accept what it is called with.
    """
    name = consumer.task_name
    existing = app.tasks.get(name)
    if existing is not None and getattr(existing, "consumer", None) is not consumer:
        raise ConfigurationError(f"there are two tasks named {name!r}: give the consumer another name=")
    if missing := missing_options(consumer.options):
        raise ConfigurationError(
            f"Celery {celery.__version__} has no task option {missing[0]!r}, which {name!r} has: use "
            "acks_on_failure_or_timeout, or Celery 5.7"
        )
    members: dict[str, Any] = {
        option: value for option, value in consumer.options.items() if option not in ROUTING_OPTIONS | MAKING_OPTIONS
    }
    members |= {
        "name": name,
        "__module__": consumer.module,
        "__doc__": getattr(consumer.func, "__doc__", None),
        "consumer": consumer,
        "operator": operator,
        "topic": topic,
        "fifo": fifo,
        "dead_letters": dead_letters,
        "idempotency_store": idempotency_store if consumer.once else None,
    }
    if consumer.existing:
        # Its class is bound to its own app: the new one needs an app, requests and annotations of its own, and is
        # called with an event instead of its arguments.
        members |= {"__bound__": False, "app": app, "typing": False}
    kind = ChunkTask if consumer.chunk is not None else ConsumerTask if consumer.batch is None else BatchTask
    made: Any = type(str(consumer.name), (kind, _base_of(app, consumer), CallingTask), members)
    _annotate(app, made, members)
    # Celery retries a Reject by autoretry_for=(Exception,), but it asks for a dead letter at once.
    made.dont_autoretry_for = (*getattr(made, "dont_autoretry_for", ()), Reject)
    task = made()
    app.register_task(task)
    _compose(task, consumer, operator, middleware)
    consumer.wants_message |= bool(middleware) and consumer.batch is None
    return task  # type: ignore[no-any-return]


def _annotate(app: Celery, made: Any, members: Mapping[str, Any]) -> None:
    """Give a task class the annotations and the defaults of *app*: to register it would miss their ``autoretry_for``.

    :param members: its own attributes.
    :raises ConfigurationError: one has a wrong value.
    """
    made.bind(app)
    found = {option: vars(made)[option] for option in TASK_OPTIONS & vars(made).keys() - {"rate_limit"}}
    changed = {option: value for option, value in found.items() if value is not members.get(option)}
    check_task_options(changed, f"{made.name}, by task_annotations or the app's defaults")


def _compose(task: Any, consumer: Consumer, operator: Any, middleware: Sequence[Middleware]) -> None:
    """Give *task* what calls the function of *consumer*.

    :raises ConfigurationError: as :func:`register`.
    """
    retried = tuple(getattr(task, "autoretry_for", ())), tuple(task.dont_autoretry_for)
    task.needs_loop = consumer.is_async or any(map(is_coroutine_function, (operator.process_event, *middleware)))
    if not isinstance(task, ChunkTask):
        prepare(consumer, task, operator)
        task.call_function = compose(consumer, operator, middleware, lambda: task.request, retried)
        return
    # Those of a base class or of the app.
    conf = task.app.conf
    check_limits(consumer, task.time_limit, task.soft_time_limit, conf.task_time_limit, conf.task_soft_time_limit)
    own = Own()
    prepare(consumer, task, operator, own)
    task.retried = retried
    task.call_function, task.is_concurrent = compose_calls(consumer, operator, middleware, lambda: own.request)


def _base_of(app: Celery, consumer: Consumer) -> type:
    base = consumer.options.get("base") or app.Task
    if not issubclass(base, Task):
        raise ConfigurationError(f"base={base!r} of {consumer.task_name} is not a subclass of celery.Task: give one")
    return base  # type: ignore[no-any-return]


def register_dead_letter_task(app: Celery, dead_letters: DeadLetters) -> None:
    """Register the task that makes dead letters later with *app*."""
    app.register_task(type("bury", (DeadLetterTask,), {"dead_letters": dead_letters})())


class Routes:
    """A Celery router (``task_routes``) that gives consumers' tasks the queue and the priority of their options."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Any]] = {}
        self._existing: dict[str, str] = {}

    def add(self, consumer: Consumer, task: Task) -> None:
        """Route the *task* of *consumer* by annotations and options, else as the existing task whose code it runs."""
        options = {name: consumer.options[name] for name in ROUTING_OPTIONS if name in consumer.options}
        annotated = {name: vars(type(task)).get(name) for name in ROUTING_OPTIONS}
        if annotated["priority"] == task.app.conf.task_default_priority:
            annotated["priority"] = None
        options |= {name: value for name, value in annotated.items() if value is not None}
        if options:
            self._routes[consumer.task_name] = options
        elif consumer.existing:
            self._existing[consumer.task_name] = consumer.existing

    def __call__(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task: Any = None, **_: Any
    ) -> dict[str, Any] | None:
        if (route := self._routes.get(name)) is not None:
            return dict(route)
        existing = None if task is None else task.app.tasks.get(self._existing.get(name))
        return None if existing is None else route_of(existing.app, existing)
