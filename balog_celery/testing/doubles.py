"""What stands in for a worker, Redis and SQS in the harness."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from celery import Celery, signals
from celery.exceptions import Retry

from ..consumers.consumer import Consumer
from ..consumers.delivery import Work
from ..dispatch.dispatcher import Readiness
from ..events.mark import read_mark, text_in
from ..sqs.messages import BATCH_SIZE, MAX_MESSAGE_BYTES, EntryFailure, Message, OutgoingMessage
from ..tasks.idempotency import AlreadyDone, IdempotencyStore, OtherPayload
from .report import DeadLetter, Run

#: The members of a dead letter's mark that the harness reports.
_SHOWN = ("reason", "consumer", "error")


class EagerDispatcher:
    """Executes each task in the calling thread, as ``Task.apply`` does: with its own options, retries included."""

    def __init__(self, app: Celery, runs: list[Run], store: MemoryIdempotencyStore) -> None:
        self._app = app
        self._runs = runs
        self._store = store

    def dispatch(self, jobs: Sequence[Work]) -> None:
        for job in jobs:
            self._run(job)
            job.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return BATCH_SIZE

    def chunk_size(self, consumer: Consumer) -> int:
        return consumer.chunk or 1

    def close(self) -> None:
        pass

    def _run(self, job: Work) -> None:
        name = job.consumer.task_name
        task = self._app.tasks[name]
        events = tuple(one.event for one in job.jobs)
        job_id, _, argument = task.describe([(one.event, one.text) for one in job.jobs])
        retries: list[Retry] = []

        def on_retry(request: Any, reason: Retry, **_: Any) -> None:
            if request.id == job_id:
                retries.append(reason)

        self._store.skipped = False
        signals.task_retry.connect(on_retry, sender=task)
        try:
            outcome = task.apply((argument,), task_id=job_id, throw=False, headers=job.headers)
        finally:
            signals.task_retry.disconnect(on_retry, sender=task)
        run = Run(
            name,
            events[0],
            outcome.state,
            outcome.result,
            tuple(retries),
            self._store.skipped,
            job.consumer.func,
            events,
        )
        self._runs.append(run)


class MemoryIdempotencyStore(IdempotencyStore):
    """The finished events of consumers with ``once``, in memory, for as long as the harness lives."""

    def __init__(self) -> None:
        self._done: dict[str, str] = {}
        self.skipped = False

    @contextlib.contextmanager
    def attempt(self, key: str, remember: float, digest: str) -> Iterator[None]:
        if key in self._done:
            if self._done[key] != digest:
                raise OtherPayload
            self.skipped = True
            raise AlreadyDone
        yield
        self._done[key] = digest


class MemoryQueue:
    """A queue that delivers nothing. What is sent to it is a dead letter."""

    is_fifo = False
    has_unique_ids = False
    max_message_bytes = MAX_MESSAGE_BYTES

    def __init__(self, name: str, letters: list[DeadLetter]) -> None:
        self.name = name
        self._letters = letters

    def receive(self, limit: int, wait: float, visibility: int) -> list[Message]:
        return []

    def stop_polling(self) -> None:
        pass

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        return []

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        return []

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        for message in messages:
            reason, consumer, error = (text_in(read_mark(message.attributes), name) for name in _SHOWN)
            self._letters.append(DeadLetter(self.name, message.body, reason, consumer, error))
        return []

    def attributes(self) -> Mapping[str, str]:
        return {"VisibilityTimeout": "30"}

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        pass
