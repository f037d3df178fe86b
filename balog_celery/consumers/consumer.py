"""A consumer: a function, the events that it wants, and the options of its Celery task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ..arguments import is_number
from ..errors import ConfigurationError, RecordError
from ..events.conditions import VersionCondition, cls_types, version_condition
from ..events.decoders.mapping import At
from ..events.patterns import Pattern
from ..events.payloads import declared_names, payload_dict
from ..events.records import FacilityRecord, as_event, typed
from ..events.serialization import explain
from ..number_rule import LONGEST
from ..sqs.addresses import is_arn, queue_address
from ..text import plain_topic, printable
from .annotations import defaults, event_type, message_parameter
from .concurrency import concurrency_of
from .options import check_task_options

#: The default of ``batch_wait``, in seconds.
BATCH_WAIT = 1.0
#: The default of ``chunk_wait``, in seconds.
CHUNK_WAIT = 1.0
#: The largest values: AWS Lambda's limit for SQS, and a time far below the longest visibility timeout.
MAX_BATCH, MAX_BATCH_WAIT = 10_000, 3600.0


@dataclass(eq=False)
class Consumer:
    """A function, the events that it wants, and the options of its Celery task.

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
    :param where: which events it wants by their content; None: any. Kept as a :class:`Pattern`.
    :param arguments: what the function is called with: ``"event"``, ``"payload"``, or the paths of its parameters in
        the event.
    :param each: whether a batch's events are given to an ``async def`` function one by one, concurrently.
    :param concurrency: how many of its tasks may run at once, in each worker or, as ``(10, "cluster")``, in all; None:
        any number. ``limit`` has it as a :class:`Concurrency`.
    :param chunk: how many events one task may have, for each of which the function is called by itself; None: one.
    :param chunk_wait: how long an event of a chunk may wait for the calls of others, in seconds.
    :param limits_of: ``"event"``, or ``"chunk"`` where time limits are for a whole chunk.
    :param existing: the name of the existing task whose code *func* is; "": none.
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
    where: Mapping[str, Any] | Pattern | None = None
    arguments: str | Mapping[str, At] = "event"
    each: bool = False
    concurrency: int | Sequence[Any] | None = None
    chunk: int | None = None
    chunk_wait: float = CHUNK_WAIT
    limits_of: str = "event"
    existing: str = ""
    module: str = ""
    found_as: str = ""

    def __post_init__(self) -> None:
        if not callable(self.func) or not isinstance(self.options, Mapping):
            wrong = f"func {self.func!r}" if not callable(self.func) else f"options {self.options!r}"
            raise ConfigurationError(f"bad {printable(wrong)} of a consumer: give a function, and options by name")
        if not isinstance(self.topic, str) or not self.topic.strip() or is_arn(self.topic):
            raise ConfigurationError(f"bad topic {self.topic!r}: give the name or the URL of the queue to listen to")
        self.topic = plain_topic(self.topic)
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ConfigurationError(f"bad name {self.name!r} for a consumer of {self.topic!r}: give a text")
        self.options = check_task_options(self.options, f"a consumer of {self.topic!r}")
        #: The function as it was given; ``func`` is what an operator calls, once the consumer has a task.
        self.function = self.func
        self.is_async = _is_async(self.func, self.topic)
        _check_once(self)
        self.limit = concurrency_of(self.concurrency, f"a consumer of {self.topic!r}")
        _check_batch(self)
        _check_chunk(self)
        _check_arguments(self)
        self.cls_type = self.cls_types = cls_types(self.cls_type)
        self.version = self.condition = version_condition(self.version)
        where = self.where
        self.where = self.pattern = where if where is None or isinstance(where, Pattern) else Pattern(where)
        #: Whether the name was given explicitly.
        self.named = self.name is not None
        self.name = self.name or self.found_as or getattr(self.func, "__name__", None) or type(self.func).__name__
        self.module = self.module or getattr(self.func, "__module__", None) or "__main__"
        #: The name of its Celery task; a hub makes it unique among its own.
        self.task_name = f"{self.module}.{self.name}"
        is_batch = self.batch is not None and not self.each
        by_paths = isinstance(self.arguments, Mapping)
        self.event_type = None if by_paths else event_type(self.func, is_batch=is_batch, name=self.task_name)
        self.defaults = defaults(self.func)
        #: The parameter for the message; "" if it has none.
        self.message_parameter = message_parameter(self.func)
        #: Whether its task gets the message's attributes.
        self.wants_message = bool(self.message_parameter)
        if self.message_parameter and self.batch is not None:
            raise ConfigurationError(
                f"{self.task_name} has batch= and asks for the Message, and a batch has many: leave one of them out"
            )

    def __repr__(self) -> str:
        return f"<Consumer {self.task_name}>"

    @property
    def gathers(self) -> bool:
        """Whether one of its tasks may have several events."""
        return self.batch is not None or self.chunk is not None

    def argument(self, record: FacilityRecord) -> Any:
        """Return what the function gets for *record*: the record, its payload as the function's model, or a dict.

        With a mapping as ``arguments`` this is the dict of its parameters. One for which its path finds nothing is
        left to the function's default.

        :raises RecordError: the payload is not what the function's model asks for; the text is one line, and holds
            nothing of the event.
        """
        if self.event_type is None:
            if self.arguments == "event":
                return as_event(record)
            return payload_dict(record.payload) if self.arguments == "payload" else self._parameters(as_event(record))
        try:
            as_declared = typed(record)
            if issubclass(self.event_type, FacilityRecord):
                return as_declared
            if isinstance(as_declared.payload, self.event_type):
                return as_declared.payload
            return self.event_type.model_validate(payload_dict(record.payload))
        except ValidationError as error:
            why = explain(error, declared_names(FacilityRecord, self.event_type))
        raise RecordError(f"the event is not what {self.task_name} asks for, {self.event_type.__name__}: {why}")

    def _parameters(self, event: dict[str, Any]) -> dict[str, Any]:
        assert not isinstance(self.arguments, str)
        found = {name: value for name, path in self.arguments.items() if (value := path(event)) is not None}
        for name in self.arguments.keys() - found.keys() - self.defaults:
            path = self.arguments[name].path
            raise RecordError(
                f"the event has nothing at {path!r} for the parameter {name!r} of {self.task_name}: send it, or give "
                "the parameter a default"
            )
        return found


def _check_arguments(consumer: Consumer) -> None:
    arguments = consumer.arguments
    where = f"a consumer of {consumer.topic!r}"
    if isinstance(arguments, Mapping):
        if arguments and all(isinstance(name, str) and isinstance(path, At) for name, path in arguments.items()):
            if consumer.batch is not None and not consumer.each:
                raise ConfigurationError(f"{where} has batch= and gets a list, so its arguments= cannot be parameters")
            return
    elif arguments in ("event", "payload"):
        return
    raise ConfigurationError(
        f"bad arguments={arguments!r} for {where}: give 'event', 'payload', or parameters with their paths in the "
        "event, such as {'order': At('payload.order.id')}"
    )


def _check_once(consumer: Consumer) -> None:
    once = consumer.once
    # Redis counts milliseconds.
    if isinstance(once, bool) or (is_number(once) and (once == 0 or 0.001 <= once <= LONGEST)):
        return
    raise ConfigurationError(
        f"bad once={printable(repr(once))} for a consumer of {consumer.topic!r}: give True, or 0.001 to {LONGEST} s"
    )


def _check_batch(consumer: Consumer) -> None:
    batch, wait, where = consumer.batch, consumer.batch_wait, f"a consumer of {consumer.topic!r}"
    if consumer.each and (batch is None or not consumer.is_async):
        raise ConfigurationError(
            f"{where} has each=True, which runs the events of a batch concurrently: give batch= and an async def too"
        )
    if batch is None:
        if wait != BATCH_WAIT:
            raise ConfigurationError(f"batch_wait={wait!r} for {where} has no effect without batch=: give both")
        return
    if not isinstance(batch, int) or not is_number(batch) or not 1 <= batch <= MAX_BATCH:
        raise ConfigurationError(f"bad batch={batch!r} for {where}: give a number of events from 1 to {MAX_BATCH}")
    if not is_number(wait) or not 0 <= wait <= MAX_BATCH_WAIT:
        raise ConfigurationError(f"bad batch_wait={wait!r} for {where}: give seconds from 0 to {MAX_BATCH_WAIT:.0f}")
    if consumer.once:
        raise ConfigurationError(
            f"{where} has both batch= and once=, and events are remembered one by one: leave one of them out"
        )
    check_order(consumer, consumer.topic)


def _check_chunk(consumer: Consumer) -> None:
    chunk, wait, where = consumer.chunk, consumer.chunk_wait, f"a consumer of {consumer.topic!r}"
    if consumer.limits_of not in ("event", "chunk"):
        raise ConfigurationError(f"bad limits_of={consumer.limits_of!r} for {where}: give 'event' or 'chunk'")
    if chunk is None:
        for name, value, default in (("chunk_wait", wait, CHUNK_WAIT), ("limits_of", consumer.limits_of, "event")):
            if value != default:
                raise ConfigurationError(f"{name}={value!r} for {where} has no effect without chunk=: give both")
        return
    if not isinstance(chunk, int) or not is_number(chunk) or not 1 <= chunk <= MAX_BATCH:
        raise ConfigurationError(f"bad chunk={chunk!r} for {where}: give a number of events from 1 to {MAX_BATCH}")
    if not is_number(wait) or not 0 < wait <= MAX_BATCH_WAIT:
        raise ConfigurationError(f"bad chunk_wait={wait!r} for {where}: give seconds up to {MAX_BATCH_WAIT:.0f}")
    if consumer.batch is not None:
        raise ConfigurationError(
            f"{where} has both batch= and chunk=: give batch= for a function of a list, else chunk="
        )
    check_limits(consumer, consumer.options.get("time_limit"), consumer.options.get("soft_time_limit"))
    check_order(consumer, consumer.topic)


def check_limits(consumer: Consumer, *limits: float | None) -> None:
    """Check that *limits*, time limits of the task of *consumer*, are not for one event where the task has many.

    :raises ConfigurationError: they may be.
    """
    if consumer.chunk is not None and any(limits) and consumer.limits_of != "chunk":
        raise ConfigurationError(
            f"a consumer of {consumer.topic!r} has chunk= and a time limit, which would apply to up to "
            f"{consumer.chunk} events together: leave one of them out, or set limits_of='chunk'"
        )


def check_order(consumer: Consumer, topic: str) -> None:
    """Check that *consumer*, if its tasks may have several events, may listen to *topic*.

    :raises ConfigurationError: it is FIFO.
    """
    if consumer.gathers and queue_address(topic).is_fifo:
        option = "chunk=" if consumer.batch is None else "batch="
        raise ConfigurationError(
            f"a consumer of {topic!r} has {option}, and a FIFO topic's events are served one after the other: "
            f"leave {option} out, or use a standard queue"
        )


def _is_async(func: object, topic: str) -> bool:
    """Return whether *func* is a coroutine function.

    :raises ConfigurationError: it is a generator, of which nothing would run.
    """
    func = getattr(func, "__func__", func)  # what a static or class method holds
    called = [func, getattr(func, "__call__", None)]  # noqa: B004  # the object's own
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in called):
        raise ConfigurationError(
            f"{getattr(func, '__qualname__', func)!s}, a consumer of {topic!r}, is a generator, so calling it would "
            "run none of its code: remove its yield"
        )
    return any(map(inspect.iscoroutinefunction, called))
