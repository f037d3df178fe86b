"""The receives of a queue that are under way, and those whose answers were lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from typing import Any

from .clients import SQS
from .deadlines import Cancellation


class Polls:
    """Makes the receives of one queue. Threads may share it.

    :param is_fifo: whether it is a FIFO queue, whose receives are attempts that can be made again.
    """

    def __init__(self, *, is_fifo: bool) -> None:
        self._is_fifo = is_fifo
        self._lock = threading.Lock()
        self._waiting: set[Cancellation] = set()
        self._stopped = False
        #: The ids of receives whose answers were lost.
        self._lost_attempts: deque[str] = deque(maxlen=100)

    def receive(self, sqs: SQS, request: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Call ReceiveMessage. Return the answer, and when it began to arrive, by ``time.monotonic()``.

        On a FIFO queue with the id of an attempt whose answer was lost, if there is one: SQS then sends that answer
        again. Otherwise its messages would block their groups until they are visible again.

        :raises TimeoutError: :meth:`stop` was called, and the receive waits for messages.
        """
        cancellation = Cancellation()
        if request["WaitTimeSeconds"]:
            with self._lock:
                self._waiting.add(cancellation)
                if self._stopped:
                    cancellation.cancel()
        try:
            cancellation.check()
            call = self._attempt if self._is_fifo else _call
            answer = call(sqs, request, cancellation)
            return answer, cancellation.answer_began or time.monotonic()
        finally:
            with self._lock:
                self._waiting.discard(cancellation)

    def stop(self) -> None:
        """End the receives that wait for messages, and let none begin. Those that do not wait may go on."""
        with self._lock:
            self._stopped = True
            for cancellation in self._waiting:
                cancellation.cancel()

    def _attempt(self, sqs: SQS, request: dict[str, Any], cancellation: Cancellation) -> dict[str, Any]:
        attempt = self._lost_attempts.popleft() if self._lost_attempts else uuid.uuid4().hex
        try:
            return _call(sqs, {**request, "ReceiveRequestAttemptId": attempt}, cancellation)
        except BaseException:
            self._lost_attempts.append(attempt)
            raise


def _call(sqs: SQS, request: dict[str, Any], cancellation: Cancellation) -> dict[str, Any]:
    return sqs.call("ReceiveMessage", request, cancellation)
