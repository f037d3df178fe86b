"""The moves that the code allows, and makes, are those of the models."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Mapping
from typing import Any, TypeVar

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.delivery import MOVES, Delivery, Job, State
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.engine import Engine
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.tasks.local_retry import MOVES as LOCAL_MOVES
from balog_celery.tasks.local_retry import LocalState
from engines import ScriptedDispatcher, running
from model import Model, Step, explore
from model import State as ModelState
from model_of_tasks import moves as moves_of_tasks
from sample_events import event_text
from scripted_sqs.errors import ApiError
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.script import Fault
from scripted_sqs.store import SqsStore
from servers import wait_until

S = TypeVar("S")

#: The state of a delivery, by the phase of its job in the model.
PHASES = {
    "held": State.RECEIVED,
    "dispatched": State.DISPATCHED,
    "failed": State.DISPATCHED,  # its dead letter is being written
    "settled": State.DELETE_PENDING,
    "deleting": State.DELETING,
    "releasing": State.RELEASE_PENDING,
}
#: The state in which it ends, by the step after which the engine has no job.
ENDS = {"deleted": State.DELETED, "released": State.RELEASED, "left": State.EXPIRED, "leave": State.EXPIRED}


def moves_of(model: Model) -> set[tuple[State, State]]:
    """The moves of a delivery that *model* makes in all of its states."""
    found: set[tuple[State, State]] = set()

    def note(state: ModelState, step: Step, after: ModelState) -> None:
        if step.name == "crash":
            return
        for old, new in zip(state.jobs[step.engine], after.jobs[step.engine], strict=True):
            if old is None or old == new:
                continue
            is_replaced = (old.phase, new and new.phase) == ("releasing", "held")
            end = State.EXPIRED if is_replaced else PHASES[new.phase] if new else ENDS[step.name]
            if PHASES[old.phase] is not end:
                found.add((PHASES[old.phase], end))

    explore(model, note)
    return found


def allowed(moves: Mapping[S, frozenset[S]]) -> set[tuple[S, S]]:
    return {(before, after) for before, some in moves.items() for after in some}


@pytest.mark.parametrize("model", [Model(1), Model(2, fifo=True)], ids=["standard", "group"])
def test_a_delivery_may_make_the_moves_of_the_model_and_no_others(model: Model) -> None:
    """Each move of a delivery is one of the model, and each of the model is one of a delivery."""
    assert moves_of(model) == allowed(MOVES)


def test_a_task_may_make_the_moves_of_its_model_and_no_others() -> None:
    """Each move of a task in its worker is one of its model, and each of the model is one of the task."""
    assert {(LocalState[before], LocalState[after]) for before, after in moves_of_tasks()} == allowed(LOCAL_MOVES)


@pytest.mark.parametrize("moves", [MOVES, LOCAL_MOVES], ids=["delivery", "task"])
def test_one_move_more_or_less_is_noticed(moves: Any) -> None:
    """The comparison can fail: every single change of the moves makes them others than the model's."""
    right = allowed(moves)
    for before in moves:
        for after in moves:
            if before is not after:
                changed = {**moves, before: moves[before] ^ {after}}
                assert allowed(changed) != right


class _Settling(ScriptedDispatcher):
    """A dispatcher whose consumers succeed, fail, and give up at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def dispatch(self, jobs: Any) -> None:
        super().dispatch(jobs)
        job: Job
        for job in jobs:
            self._random.choices([job.acknowledge, job.release, job.expire], (4, 1, 1))[0]()


@pytest.mark.parametrize("topic", ["topic", "topic.fifo"])
def test_an_engine_makes_moves_of_the_model_only(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under failing calls and lapsed visibility an engine makes the moves of the model, and nearly all of them."""
    made: set[tuple[State, State]] = set()
    lock = threading.Lock()

    def record(delivery: Delivery, name: str, value: Any) -> None:
        if name == "state":
            with lock:
                made.add((getattr(delivery, "state", value), value))
        object.__setattr__(delivery, name, value)

    monkeypatch.setattr(Delivery, "__setattr__", record, raising=False)
    store = SqsStore()
    queue = InProcessQueue(topic, store)
    queue.create()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(print, topic, cls_type="metrics"))
    draw = random.Random(1)
    engine = Engine(hub, lambda name: InProcessQueue(name, store, queue.script), dispatcher=_Settling(1), wait_time=0)

    # When calls fail and visibility ends at once, again and again, until all messages are deleted
    with running(engine):
        for number in range(100):
            queue.send([OutgoingMessage(event_text(f"e{number}"), group=f"g{number % 20}" if queue.is_fifo else None)])
            for action in ("DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
                error = ApiError("InternalError", sender_fault=draw.random() < 0.5)
                carried_out = draw.random() < 0.5
                entries = draw.choice([None, {0}])
                if draw.random() < 0.2:
                    queue.script.add(Fault(action=action, error=error, entries=entries, carried_out=carried_out))
            if draw.random() < 0.3:
                store.advance(60.0)
        for _ in range(60):
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not any(store.named(topic).counts()[:2]), 1.0)
                break
            store.advance(60.0)
        assert not any(store.named(topic).counts())

    # Then each move is one of the model, and most of the moves were made
    made = {(before, after) for before, after in made if before is not after}
    assert made <= moves_of(Model(1))
    assert made >= {
        (State.RECEIVED, State.DISPATCHED),
        (State.DISPATCHED, State.DELETE_PENDING),
        (State.DISPATCHED, State.RELEASE_PENDING),
        (State.DISPATCHED, State.EXPIRED),
        (State.DELETE_PENDING, State.DELETING),
        (State.DELETING, State.DELETED),
        (State.DELETING, State.DELETE_PENDING),
        (State.RELEASE_PENDING, State.RELEASED),
    }


def test_a_dispatcher_that_is_not_ready_may_become_so() -> None:
    """Only READY lets an engine receive, and each other value gives users a reason of its own."""
    assert [one for one in Readiness if one] == [Readiness.READY]
    assert len({one.value for one in Readiness}) == len(Readiness)
    assert not any(one.is_back_pressure for one in Readiness if one)
