"""What the parts of a worker take for each event: measured, and the only place that has these numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Costs:
    """CPU times of the processes of a worker, in seconds.

    A process that wakes up handles all that has arrived. So part of its cost is for each time it wakes, and part for
    each event: under load it wakes less often for as many events.

    :param receive: the engine, for a receive.
    :param event: the engine, to decode an event, route it and hand it over, or to publish it.
    :param wake: the engine, each time it reads the worker's answers.
    :param answer: the engine, for each answer, and its part of the delete.
    :param delete: the engine, for a call that deletes.
    :param turn: the worker's main process, for each turn of its loop.
    :param task: the worker's main process, for each task, half of it when the task comes and half when it has ended.
    :param child: a pool child, each time it wakes: for a task, and if its function has waited.
    """

    receive: float
    event: float
    wake: float
    answer: float
    delete: float
    turn: float
    task: float
    child: float

    def scaled(self, factor: float) -> Costs:
        """Return the costs on a machine that takes *factor* times as long."""
        return Costs(*(getattr(self, field.name) * factor for field in fields(self)))


#: By hand-off, with Celery's task events, on two otherwise idle virtual cores (AMD EPYC), CPython 3.11. The sums for an
#: event are those of docs/scaling.md, which `end-to-end-hand-off` measures; a receive's and a delete's are of "Lessons
#: from profiling" in benchmarks/README.md. A quarter of the main process' sum is for turns, as in the profile of
#: "Peers", and a third of the engine's for waking. `plan` compares the simulation with workers.
HAND_OFF = Costs(
    receive=70e-6, event=45e-6, wake=40e-6, answer=15e-6, delete=70e-6, turn=50e-6, task=160e-6, child=150e-6
)
