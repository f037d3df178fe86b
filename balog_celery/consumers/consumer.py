"""A consumer: a function plus what it wants, and the decorator that says so."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import venusian
from typing_extensions import Unpack

from ..errors import ConfigurationError
from ..records import FacilityRecord, Payload, as_event, payload_dict
from .options import TaskOptions, check_task_options
from .predicates import VersionCondition, cls_types, version_condition

#: The Venusian category that a scan looks for.
CATEGORY = "balog_celery"

#: How long the first event of a batch waits for others unless the consumer says otherwise, in seconds.
BATCH_WAIT = 1.0
#: The most that may be asked for: it is what AWS Lambda allows for SQS, and far below the lease of a message.
MAX_BATCH, MAX_BATCH_WAIT = 10_000, 3600.0

F = TypeVar("F", bound=Callable[..., Any])

#: What was decorated so far, by the module-level name that it stands under or in, and by line: for a scan to see
#: whether it came across all of it.
declared: dict[tuple[str, int], object] = {}


@dataclass(eq=False)
class Consumer:
    """A function plus what it wants: topic, cls_type, version, and its Celery task options.

    Made by :func:`consumer_config` and a scan; by hand it takes the same arguments, with the function.

    :param func: what is called with each matching event, by the consumer operator.
    :param topic: the queue's name or URL, as written: the operator's ``get_topic`` may fill in placeholders.
    :param cls_type: the types of payload it wants; None: any. Kept as a frozenset.
    :param version: the schema versions it wants; None: any. Kept as a :class:`VersionCondition`.
    :param name: default: *found_as*, else the function's name.
    :param options: its Celery task options.
    :param once: whether an event that it has finished is skipped when it comes again; a number: for how many seconds.
    :param batch: how many events its function gets at most, in a list; None: one, by itself.
    :param batch_wait: how long the first event of a batch waits for others, in seconds.
    :param module: the module that its task is named after; default: the function's.
    :param found_as: the name under which a scan found it.
    :raises ConfigurationError: an argument is wrong.
    """

    func: Callable[..., Any]
    topic: str
    cls_type: str | Iterable[str] | None = None
    version: str | Iterable[str] | VersionCondition | None = None
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    once: bool | float = False
    batch: int | None = None
    batch_wait: float = BATCH_WAIT
    module: str = ""
    found_as: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not self.topic.strip():
            raise ConfigurationError(f"bad topic {self.topic!r}: give the name or the URL of the queue to listen to")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ConfigurationError(f"bad name {self.name!r} for a consumer of {self.topic!r}: give a text")
        self.options = check_task_options(self.options, f"a consumer of {self.topic!r}")
        _check_plain(self.func, self.topic)
        if isinstance(self.once, str) or not self.once >= 0:
            raise ConfigurationError(f"bad once={self.once!r} for a consumer of {self.topic!r}: give True, or seconds")
        _check_batch(self)
        self.cls_type = self.cls_types = cls_types(self.cls_type)
        self.version = self.condition = version_condition(self.version)
        #: Whether the name was given, not found.
        self.named = self.name is not None
        self.name = self.name or self.found_as or getattr(self.func, "__name__", None) or type(self.func).__name__
        self.module = self.module or getattr(self.func, "__module__", None) or "__main__"
        #: The name of its Celery task; a hub makes it unique among its own.
        self.task_name = f"{self.module}.{self.name}"
        self.event_type = _event_type(self)

    def __repr__(self) -> str:
        return f"<Consumer {self.task_name}>"

    def argument(self, record: FacilityRecord) -> Any:
        """What the function gets for *record*: the record, its payload as the model that the function names, or a dict.

        :raises pydantic.ValidationError: the payload is not what the function's model asks for.
        """
        if self.event_type is None:
            return as_event(record)
        if issubclass(self.event_type, FacilityRecord):
            return record
        if isinstance(record.payload, self.event_type):
            return record.payload
        return self.event_type.model_validate(payload_dict(record.payload))


def consumer_config(
    topic: str,
    cls_type: str | Iterable[str] | None = None,
    version: str | Iterable[str] | None = None,
    name: str | None = None,
    *,
    once: bool | float = False,
    batch: int | None = None,
    batch_wait: float = BATCH_WAIT,
    **task_options: Unpack[TaskOptions],
) -> Callable[[F], F]:
    """Declare that a function consumes events; :meth:`ConsumerHub.scan` finds it.

    The function itself stays as it is, so it can be called and tested as any other. Decorators may be stacked: each
    makes a consumer of its own. A method is called on an instance that the scan makes, without arguments, of its class.
    A parameter annotated with :class:`~balog_celery.FacilityRecord`, or with a payload's model, gets that instead of
    a dict; with *batch*, one annotated with a list of it.

    A batch consumer's function is called with a list of events, in one task; every event keeps its own fate. Where
    only some of them failed, it raises :class:`~balog_celery.errors.BatchFailure`. Any other exception is that of all.
    An event that does not fit the annotated model is not in the list, and is a dead letter in the end.

    :param topic: the queue's name or URL; placeholders such as ``{env}`` are the operator's to fill in.
    :param cls_type: the type of payload it wants, or several in any iterable; default: any. A trailing ``*`` matches
        every type that begins with what is before it: ``"aws.s3.ObjectCreated:*"``.
    :param version: which schema versions it wants: ``"<1.0"``, ``">=1.0,<2.0"``, ``"~=1.2"``, or several; default: any.
    :param name: the consumer's name, with which its Celery task is named, after the module; default: the function's.
        The task's id is derived from it, so give one where a function may be renamed.
    :param once: skip an event that this consumer has finished if it is delivered again, to whatever worker. True
        remembers for a day, a number for so many seconds. Needs Redis: ``balog_once_url``, or a Redis result backend.
        Not with *batch*.
    :param batch: call the function with a list of so many events at most (1 to 10,000), or of fewer: 256 KiB of JSON
        are a full batch. Not on a topic whose name ends in ``.fifo``.
    :param batch_wait: how long the first event of a batch waits for others, in seconds, up to 3,600.
    :param task_options: any Celery task option: ``autoretry_for``, ``retry_backoff``, ``max_retries``, ``rate_limit``,
        ``time_limit``, ``queue``, ``priority``, ``acks_late``, ...
    :returns: a decorator that returns the function unchanged.
    :raises ConfigurationError: an argument is wrong, or an option is none of Celery's.
    """

    def decorate(func: F) -> F:
        if not callable(func) and not isinstance(func, classmethod):
            raise ConfigurationError(f"consumer_config decorates functions and methods, not {func!r}")
        # Made here as well, so that what is wrong is told where it is written.
        wanted = Consumer(func, topic, cls_type, version, name, task_options, once, batch, batch_wait)

        def consumer(found_as: str, obj: Any) -> Consumer:
            target = obj
            # A scan comes across other names for the same thing as well, in the order of the alphabet.
            if getattr(info.module, own_name := getattr(obj, "__name__", ""), None) is obj:
                found_as = own_name
            if info.scope == "class":
                method = func.__name__
                target, found_as = _method(obj, method), f"{found_as}.{method}"
            return Consumer(
                target,
                topic,
                wanted.cls_types,
                wanted.condition,
                name,
                task_options,
                once,
                batch,
                batch_wait,
                module=info.module.__name__,
                found_as=found_as,
            )

        def found(scanner: Any, found_as: str, obj: Any) -> None:
            # Only noted: Venusian swallows a ValueError that is raised here.
            scanner.found.append((wanted, partial(consumer, found_as, obj)))

        info = venusian.attach(func, found, category=CATEGORY)
        name_in_module = getattr(func, "__qualname__", "").partition(".")[0]
        declared[f"{info.module.__name__}.{name_in_module}", info.codeinfo[1]] = wanted
        return func

    return decorate


def _method(cls: type, name: str) -> Callable[..., Any]:
    """What to call for the method *name* of *cls*: a static or class method as it is, another on a new instance."""
    if isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod)):
        return typing.cast(Callable[..., Any], getattr(cls, name))
    try:
        return typing.cast(Callable[..., Any], getattr(cls(), name))
    except TypeError as error:
        raise ConfigurationError(
            f"{cls.__qualname__}.{name} is a method, and {cls.__qualname__}() cannot be made without arguments "
            f"({error}): decorate a function or a static method, or give every argument a default"
        ) from error


def _check_batch(consumer: Consumer) -> None:
    batch, wait, where = consumer.batch, consumer.batch_wait, f"a consumer of {consumer.topic!r}"
    if batch is None:
        if wait != BATCH_WAIT:
            raise ConfigurationError(f"batch_wait={wait!r} for {where} says nothing without batch=: give both")
        return
    if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= MAX_BATCH:
        raise ConfigurationError(f"bad batch={batch!r} for {where}: give a number of events from 1 to {MAX_BATCH}")
    if not isinstance(wait, (int, float)) or isinstance(wait, bool) or not 0 <= wait <= MAX_BATCH_WAIT:
        raise ConfigurationError(f"bad batch_wait={wait!r} for {where}: give seconds from 0 to {MAX_BATCH_WAIT:.0f}")
    if consumer.once:
        raise ConfigurationError(
            f"{where} has both batch= and once=, and events are remembered one by one: leave one of them out"
        )
    check_batch_topic(consumer, consumer.topic)


def check_batch_topic(consumer: Consumer, topic: str) -> None:
    """Check that *consumer*, if it takes batches, may listen to *topic*.

    :raises ConfigurationError: it is FIFO.
    """
    if consumer.batch is not None and topic.endswith(".fifo"):
        raise ConfigurationError(
            f"a consumer of {topic!r} has batch=, and a FIFO topic's events are served one after the other: "
            "leave batch= out, or use a standard queue"
        )


def _check_plain(func: object, topic: str) -> None:
    """Refuse what only makes a coroutine or a generator when it is called: nothing of it would run."""
    func = getattr(func, "__func__", func)  # what a static or class method holds
    for called in (func, getattr(func, "__call__", None)):  # noqa: B004  # an object's own is looked at, not whether
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            kind = "async"
        elif inspect.isgeneratorfunction(called):
            kind = "a generator"
        else:
            continue
        raise ConfigurationError(
            f"{getattr(func, '__qualname__', func)!s}, a consumer of {topic!r}, is {kind}, and nothing of it would run "
            "when it is called: decorate a plain function that runs it, such as with asyncio.run"
        )


def _event_type(consumer: Consumer) -> type[FacilityRecord] | type[Payload] | None:
    """The model that the function asks for by an annotation, or None for a dict."""
    try:
        parameters = inspect.signature(consumer.func).parameters.values()
    except (TypeError, ValueError):  # a builtin has none
        return None
    hints = [_resolved(parameter.annotation, consumer) for parameter in parameters]
    found = [model for hint in hints for model in _models(hint)]
    if consumer.batch is not None:
        if found:
            raise ConfigurationError(
                f"{consumer.task_name} has batch=, and gets a list: annotate list[{found[0].__name__}]"
            )
        found = [model for hint in hints for item in _items(hint) for model in _models(item)]
    if len(found) > 1:
        raise ConfigurationError(f"{consumer.task_name} asks for {len(found)} event models; annotate one parameter")
    return found[0] if found else None


def _resolved(annotation: Any, consumer: Consumer) -> Any:
    """An annotation that may be its source; one that cannot be resolved, as its name is for type checkers only, is of
    no interest here, and keeps nobody from asking for a model by another."""
    if not isinstance(annotation, str):
        return annotation
    func = inspect.unwrap(consumer.func)
    names = getattr(func, "__globals__", None) or getattr(type(func).__call__, "__globals__", {})
    try:
        return eval(annotation, names)
    except Exception:
        return None


def _models(hint: Any) -> Iterator[type[FacilityRecord] | type[Payload]]:
    """The event models that a hint names, also as one of a union or with metadata."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(hint):
            yield from _models(part)
    # Python 3.10 takes list[str] for a type, but not for a class.
    elif origin is None and isinstance(hint, type) and issubclass(hint, (FacilityRecord, Payload)):
        yield hint


def _items(hint: Any) -> Iterator[Any]:
    """What the lists that a hint names hold."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(hint):
            yield from _items(part)
    elif isinstance(origin, type) and issubclass(list, origin):  # a list, or any abstraction of one
        yield from typing.get_args(hint)
