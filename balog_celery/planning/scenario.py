"""What is simulated."""

from __future__ import annotations

from dataclasses import dataclass

from ..consumers.consumer import CHUNK_WAIT
from ..engine.batcher import MAX_BYTES
from .costs import Costs

#: The size of an event's text in the benchmarks, in bytes.
_EVENT_BYTES = 600


@dataclass(frozen=True)
class Function:
    """What the consumer's function does.

    :param seconds: how long a call takes, in seconds; with ``batch``, of a batch.
    :param cpu: how much of that is CPU, in seconds.
    :param is_random: whether the rest is exponentially distributed, with this mean; else it varies by a tenth.
    """

    seconds: float
    cpu: float = 0.0
    is_random: bool = False


@dataclass(frozen=True)
class Way:
    """How events get from their queue to the function.

    :param batch: how many events a call gets, at most; 0: one, by itself.
    :param chunk: how many events share a task, each with a call of its own, at most; 0: each has a task.
    :param broker: the broker that tasks are published to, ``redis`` or ``rabbitmq``; "": they are handed over.
    :param groups: how many message groups the topic has, which is then FIFO; 0: a standard queue.
    """

    batch: int = 0
    chunk: int = 0
    broker: str = ""
    groups: int = 0

    @property
    def gathers(self) -> bool:
        """Whether several events share a task."""
        return bool(self.batch or self.chunk)

    @property
    def most(self) -> int:
        """How many events a task may have."""
        return min(self.batch or self.chunk or 1, MAX_BYTES // _EVENT_BYTES)

    def events(self, function: Function) -> int:
        """Return how many events a task has when there are always more."""
        if self.chunk and function.seconds:
            return max(1, min(self.most, int(CHUNK_WAIT / function.seconds)))
        return self.most


SINGLE = Way()


@dataclass(frozen=True)
class Scenario:
    """Workers on one machine, and the queue that they read.

    :param function: the consumer's.
    :param costs: what an event takes.
    :param rate: how many events arrive in a second, at random times; None: there are always more.
    :param workers: how many workers share the machine, each with its engine.
    :param concurrency: the size of each worker's pool.
    :param pollers: how many receives each engine may have under way.
    :param cores: how many cores the machine has.
    :param distance: the round trip to SQS, in seconds.
    :param way: how events get to the function.
    :param sqs_cpu: what a call takes of these cores where SQS is an emulator beside the workers, in seconds.
    :param is_broker_beside: whether the broker takes these cores, too.
    """

    function: Function
    costs: Costs
    rate: float | None = None
    workers: int = 1
    concurrency: int = 2
    pollers: int = 1
    cores: int = 2
    distance: float = 0.0
    way: Way = SINGLE
    sqs_cpu: float = 0.0
    is_broker_beside: bool = False
