"""The configuration of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, TypedDict

from ..arguments import is_number, shown
from ..dispatch.dispatcher import Dispatcher
from ..errors import ConfigurationError
from ..signatures import why_not
from ..sqs.messages import MAX_BODY_BYTES
from ..telemetry import Telemetry
from .pauses import Pauses
from .status import StatusFile
from .visibility_timeout import MIN_VISIBILITY

#: How long a stop waits for pollers once nothing is in flight, in seconds. Most receives end at once; what one that is
#: left open still receives comes again after its visibility timeout.
POLL_END = 2.0
#: How long a stop waits for pending deletes and releases in addition to the drain limit, in seconds.
FLUSH = 5.0
#: How long a delete may wait for nine others, in seconds.
LINGER = 1.0


def longest_stop(drain: float) -> float:
    """Return how long an engine may take to stop when its worker has no more tasks, in seconds."""
    return drain + POLL_END + FLUSH


#: The options that are numbers.
_NUMBERS = (
    "wait_time",
    "pollers",
    "visibility_timeout",
    "drain",
    "linger",
    "max_body_bytes",
    "max_depth",
    "max_in_flight",
)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The options that every engine has.

    :param default_event_handler: called with each event that matches no consumer. Default: count, log and delete it.
    :param dispatcher: runs the consumers. Default: call them in the polling threads.
    :param wait_time: the duration of a long poll, in seconds, at most 20.
    :param pollers: how many receives of a topic may run at a time; a FIFO topic always has one.
    :param visibility_timeout: the visibility timeout to receive with, in seconds. Default: each queue's own, or 30 if
        that is unknown or less than 2.
    :param drain: how long a stop waits for messages in flight, in seconds.
    :param linger: how long a delete may wait for nine others, in seconds.
    :param dead_letter: the name of a topic's dead-letter queue, with ``{topic}`` for the topic's name; None for none.
    :param create_queues: whether to create the queues at start, for development.
    :param decoders: by topic, as a consumer names it or as it is resolved: a name in
        :data:`~balog_celery.events.decoders.DECODERS`, a dotted name, or a decoder. Default: ``auto``.
    :param max_body_bytes: the largest body to decode, in bytes; a larger one becomes a dead letter.
    :param max_depth: how deep a body may be nested; a deeper one becomes a dead letter.
    :param max_in_flight: how many messages of a topic may be in flight. Default: as many as can be kept invisible.
    :param pauses: the topics and consumers that are paused.
    :param topics: other options of single topics, by the topic as it is resolved.
    :param status_file: where to write the engine's status for other processes.
    :param telemetry: reports events on their way. Default: OpenTelemetry, if the process has set it up.
    :raises ConfigurationError: *visibility_timeout* is less than 2, or a number is none.
    """

    default_event_handler: Callable[[Any], Any] | None = None
    dispatcher: Dispatcher | None = None
    wait_time: int = 20
    pollers: int = 1
    visibility_timeout: int | None = None
    drain: float = 20.0
    linger: float = LINGER
    dead_letter: str | None = "{topic}-dead"
    create_queues: bool = False
    decoders: Mapping[str, Any] | None = None
    max_body_bytes: int = MAX_BODY_BYTES
    max_depth: int = 100
    status_file: StatusFile | None = None
    telemetry: Telemetry | None = None
    max_in_flight: int | None = None
    topics: Mapping[str, TopicOptions] | None = None
    pauses: Pauses = field(default_factory=Pauses)

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            if (value := getattr(self, name)) is not None and not (is_number(value) and value >= 0):
                raise ConfigurationError(f"bad value {value!r} for {name} of an engine: give a number")
        self._check_types()
        if self.visibility_timeout is not None and self.visibility_timeout < MIN_VISIBILITY:
            raise ConfigurationError(
                f"visibility_timeout is {self.visibility_timeout} s, which leaves no time to extend it: make it "
                f"{MIN_VISIBILITY} or more"
            )

    def _check_types(self) -> None:
        handler = self.default_event_handler
        if handler is not None and (wrong := why_not(handler, "event")):
            raise ConfigurationError(f"bad default_event_handler{shown(handler)}: {wrong}")
        if self.dead_letter is not None and not isinstance(self.dead_letter, str):
            raise ConfigurationError(f"bad dead_letter{shown(self.dead_letter)}: give a name, or None for none")
        for name in ("decoders", "topics"):
            if not isinstance(value := getattr(self, name), (Mapping, NoneType)):
                raise ConfigurationError(f"bad {name}{shown(value)}: give a dict by topic")

    def of(self, topic: str) -> EngineConfig:
        """Return the configuration for *topic*, with its own options.

        :raises ConfigurationError: as for the engine's own.
        """
        own = (self.topics or {}).get(topic)
        return self if own is None else replace(self, **own)

    @property
    def longest_wait(self) -> int:
        """The duration of the longest long poll of any topic, in seconds."""
        return max([self.wait_time, *(self.of(topic).wait_time for topic in self.topics or ())])


class TopicOptions(TypedDict, total=False):
    """The fields of :class:`EngineConfig` that may differ from topic to topic."""

    wait_time: int
    pollers: int
    visibility_timeout: int | None
    dead_letter: str | None
    max_in_flight: int | None


class EngineOptions(TopicOptions, total=False):
    """The types of :class:`EngineConfig`'s fields, for the constructors of engines, but for their positional ones."""

    dispatcher: Dispatcher | None
    drain: float
    linger: float
    topics: Mapping[str, TopicOptions] | None
    pauses: Pauses
    create_queues: bool
    decoders: Mapping[str, Any] | None
    max_body_bytes: int
    max_depth: int
    status_file: StatusFile | None
    telemetry: Telemetry | None
