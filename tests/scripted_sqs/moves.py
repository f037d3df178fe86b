"""Message move tasks: SQS moves the messages of a dead-letter queue, at a rate or at once.

The rules are those of the API reference and of the guide's page about failed redrives. A message that was sent to the
dead-letter queue itself has no source: without a destination its task fails, and moves nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .clock import Clock
from .errors import ApiError, invalid
from .message import StoredMessage
from .queue import StoredQueue
from .requests import number_of, redrive_of

#: The longest list of tasks.
MAX_RESULTS = 10


@dataclass
class Task:
    """One task; *started* is by the clock, *timestamp* in milliseconds of Unix time."""

    source: str
    destination: str
    rate: int | None
    started: float
    timestamp: int
    to_move: int
    moved: int = 0
    status: str = "RUNNING"
    failure: str = ""

    @property
    def handle(self) -> str:
        return f"{self.source}#{self.timestamp}"

    def answer(self) -> dict[str, Any]:
        """The task as ``ListMessageMoveTasks`` shows it."""
        shown: dict[str, Any] = {
            "Status": self.status,
            "SourceArn": self.source,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "ApproximateNumberOfMessagesToMove": self.to_move,
            "StartedTimestamp": self.timestamp,
        }
        optional = {
            "TaskHandle": self.handle if self.status == "RUNNING" else None,
            "DestinationArn": self.destination or None,
            "MaxNumberOfMessagesPerSecond": self.rate,
            "FailureReason": self.failure or None,
        }
        return shown | {name: value for name, value in optional.items() if value is not None}


class Moves:
    """The tasks of an SQS.

    :param queues: all queues, by name.
    :param new: makes a new message of a moved one.
    """

    def __init__(
        self, queues: Mapping[str, StoredQueue], clock: Clock, new: Callable[[StoredMessage], StoredMessage]
    ) -> None:
        self._queues = queues
        self._clock = clock
        self._new = new
        self._tasks: list[Task] = []

    def sources(self, dead: StoredQueue) -> list[str]:
        """The names of the queues whose redrive policies name *dead*."""
        return sorted(name for name, queue in self._queues.items() if redrive_of(queue)[0] == dead.name)

    def start(self, asked: Any) -> dict[str, Any]:
        """Start a task. :raises ApiError: it is not allowed."""
        source, destination = self._named(asked, "SourceArn"), asked.get("DestinationArn") or ""
        if not self.sources(source):
            raise invalid("Source queue must be configured as a Dead Letter Queue.")
        if destination and destination == asked["SourceArn"]:
            raise invalid("Source queue arn and destination queue arn cannot be the same.")
        if destination and self._named(asked, "DestinationArn").is_fifo != source.is_fifo:
            raise invalid("Source and destination must both be FIFO queues, or neither.")
        rate = number_of(asked, "MaxNumberOfMessagesPerSecond", 1, 500, default=0) or None
        if any(task.source == asked["SourceArn"] and task.status == "RUNNING" for task in self._tasks):
            raise ApiError("UnsupportedOperation", "There is already a task running. Only one active task is allowed.")
        now = self._clock.now()
        task = Task(asked["SourceArn"], destination, rate, now, self._clock.milliseconds(), len(source))
        self._tasks.insert(0, task)
        self.go_on()
        return {"TaskHandle": task.handle}

    def list(self, asked: Any) -> dict[str, Any]:
        """The last tasks of a queue, the newest first."""
        self._named(asked, "SourceArn")
        most = number_of(asked, "MaxResults", 1, MAX_RESULTS, default=1)
        return {"Results": [task.answer() for task in self._tasks if task.source == asked["SourceArn"]][:most]}

    def cancel(self, asked: Any) -> dict[str, Any]:
        """End a task that runs. What it has moved remains moved."""
        for task in self._tasks:
            if task.handle == asked.get("TaskHandle"):
                if task.status != "RUNNING":
                    raise ApiError("UnsupportedOperation", "Only active tasks can be cancelled.")
                task.status = "CANCELLED"
                return {"ApproximateNumberOfMessagesMoved": task.moved}
        raise ApiError("ResourceNotFoundException", "Task does not exist.", 404)

    def go_on(self) -> bool:
        """Move as many messages as the rates allow by now; return whether there was a task to go on with."""
        running = [task for task in self._tasks if task.status == "RUNNING"]
        for task in running:
            self._move(task)
        return bool(running)

    def _move(self, task: Task) -> None:
        source = self._queues.get(_name(task.source))
        if source is None:
            task.status, task.failure = "FAILED", "AWS.SimpleQueueService.NonExistentQueue"
            return
        now = self._clock.now()
        allowed = len(source) if task.rate is None else int((now - task.started) * task.rate) - task.moved
        waiting = [message for message in source if message.visible_at <= now]
        for message in waiting[:allowed]:
            target = task.destination or message.dead_letter_source
            if _name(target) not in self._queues:
                task.status = "FAILED"
                task.failure = "AWS.SimpleQueueService.NonExistentQueue" if target else "CouldNotDetermineMessageSource"
                return
            source.remove(message)
            self._queues[_name(target)].add(self._new(message))
            task.moved += 1
        if len(waiting) <= allowed:
            task.status = "COMPLETED"

    def _named(self, asked: Any, parameter: str) -> StoredQueue:
        queue = self._queues.get(_name(asked.get(parameter) or ""))
        if queue is None:
            text = f"The resource that you specified for the {parameter} parameter doesn't exist."
            raise ApiError("ResourceNotFoundException", text, 404)
        return queue


def _name(arn: str) -> str:
    return arn.rpartition(":")[2]
