"""The tasks that were handed to this worker and have not ended, with their states."""

from __future__ import annotations

import threading
from typing import Any

from ..tasks.local_retry import MOVES, LocalState
from .hand_off_message import HandOffMessage

#: How many tasks may wait in a worker for their retries. Retries of more are published.
MAX_WAITING = 1000
#: Rate-limited tasks for up to this many events use no credit.
MAX_LIMITED = 100
#: How many bytes the events of either kind may have in memory: twice that is what tasks with large events may take.
MAX_WAITING_BYTES = 64 * 2**20


class LocalTask:
    """One task.

    :param message: the message of its current attempt.
    """

    __slots__ = ("begun", "entry", "message", "state")

    def __init__(self, message: HandOffMessage) -> None:
        self.message = message
        self.state = LocalState.GIVEN
        #: Whether a thread or greenlet of this process executes the current attempt.
        self.begun = False
        #: The timer's entry while it is scheduled.
        self.entry: Any = None


class LocalTasks:
    """The tasks by the engine's numbers. Threads may share it: a pool of threads settles from any of them.

    A message of an earlier attempt, of an ended task or of an earlier engine is not current, and changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[int, LocalTask] = {}
        #: Those that wait for a retry, or are being retried, and those that wait for their rate limit.
        self.retries = Waiting()
        self.limited = Waiting()

    @property
    def has_room_for_retry(self) -> bool:
        """Whether another task may wait for a retry."""
        return len(self.retries) < MAX_WAITING and self.retries.size < MAX_WAITING_BYTES

    @property
    def using_credit(self) -> int:
        """How many tasks use the credit that the engine was given: all but those that wait."""
        return len(self._tasks) - len(self.retries) - len(self.limited)

    def all(self) -> list[LocalTask]:
        """Return all tasks."""
        with self._lock:
            return list(self._tasks.values())

    def current(self, message: HandOffMessage) -> LocalTask | None:
        """Return the task of *message*, if that is its current attempt."""
        task = self._tasks.get(message.number)
        return task if task is not None and task.message is message else None

    def add(self, message: HandOffMessage) -> None:
        """Add a task that Celery is about to get."""
        with self._lock:
            self._tasks[message.number] = LocalTask(message)

    def begin(self, message: HandOffMessage) -> bool:
        """Note that a thread or greenlet is about to execute *message*; return False if it must not.

        The task was withdrawn while it waited in the pool, and is executed elsewhere.
        """
        with self._lock:
            task = self.current(message)
            if task is None:
                return False
            task.begun = True
            return True

    def limit(self, message: HandOffMessage) -> bool:
        """Free the credit of a task that waits for its rate limit; return False if too many do, or it used none."""
        with self._lock:
            task = self.current(message)
            if task is None or task.state is not LocalState.GIVEN:
                return False
            if self.limited.events + message.events > MAX_LIMITED or self.limited.size >= MAX_WAITING_BYTES:
                return False
            self._move(task, LocalState.RATE_LIMITED)
            return True

    def retry(self, message: HandOffMessage, again: HandOffMessage) -> LocalTask | None:
        """Replace *message* by *again* and park the task; None if *message* is not current."""
        with self._lock:
            task = self.current(message)
            if task is not None:
                task.message, task.begun = again, False
                self._move(task, LocalState.PARKED)
            return task

    def park(self, task: LocalTask) -> None:
        """Take the task from Celery or out of the timer, unless this process executes it."""
        with self._lock:
            if not task.begun and task.state not in (LocalState.PARKED, LocalState.ENDED):
                self._move(task, LocalState.PARKED)

    def schedule(self, task: LocalTask, entry: Any) -> None:
        """Note the timer's *entry* of a parked task."""
        with self._lock:
            self._move(task, LocalState.SCHEDULED)
            task.entry = entry

    def resume(self, task: LocalTask) -> None:
        """Note that a scheduled task is due, and Celery is about to get it."""
        with self._lock:
            self._move(task, LocalState.RETRYING)

    def end(self, message: HandOffMessage, *, unless_begun: bool = False) -> bool:
        """Remove the task of *message*; return False if that is not current.

        :param unless_begun: leave a task that this process executes, and return False.
        """
        with self._lock:
            task = self.current(message)
            if task is None or (unless_begun and task.begun):
                return False
            del self._tasks[message.number]
            self._move(task, LocalState.ENDED)
            return True

    def _move(self, task: LocalTask, state: LocalState) -> None:
        if state not in MOVES[task.state]:
            raise RuntimeError(f"a task cannot go from {task.state.name} to {state.name}")
        task.state = state
        self.limited.note(task.message, waits=state is LocalState.RATE_LIMITED)
        self.retries.note(task.message, waits=state.is_retry)
        if task.entry is not None:
            task.entry.cancel()
            task.entry = None


class Waiting:
    """The number, events and bytes of the tasks that wait for one reason."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, int]] = {}
        self.events = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._of)

    def note(self, message: HandOffMessage, *, waits: bool) -> None:
        """Note whether the task of *message* waits."""
        events, size = self._of.pop(message.number, (0, 0))
        self.events -= events
        self.size -= size
        if waits:
            self._of[message.number] = events, size = message.events, message.size
            self.events += events
            self.size += size
