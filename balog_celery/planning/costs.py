"""What the parts of a worker take for each event: measured, and the only place that has these numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Costs:
    """CPU times of the processes of a worker, in seconds.

    A process that wakes up handles all that has arrived. So part of its cost is for each time it wakes, and part for
    each event: under load it wakes less often for as many events.

    :param receive: the engine, for a receive.
    :param event: the engine, to decode an event, route it and hand it over, or to publish it; the same for a task of
        several events.
    :param wake: the engine, each time it reads the worker's answers; of a FIFO topic also each time that message
        groups have their turn, and for each delete.
    :param answer: the engine, for each answer, and its part of the delete.
    :param delete: the engine, for a call that deletes.
    :param turn: the worker's main process, for each turn of its loop.
    :param task: the worker's main process, for each task, half of it when the task comes and half when it has ended.
    :param child: a pool child, for each task.
    :param woken: a pool child, if its function has waited: then nothing of it is left in the core's caches.
    :param gathered: the engine, for each event of a batch or a chunk, beside its part of the task.
    :param carried: the worker's main process, for each event of a batch or a chunk.
    :param read: a pool child, for each event of a batch or a chunk, and in a chunk once more if its call has waited.
    :param latency: how long a process that sleeps takes to wake up, without any CPU.
    :param broker: the broker, for each task that is published, half of it when the task comes.
    :param broker_wait: the worker's main process, for each task, while it waits for the broker's answers.
    """

    receive: float
    event: float
    wake: float
    answer: float
    delete: float
    turn: float
    task: float
    child: float
    woken: float
    gathered: float
    carried: float
    read: float
    latency: float
    broker: float = 0.0
    broker_wait: float = 0.0

    def scaled(self, factor: float) -> Costs:
        """Return the costs on a machine that takes *factor* times as long."""
        return Costs(*(getattr(self, field.name) * factor for field in fields(self)))


#: With Celery's task events, on the machine of the results in benchmarks/README.md. ``benchmarks/run.py --only
#: plan-costs`` measures what an event takes of each process by each way, and compares that with a simulation of the
#: same; these numbers are those with which the two agree. ``plan`` compares the throughput.
HAND_OFF = Costs(
    receive=68e-6,
    event=40e-6,
    wake=66e-6,
    answer=13e-6,
    delete=62e-6,
    turn=57e-6,
    task=121e-6,
    child=160e-6,
    woken=270e-6,
    gathered=37e-6,
    carried=5e-6,
    read=17e-6,
    latency=50e-6,
)
REDIS = replace(
    HAND_OFF,
    event=115e-6,
    wake=0.0,
    answer=0.0,
    delete=70e-6,
    turn=100e-6,
    task=790e-6,
    child=200e-6,
    woken=350e-6,
    broker=108e-6,
    broker_wait=160e-6,
)
RABBITMQ = replace(REDIS, event=130e-6, turn=150e-6, task=150e-6, broker=255e-6, broker_wait=220e-6)
#: By the broker that tasks are published to; "": they are handed over.
COSTS: Mapping[str, Costs] = {"": HAND_OFF, "redis": REDIS, "rabbitmq": RABBITMQ}
