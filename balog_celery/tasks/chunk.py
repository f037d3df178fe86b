"""The task of a consumer with ``chunk``: it calls the function for each of its events, and each has its own end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from types import MappingProxyType
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from ..consumers.context import ORIGINAL, OWN, own_headers
from ..errors import BatchFailure
from ..events.decoders.documents import Reading
from ..events.records import FacilityRecord, read_event
from ..producer.lineage import consuming, continue_with
from ..sqs.addresses import queue_name
from ..telemetry import OFF, Telemetry
from ..text import printable
from . import event_loop
from .batch import BatchTask
from .calls import Errors, finished, in_each, is_retried
from .consumer import LATER, countdown_of
from .dead_letter import event_id_of
from .idempotency import AlreadyDone, InProgress
from .local_retry import LocalRetry
from .naming import argsrepr, batch_id, task_id
from .outcome import is_for_the_pool, safe_repr

logger = logging.getLogger(__name__)

_NOTHING = nullcontext()

_own: ContextVar[Mapping[str, Any]] = ContextVar("balog_own", default=MappingProxyType({}))


class Ends:
    """How the events of a chunk ended, by their positions; those that are not named are done."""

    __slots__ = ("calls", "countdown", "dead", "failed", "is_cut", "is_over", "later", "seconds")

    def __init__(self) -> None:
        #: Why events failed that are retried, or are dead letters if they cannot be.
        self.failed: dict[int, str] = {}
        #: The longest countdown that one of their calls asked for, in seconds; None: none did.
        self.countdown: float | None = None
        #: Why events failed permanently.
        self.dead: dict[int, str] = {}
        #: Events to process later, which is no retry.
        self.later: list[int] = []
        #: Whether a soft time limit has ended the chunk.
        self.is_over = False
        #: Whether that, or the time that they took, left some without a call.
        self.is_cut = False
        #: How many calls were made one after the other, and how long they took together.
        self.calls = 0
        self.seconds = 0.0


class Own:
    """Has the headers of the event whose call runs, in place of a task's request."""

    @property
    def request(self) -> Mapping[str, Any]:
        """The headers."""
        return _own.get()


class ChunkTask(BatchTask):
    """The base of the task of a consumer with ``chunk``: its argument is a list of events' JSON texts.

    Each call runs in a context of its own, so that what it logs and sends names its event.
    """

    abstract = True
    Request = "balog_celery.tasks.request:ChunkRequest"

    #: Whether ``call_function`` returns a coroutine, so that the calls run concurrently.
    is_concurrent = False
    #: As :func:`~balog_celery.tasks.calls.compose` takes it.
    retried: tuple[Errors, Errors] = ((), ())
    #: What counts and traces each event; a worker sets it.
    telemetry: Telemetry = OFF

    def describe(self, events: Sequence[Reading]) -> tuple[str, str, Any]:
        if len(events) > 1:
            return super().describe(events)
        ((event, text),) = events
        return task_id(event.header.id, self.name), argsrepr(event, self.topic), [text]

    def run(self, event: list[str]) -> Ends:  # type: ignore[override]
        """Call the consumer's function for each event."""
        ends = Ends()
        with consuming(self.topic, self.name, ()):
            if self.is_concurrent:
                event_loop.run(self._concurrently(event, ends))
            else:
                self._one_by_one(event, ends)
        return ends

    def process(self, event: list[str]) -> None:
        ends: Ends = self.call(event)
        if not (ends.failed or ends.dead or ends.later):
            return
        if not (ends.failed or ends.later):
            self._fail(event, ends.dead)
        self._dead_letter_others(event, ends.dead)
        if ends.failed:
            try:
                # The worker can execute one part of a task again, so the other one is published.
                self._retry_failed(event, ends.failed, ends.countdown, publish=bool(ends.later))
            except Retry:
                if not ends.later:
                    raise
            except BatchFailure:
                if not ends.later:
                    self._fail(event, ends.failed)
                self._dead_letter_others(event, ends.failed)
        self._process_later(event, ends)

    def _one_by_one(self, texts: Sequence[str], ends: Ends) -> None:
        """Process events until they have taken as long as the last one may wait."""
        began = time.monotonic()
        until = began + self.consumer.chunk_wait
        is_eager = self.request.is_eager
        position = 0
        try:
            for position, text in enumerate(texts):
                if position and (ends.is_over or time.monotonic() >= until) and not is_eager:
                    ends.is_cut, ends.later = True, [*ends.later, *range(position, len(texts))]
                    break
                ends.calls = position + 1
                copy_context().run(self._process_one, position, text, ends)
        except SoftTimeLimitExceeded:  # it came between two calls
            known = ends.failed.keys() | ends.dead.keys() | set(ends.later)
            rest = [other for other in range(position, len(texts)) if other not in known]
            ends.is_cut, ends.later = True, [*ends.later, *rest]
        ends.seconds = time.monotonic() - began

    async def _concurrently(self, texts: Sequence[str], ends: Ends) -> None:
        """Process all events at once. A cancellation cancels those that still run."""
        tasks = [asyncio.ensure_future(self._await_one(position, text, ends)) for position, text in enumerate(texts)]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            ends.is_over = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    def _process_one(self, position: int, text: str, ends: Ends) -> None:
        try:
            record = self._begin(text)
            with self._around(record, text) if self.is_surrounded else _NOTHING:
                self.call_function(self.consumer.argument(record))
        except BaseException as error:
            if is_for_the_pool(error, self, self.request):
                raise
            self._note(position, text, error, ends)

    async def _await_one(self, position: int, text: str, ends: Ends) -> None:
        try:
            record = self._begin(text)
            with self._around(record, text) if self.is_surrounded else _NOTHING:
                result = self.call_function(self.consumer.argument(record))
                finished(self.consumer, await result if inspect.isawaitable(result) else result)
        except BaseException as error:
            if is_for_the_pool(error, self, self.request):
                raise
            is_limit = ends.is_over and isinstance(error, asyncio.CancelledError)
            self._note(position, text, SoftTimeLimitExceeded() if is_limit else error, ends)

    def _begin(self, text: str) -> FacilityRecord:
        """Return the event in *text*, of which this context is from now on."""
        in_each.set(True)
        record = read_event(text)
        continue_with(record)
        if self.consumer.wants_message or self.telemetry is not OFF:
            _own.set(own_headers(self.request, record.header.id))
        return record

    @property
    def is_surrounded(self) -> bool:
        """Whether there is something to do around each call."""
        return self.idempotency_store is not None or self.telemetry is not OFF

    @contextmanager
    def _around(self, record: FacilityRecord, text: str) -> Iterator[None]:
        """Run the block, which calls the function: as often as the consumer allows, and in the trace of its event."""
        store = self.idempotency_store
        with (
            nullcontext() if self.telemetry is OFF else self._observed(record),
            nullcontext() if store is None else self.once(store, text),
        ):
            yield

    @contextmanager
    def _observed(self, record: FacilityRecord) -> Iterator[None]:
        """Run the block in the trace of an event, and count it unless it fails."""
        topic = queue_name(self.topic)
        times = {"emitted": int(record.header.timestamp.timestamp() * 1000), "started": int(time.time() * 1000)}
        self.telemetry.started(topic, self.name, times)
        own = _own.get()
        with self.telemetry.running(own) if own else nullcontext():
            yield
        self.telemetry.done(topic, self.name, {**times, "done": int(time.time() * 1000)}, failed=False)

    def _note(self, position: int, text: str, error: BaseException, ends: Ends) -> None:
        """Note how the call for an event ended that did not return."""
        if isinstance(error, (Ignore, AlreadyDone)):
            return
        if isinstance(error, InProgress):
            ends.later.append(position)
            return
        ends.is_over |= isinstance(error, SoftTimeLimitExceeded)
        cause = error
        if isinstance(error, Retry):
            cause = error if error.exc is None else error.exc
            if (countdown := countdown_of(error.when)) is not None:
                ends.countdown = max(countdown, ends.countdown or 0.0)
        self.attempt.cause = self.attempt.cause or cause
        # With its traceback: the failure of the whole task has only the first.
        logger.warning("%s failed on event %s", self.name, printable(event_id_of(text)) or "?", exc_info=cause)
        (ends.failed if is_retried(error, self.retried) else ends.dead)[position] = printable(safe_repr(cause), 500)

    def _fail(self, event: Sequence[str], reasons: Mapping[int, str]) -> None:
        """Note that these events failed permanently, which makes dead letters of them.

        :raises BatchFailure: always.
        """
        self._count_dead(len(reasons))
        self.attempt.failed = dict(reasons)
        raise self.failure(event, reasons)

    def _dead_letter_others(self, event: Sequence[str], reasons: Mapping[int, str]) -> None:
        """Make dead letters of these events while others go on.

        :raises Reject: neither SQS nor the broker can be reached.
        """
        self._count_dead(len(reasons))
        self._dead_letter_now({position: (event[position], why) for position, why in reasons.items()})

    def _count_dead(self, count: int) -> None:
        for _ in range(count):
            self.telemetry.done(queue_name(self.topic), self.name, {}, failed=True)

    def _process_later(self, event: list[str], ends: Ends) -> None:
        """Have the events that are to be processed later executed again, without counting a retry.

        :raises LocalRetry: by this worker.
        :raises Ignore: by the broker, in parts that take as long as the last event of each may wait.
        :raises Reject: the broker cannot be reached, so that they come again.
        """
        if not ends.later:
            return
        positions = sorted(ends.later)
        delay = 0.0 if ends.is_cut else LATER
        if self.can_wait_locally(self.request, delay):
            remainder = self.remainder(event, positions)
            if remainder is not None and ends.is_cut:
                remainder = remainder._replace(calls=ends.calls, seconds=ends.seconds)
            raise self.wait(LocalRetry(when=delay, retries=self.request.retries, remainder=remainder))
        size = len(positions)
        if ends.is_cut:
            size = max(1, int(self.consumer.chunk_wait * ends.calls / ends.seconds))
        self.attempt.remainder = None  # or that would be taken for a local retry
        try:
            for first in range(0, len(positions), size):
                texts = [event[position] for position in positions[first : first + size]]
                self.publish(self.request, texts, countdown=delay, retries=self.request.retries)
        except Exception as error:
            raise Reject(error, requeue=True) from error
        raise Ignore

    def publish(self, request: Any, texts: list[str], *, countdown: float, retries: int) -> None:
        """Publish a part of a chunk.

        :param request: the task's context.
        :param countdown: after how many seconds it is executed.
        :param retries: how often it was retried.
        :raises Exception: the broker did not take it.
        """
        ids = [event_id_of(text) for text in texts]
        signature = self.signature_from_request(request, args=(texts,), countdown=countdown or None, retries=retries)
        headers = dict(signature.options.get("headers") or {})
        for name in headers.keys() & {ORIGINAL, OWN}:
            headers[name] = {event_id: headers[name][event_id] for event_id in ids if event_id in headers[name]}
        signature.set(task_id=batch_id(ids, self.name), headers=headers).apply_async()
