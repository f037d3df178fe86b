"""The tasks of a worker: in any order of moves each ends once, and counts as its state says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from balog_celery.dispatch.local_tasks import MAX_LIMITED, MAX_WAITING_BYTES, LocalTask, LocalTasks
from balog_celery.tasks.local_retry import LocalState


def message(number: int, events: int, size: int = 1) -> Any:
    return SimpleNamespace(number=number, events=events, size=size)


class LocalTasksMachine(RuleBasedStateMachine):
    """Does with tasks what the hand-off does, in any order and also with messages of earlier attempts."""

    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.tasks = LocalTasks()
        self.number = 0
        #: How often each number was ended.
        self.ended: dict[int, int] = {}
        self.cancelled: list[Any] = []
        self.entries: list[Any] = []

    def task_of(self, one: Any) -> LocalTask | None:
        return self.tasks.current(one)

    @rule(target=messages, events=st.integers(1, 60), size=st.integers(1, MAX_WAITING_BYTES))
    def add(self, events: int, size: int) -> Any:
        self.number += 1
        one = message(self.number, events, size)
        self.tasks.add(one)
        return one

    @rule(one=messages)
    def limit(self, one: Any) -> None:
        task = self.task_of(one)
        new = task is not None and task.state is LocalState.GIVEN
        limited = self.tasks.limited
        has_room = limited.events + one.events <= MAX_LIMITED and limited.size < MAX_WAITING_BYTES
        assert self.tasks.limit(one) is (new and has_room)

    @rule(one=messages)
    def begin(self, one: Any) -> None:
        """A thread or greenlet is about to execute it; never one that was given back."""
        task = self.task_of(one)
        assert self.tasks.begin(one) is (task is not None)
        if task is not None:
            assert not self.tasks.end(one, unless_begun=True)

    @rule(one=messages)
    def withdraw(self, one: Any) -> None:
        if self.tasks.end(one, unless_begun=True):
            self.ended[one.number] = self.ended.get(one.number, 0) + 1
            assert not self.tasks.begin(one)

    @rule(target=messages, one=messages)
    def retry(self, one: Any) -> Any:
        task = self.task_of(one)
        if task is not None and task.state in (LocalState.PARKED, LocalState.SCHEDULED):
            return multiple()  # Celery does not have it, so nothing can ask for a retry
        again = message(one.number, 1)
        parked = self.tasks.retry(one, again)
        assert (parked is None) is (task is None)
        return multiple() if parked is None else again

    @rule(one=messages)
    def park(self, one: Any) -> None:
        task = self.task_of(one)
        if task is not None:
            before = task.state
            self.tasks.park(task)
            assert task.state is (before if task.begun else LocalState.PARKED)

    @rule(one=messages)
    def schedule(self, one: Any) -> None:
        task = self.task_of(one)
        if task is not None and task.state is LocalState.PARKED:
            entry: Any = SimpleNamespace(cancel=lambda: self.cancelled.append(entry))
            self.entries.append(entry)
            self.tasks.schedule(task, entry)

    @rule(one=messages)
    def resume(self, one: Any) -> None:
        task = self.task_of(one)
        if task is not None and task.state is LocalState.SCHEDULED:
            self.tasks.resume(task)

    @rule(one=messages)
    def end(self, one: Any) -> None:
        if self.tasks.end(one):
            self.ended[one.number] = self.ended.get(one.number, 0) + 1

    @invariant()
    def each_task_ends_once(self) -> None:
        """Each task ends once, and the others are still there."""
        assert all(count == 1 for count in self.ended.values())
        numbers = {task.message.number for task in self.tasks.all()}
        assert numbers == set(range(1, self.number + 1)) - set(self.ended)

    @invariant()
    def counts_are_those_of_the_states(self) -> None:
        """The counts are those of the states, so that no credit is lost."""
        tasks = self.tasks.all()
        for waiting, those in (
            (self.tasks.retries, [task.message for task in tasks if task.state.is_retry]),
            (self.tasks.limited, [task.message for task in tasks if task.state is LocalState.RATE_LIMITED]),
        ):
            assert len(waiting) == len(those)
            assert waiting.events == sum(message.events for message in those)
            assert waiting.size == sum(message.size for message in those)

    @invariant()
    def a_task_is_in_the_timer_only_while_it_is_scheduled(self) -> None:
        """A task has a timer entry exactly while it is scheduled."""
        scheduled = {id(task.entry) for task in self.tasks.all() if task.state is LocalState.SCHEDULED}
        assert {id(entry) for entry in self.entries} - {id(entry) for entry in self.cancelled} == scheduled


TestLocalTasks = LocalTasksMachine.TestCase
TestLocalTasks.settings = settings(max_examples=50, stateful_step_count=30)
