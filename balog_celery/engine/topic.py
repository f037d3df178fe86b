"""What the parts of the engine know about the topic that they serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..consumers.consumer import Consumer
from ..dead_letters.writer import DeadLetters
from ..dispatch.dispatcher import Dispatcher
from ..events.decoders import Reader
from ..sqs.protocols import Queue
from ..telemetry import Telemetry
from .batcher import Batcher
from .config import EngineConfig
from .room import InFlightRoom
from .stats import Lag, TopicStats
from .visibility import VisibilityExtender


@dataclass(frozen=True)
class Topic:
    """One topic, its consumers, and the objects that all its pollers share."""

    #: The topic as its consumers give it, a name or a URL. Its dead-letter queue is beside it.
    source: str
    #: The queue's name; the source, if queues of several regions or accounts have that name.
    name: str
    queue: Queue
    consumers: Sequence[Consumer]
    reader: Reader
    extender: VisibilityExtender
    dispatcher: Dispatcher
    #: The queues on the broker of the consumers' tasks.
    task_queues: frozenset[str]
    dead_letters: DeadLetters
    config: EngineConfig
    stats: TopicStats
    lag: Lag
    #: Limits the messages in flight; None: any number may be.
    room: InFlightRoom | None
    #: None: OpenTelemetry is off, and the hot path makes no calls for it.
    telemetry: Telemetry | None
    #: Collects chunks while receives are full; None: no consumer has any.
    chunks: Batcher | None = None
