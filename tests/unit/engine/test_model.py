"""The design as a model, in all of its states: no event is lost, no group is blocked or out of order."""

from __future__ import annotations

import contextlib
import random

import pytest

from model import FLAWS, Model, State, explore
from scripted_sqs.errors import ApiError
from scripted_sqs.queue import StoredQueue
from scripted_sqs.store import SqsStore

#: The flaws that show only where messages wait for one another.
OF_GROUPS = {
    "a group is dispatched at once",
    "a released message is overtaken",
    "a release outlives the next receive",
}
#: The flaws by which a message never leaves the queue.
BLOCKING = {"a lost task is extended", "a stopped engine keeps what it holds"}


@pytest.mark.parametrize(
    "model",
    [Model(1), Model(1, redrive=True), Model(2, fifo=True), Model(2, fifo=True, redrive=True)],
    ids=["standard", "standard, redrive", "group", "group, redrive"],
)
def test_no_state_loses_disorders_or_blocks(model: Model) -> None:
    """With two engines that may crash at any step, no state loses, disorders or blocks messages."""
    found = explore(model)
    assert (found.lost, found.disordered, found.blocked) == (None, None, None)
    assert found.states > (20_000 if model.fifo else 100)


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_of_the_design_is_found(flaw: str) -> None:
    """The model can fail: it finds the steps by which each flaw does harm."""
    found = explore(Model(2 if flaw in OF_GROUPS else 1, fifo=flaw in OF_GROUPS, flaw=flaw))
    if flaw in OF_GROUPS:
        assert (found.lost, found.blocked) == (None, None)
        assert found.disordered is not None
    elif flaw in BLOCKING:
        assert found.lost is None
        assert found.blocked is not None
    else:
        assert found.lost is not None


class _Replica:
    """The scripted SQS, to which the steps of a model are done as well."""

    def __init__(self, messages: int, *, fifo: bool) -> None:
        store = SqsStore()
        self.queue = StoredQueue("q.fifo" if fifo else "q", {}, store.clock, lambda _queue, _message: False)
        self.numbers = [store.put(self.queue, str(index), "group" if fifo else "").number for index in range(messages)]
        self.handles: dict[tuple[int, int], str] = {}

    def follow(self, name: str, engine: int, state: State, after: State, message: int) -> None:
        """Do what a step does, and check that the same messages are received."""
        if name == "receive":
            came = [
                index
                for index, (old, new) in enumerate(zip(state.messages, after.messages, strict=True))
                if (old.place, new.place) == ("visible", "in flight")
            ]
            taken = self.queue.take(len(came), 30)
            assert [self.numbers.index(one.number) for one in taken] == came
            self.handles.update({(engine, index): one.handle for index, one in zip(came, taken, strict=True)})
        elif name.startswith("deleted"):
            with contextlib.suppress(ApiError):  # an expired handle of a FIFO queue
                self.queue.delete(self.handles[engine, message])
        else:
            self._show(state, after)

    def _show(self, state: State, after: State) -> None:
        """Make visible what has become so, by expiry or release."""
        latest = {one.number: one.handle for one in self.queue}
        for index, (old, new) in enumerate(zip(state.messages, after.messages, strict=True)):
            if (old.place, new.place) == ("in flight", "visible"):
                self.queue.change(latest[self.numbers[index]], 0)

    def places(self) -> list[str]:
        """Return where each message is."""
        held = {one.number: one for one in self.queue}
        now = self.queue.now()
        return [
            "deleted" if number not in held else "in flight" if held[number].in_flight(now) else "visible"
            for number in self.numbers
        ]


@pytest.mark.parametrize(("messages", "fifo"), [(1, False), (3, True)])
def test_the_model_and_the_scripted_sqs_agree(messages: int, fifo: bool) -> None:
    """After any steps the model and the scripted SQS agree on each message."""
    draw = random.Random(1)
    for _ in range(60):
        model, replica = Model(messages, fifo=fifo), _Replica(messages, fifo=fifo)
        state = model.start
        for _ in range(60):
            if not any(step.name == "receive" for step, _ in model.steps(state)):
                assert replica.queue.take(10, 30) == []
            step, after = draw.choice([one for one in model.steps(state) if one[0].name != "crash"] or [(None, state)])
            if step is None:
                break
            replica.follow(step.name, step.engine, state, after, step.message)
            state = after
            assert replica.places() == [one.place for one in state.messages], step
