"""The decorator that declares consumers; a scan of the hub finds what it declared."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import venusian
from typing_extensions import Unpack

from ..errors import ConfigurationError
from ..events.decoders.mapping import At
from .consumer import BATCH_WAIT, CHUNK_WAIT, Consumer
from .existing import consumer_of_task, is_task
from .options import TaskOptions

#: The Venusian category that a scan looks for.
CATEGORY = "balog_celery"

F = TypeVar("F", bound=Callable[..., Any])

#: All that was decorated, by the module-level name that it stands under or in, and by line: a scan reports what it does
#: not come across.
declared: dict[tuple[str, int], object] = {}

#: The existing tasks that were decorated, by module and line, each with its module's names and what makes its
#: consumer. Venusian would have to create them to note anything on them, before the app is configured.
declared_tasks: dict[tuple[str, int], tuple[dict[str, Any], Callable[[], Consumer]]] = {}


def consumer_config(
    topic: str,
    cls_type: str | Iterable[str] | None = None,
    version: str | Iterable[str] | None = None,
    name: str | None = None,
    *,
    once: bool | float = False,
    batch: int | None = None,
    batch_wait: float = BATCH_WAIT,
    where: Mapping[str, Any] | None = None,
    arguments: str | Mapping[str, At] = "event",
    each: bool = False,
    concurrency: int | tuple[int, str] | None = None,
    chunk: int | None = None,
    chunk_wait: float = CHUNK_WAIT,
    limits_of: str = "event",
    **task_options: Unpack[TaskOptions],
) -> Callable[[F], F]:
    """Declare that a function, or an existing Celery task, consumes events; :meth:`ConsumerHub.scan` finds it.

    The function itself stays as it is, so it can be called and tested as any other. Decorators may be stacked: each
    makes a consumer of its own. A method is called on an instance that the scan makes, without arguments, of its class.
    A parameter annotated with :class:`~balog_celery.FacilityRecord`, or with a payload's model, gets that instead of
    a dict; with *batch*, one annotated with a list of it. A parameter annotated with
    :class:`~balog_celery.decoders.Message` gets the message: attributes, id, time, group, receive count.

    Above ``@app.task`` or ``@shared_task`` it makes a second task that runs the same code for events. The task itself
    keeps its name, its options and ``delay()``.

    An ``async def`` function runs on the event loop of its process, or of its thread in a pool of threads.

    A batch consumer's function is called with a list of events, in one task; each event is finished, retried or a dead
    letter by itself. Where only some failed, it raises :class:`~balog_celery.errors.BatchFailure`; any other exception
    fails all of them.
    An event that does not fit the annotated model is left out of the list, and becomes a dead letter.

    :param topic: the queue's name or URL; placeholders such as ``{env}`` are the operator's to fill in.
    :param cls_type: the type of payload it wants, or several in any iterable; default: any. A trailing ``*`` matches
        every type that begins with what is before it: ``"aws.s3.ObjectCreated:*"``.
    :param version: which schema versions it wants: ``"<1.0"``, ``">=1.0,<2.0"``, ``"~=1.2"``, or several; default: any.
    :param name: the consumer's name, with which its Celery task is named, after the module; default: the function's.
        The task's id is derived from it, so give one where a function may be renamed.
    :param once: skip an event that this consumer has finished if it is delivered again, to any worker. True
        remembers it for a day, a number for that many seconds. Needs Redis: ``balog_once_url``, or a Redis result
        backend. Not with *batch*.
    :param batch: call the function with a list of up to this many events (1 to 10,000), or of fewer: 256 KiB of JSON
        make a full batch. Not on a topic whose name ends in ``.fifo``.
    :param batch_wait: how long the first event of a batch waits for others, in seconds, up to 3,600.
    :param where: which events it wants by their content: conditions by paths, with EventBridge's operators, such as
        ``{"payload.detail.state": ["running"], "attributes.tenant": [{"prefix": "a"}]}``. A path begins with
        ``payload``, ``header`` (``header.channel``), ``schema`` or ``attributes`` (the message's). All must hold.
    :param arguments: what the function is called with: ``"event"``, ``"payload"``, or its parameters by name, each with
        its path in the event: ``{"bucket": At("payload.detail.bucket.name")}``. A parameter with a default may be
        absent from the event.
    :param each: with *batch* and ``async def``: call the function for each event, up to *batch* of them concurrently.
        Each is finished, retried as ``autoretry_for`` says, or a dead letter by itself.
    :param concurrency: how many of its tasks may run at once in each worker, or with ``(10, "cluster")`` in all workers
        together, which needs Redis as *once* does. The others wait in the worker and use no place of its pool.
    :param chunk: run up to this many events (1 to 10,000) in one task, each in a call and with an end of its own: as
        many as there are and as ``chunk_wait`` allows, concurrently if the function is ``async def``. Not on a topic
        whose name ends in ``.fifo``.
    :param chunk_wait: for how long an event of a chunk may wait for the calls of others, in seconds, up to 3,600.
    :param limits_of: ``"chunk"``: ``time_limit`` and ``soft_time_limit`` are for a whole chunk. Without that, *chunk*
        goes with neither.
    :param task_options: any Celery task option: ``autoretry_for``, ``retry_backoff``, ``max_retries``, ``rate_limit``,
        ``time_limit``, ``queue``, ``priority``, ``acks_late``, ``base``, ``bind``, ...
    :returns: a decorator that returns the function unchanged.
    :raises ConfigurationError: an argument is wrong, or an option is none of Celery's.
    """
    if callable(topic):
        raise ConfigurationError("consumer_config has no arguments: write @consumer_config('the topic')")
    make = partial(
        Consumer,
        topic=topic,
        cls_type=cls_type,
        version=version,
        name=name,
        options=task_options,
        once=once,
        batch=batch,
        batch_wait=batch_wait,
        where=where,
        arguments=arguments,
        each=each,
        concurrency=concurrency,
        chunk=chunk,
        chunk_wait=chunk_wait,
        limits_of=limits_of,
    )
    return lambda func: _declare(func, make)


def _declare(func: F, make: partial[Consumer]) -> F:
    """Declare *func*, of which *make* makes a consumer."""
    if is_task(func):
        make(_placeholder)  # so that an error is raised where it was written
        frame = typing.cast(Any, inspect.currentframe()).f_back.f_back
        place = str(frame.f_globals.get("__name__")), int(frame.f_lineno)
        declared_tasks[place] = frame.f_globals, partial(consumer_of_task, func, **make.keywords)
        return func
    if not callable(func) and not isinstance(func, classmethod):
        raise ConfigurationError(f"consumer_config decorates functions and methods, not {func!r}")
    # Made here as well, so that an error is raised where it was written.
    wanted = make(func)
    # An iterator can be read but once.
    make = partial(make, cls_type=wanted.cls_types, version=wanted.condition, where=wanted.pattern)

    def found(scanner: Any, found_as: str, obj: Any) -> None:
        # Made later: Venusian swallows a ValueError that is raised here.
        scanner.found.append((wanted, lambda: _consumer_of(func, obj, found_as, info, make)))

    try:
        info = venusian.attach(func, found, category=CATEGORY, depth=2)  # of the frame that applies the decorator
    except (AttributeError, TypeError):
        raise ConfigurationError(
            f"consumer_config cannot decorate {func!r}, such as a builtin or a method of an object: write a function "
            "that calls it"
        ) from None
    name_in_module = getattr(func, "__qualname__", "").partition(".")[0]
    declared[f"{info.module.__name__}.{name_in_module}", info.codeinfo[1]] = wanted
    return func


def _placeholder(event: Any) -> None:
    """Stands for the function of a task that is not created yet."""


def _consumer_of(func: Any, obj: Any, found_as: str, info: Any, make: Callable[..., Consumer]) -> Consumer:
    """Make the consumer of *func*, which a scan found.

    :param obj: what holds it: the function itself, or its class.
    :param found_as: the name of *obj* in its module.
    :param info: what Venusian knows of the decorator's place.
    """
    # A scan comes across other names for the same thing as well, in the order of the alphabet.
    if getattr(info.module, own_name := getattr(obj, "__name__", ""), None) is obj:
        found_as = own_name
    if info.scope == "class":
        obj, found_as = _method(obj, func.__name__), f"{found_as}.{func.__name__}"
    return make(obj, module=info.module.__name__, found_as=found_as)


def _method(cls: type, name: str) -> Callable[..., Any]:
    """Return what to call for the method *name* of *cls*: a static or class method, or one of a new instance."""
    if isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod)):
        return typing.cast(Callable[..., Any], getattr(cls, name))
    try:
        return typing.cast(Callable[..., Any], getattr(cls(), name))
    except TypeError as error:
        raise ConfigurationError(
            f"{cls.__qualname__}.{name} is a method, and {cls.__qualname__}() cannot be made without arguments "
            f"({error}): decorate a function or a static method, or give every argument a default"
        ) from error
