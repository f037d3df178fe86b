"""Message move tasks: SQS itself moves dead letters back to the queues from which a redrive policy moved them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .addresses import queue_name
from .answers import UnexpectedResponse, read_number
from .clients import SQS
from .queues import SQSQueue
from .translation import calling_sqs

#: The most messages a second that a task can be limited to.
MAX_RATE = 500
#: The reason of a task that met a message which was sent to the queue, so that SQS does not know its source.
NO_SOURCE = "CouldNotDetermineMessageSource"


class MoveTask(NamedTuple):
    """A message move task.

    :param status: ``RUNNING``, ``COMPLETED``, ``CANCELLING``, ``CANCELLED`` or ``FAILED``.
    :param handle: by which it is cancelled; "" unless it is running.
    :param moved: about how many messages it has moved.
    :param to_move: about how many it had to move when it started; 0: not known yet.
    :param failure: why it failed; "" if it did not.
    :param started: when it started, in milliseconds of Unix time.
    """

    status: str
    handle: str
    moved: int
    to_move: int
    failure: str
    started: int

    @property
    def is_active(self) -> bool:
        """Whether it may still move messages. SQS then starts no other task of the same queue."""
        return self.status not in ("COMPLETED", "CANCELLED", "FAILED")


class MessageMover:
    """Starts, lists and cancels the move tasks of a dead-letter queue.

    :param queue: the dead-letter queue.
    """

    def __init__(self, queue: SQSQueue) -> None:
        self._queue = queue

    def sources(self) -> set[str]:
        """Return the names of the queues whose redrive policies move messages to this queue.

        :raises QueueError: as for :attr:`SQSQueue.url`; the permission is ``sqs:ListDeadLetterSourceQueues``.
        """
        asked: dict[str, Any] = {"QueueUrl": self._queue.url, "MaxResults": 1000}
        names: set[str] = set()
        with self._calling("ListDeadLetterSourceQueues") as sqs:
            while True:
                answer = sqs.call("ListDeadLetterSourceQueues", asked)
                names.update(queue_name(url) for url in answer.get("queueUrls", ()) if isinstance(url, str))
                if "NextToken" not in answer:
                    return names
                asked["NextToken"] = answer["NextToken"]

    def latest(self) -> MoveTask | None:
        """Return the task that was started last, or None.

        :raises QueueError: as for :attr:`SQSQueue.url`; the permission is ``sqs:ListMessageMoveTasks``.
        """
        arn = self._arn()
        with self._calling("ListMessageMoveTasks") as sqs:
            found = sqs.call("ListMessageMoveTasks", {"SourceArn": arn}).get("Results", ())
            if found and not isinstance(found[0], dict):
                raise UnexpectedResponse("one of its Results is not an object")
        return _read_task(found[0]) if found else None

    def start(self, rate: int | None) -> None:
        """Start to move all messages back to their source queues.

        :param rate: the most messages a second, up to :data:`MAX_RATE`; None leaves it to SQS.
        :raises QueueError: as for :attr:`SQSQueue.url`; the permission is ``sqs:StartMessageMoveTask``.
        """
        asked: dict[str, Any] = {
            "SourceArn": self._arn(),
            **({} if rate is None else {"MaxNumberOfMessagesPerSecond": rate}),
        }
        with self._calling("StartMessageMoveTask") as sqs:
            sqs.call("StartMessageMoveTask", asked)

    def cancel(self, task: MoveTask) -> int:
        """Cancel a running task, and return about how many messages it has moved. These are not moved back.

        :raises QueueError: as for :attr:`SQSQueue.url`; the permission is ``sqs:CancelMessageMoveTask``.
        """
        with self._calling("CancelMessageMoveTask") as sqs:
            answer = sqs.call("CancelMessageMoveTask", {"TaskHandle": task.handle})
        return read_number(answer.get("ApproximateNumberOfMessagesMoved"), task.moved)

    def _arn(self) -> str:
        return self._queue.attributes()["QueueArn"]

    def _calling(self, permission: str) -> AbstractContextManager[SQS]:
        return calling_sqs(self._queue.connection, self._queue.name, permission)


def _read_task(raw: dict[str, Any]) -> MoveTask:
    """Read a task of the answer to ``ListMessageMoveTasks``."""
    return MoveTask(
        str(raw.get("Status") or ""),
        str(raw.get("TaskHandle") or ""),
        read_number(raw.get("ApproximateNumberOfMessagesMoved"), 0),
        read_number(raw.get("ApproximateNumberOfMessagesToMove"), 0),
        str(raw.get("FailureReason") or ""),
        read_number(raw.get("StartedTimestamp"), 0),
    )
