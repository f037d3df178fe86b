"""The task of a consumer that takes batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.exceptions import Retry
from celery.utils.time import get_exponential_backoff_interval

from ..consumers.operator import Processed, process_batch
from ..errors import BatchFailure
from ..events.decoders.documents import Reading
from ..events.records import read_event
from ..producer.lineage import consuming
from .calls import in_each
from .consumer import ConsumerTask
from .dead_letter import Failures, event_id_of, reason_of
from .local_retry import Remainder
from .naming import batch_argsrepr, batch_id


class BatchTask(ConsumerTask):
    """The base of the task of a consumer that takes batches: its argument is a list of events' JSON texts."""

    abstract = True

    def run(self, event: list[str]) -> Processed:  # type: ignore[override]
        """Call the consumer's function with a batch."""
        # Decoded one after the other, so the texts and the records of all events are not in memory together.
        with consuming(self.topic, self.name, ()):
            return process_batch(self.call_function, self.consumer, map(read_event, event))

    def descriptive_options(self, argument: Any, headers: dict[str, Any]) -> dict[str, Any]:
        return {"argsrepr": batch_argsrepr([read_event(text) for text in argument], self.topic)}

    def describe(self, events: Sequence[Reading]) -> tuple[str, str, Any]:
        records = [event for event, _ in events]
        job_id = batch_id([event.header.id for event in records], self.name)
        return job_id, batch_argsrepr(records, self.topic), [text for _, text in events]

    def process(self, event: list[str]) -> Any:
        # Not in run(), around which Celery puts autoretry_for: that would retry the whole batch.
        processed = self.call(event)
        reasons = {**processed.failed, **processed.unfit}
        self.attempt.cause = processed.cause
        if self.attempt.local_retry or not reasons:
            return processed.result
        if processed.failed and processed.unfit:
            # Only the others are retried.
            self._dead_letter_now({position: (event[position], why) for position, why in processed.unfit.items()})
            reasons = processed.failed
        self.attempt.failed = reasons
        if processed.failed:
            self._retry_failed(event, reasons)
        raise self.failure(event, reasons)

    def _retry_failed(
        self, event: list[str], reasons: dict[int, str], countdown: float | None = None, *, publish: bool = False
    ) -> None:
        """Retry the failed events of a batch, as often and after as long as ``autoretry_for`` would.

        :param reasons: why they failed, by their positions.
        :param countdown: after how many seconds instead; None: as the consumer's options say.
        :param publish: have the broker keep the retry.
        :raises Retry: they are retried.
        :raises BatchFailure: the retries are exhausted.
        """
        failure, positions = self.failure(event, reasons), sorted(reasons)
        how = dict(getattr(self, "retry_kwargs", {}))
        if factor := float(getattr(self, "retry_backoff", False)):
            maximum, jitter = int(getattr(self, "retry_backoff_max", 600)), getattr(self, "retry_jitter", True)
            how["countdown"] = get_exponential_backoff_interval(
                int(max(1.0, factor)), self.request.retries, maximum, jitter
            )
        if countdown is not None:
            how["countdown"] = countdown
        remainder = self.remainder(event, positions)
        self.attempt.remainder = None if publish else remainder
        args = None if remainder is None else ([event[position] for position in positions],)
        raise self.retry(args=args, exc=failure, **how)

    def failure(self, event: Sequence[str], reasons: Mapping[int, str]) -> BatchFailure:
        """Return the failure of the events with these *reasons*, by their positions; users know them by their ids."""
        failure = BatchFailure({event_id_of(event[position]): reason for position, reason in reasons.items()})
        failure.__cause__ = self.attempt.cause
        return failure

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry the batch; for one event among others, raise the ``Retry`` that asks for its own."""
        if in_each.get():
            raise Retry(exc=kwargs.get("exc"), when=kwargs.get("eta") or kwargs.get("countdown"))
        return super().retry(*args, **kwargs)

    def failures(self, event: list[str], failure: BaseException | str) -> Failures:
        if isinstance(failure, BatchFailure):
            reasons: dict[int, str] = self.attempt.failed
        else:
            reasons = dict.fromkeys(range(len(event)), reason_of(failure))
        return {position: (event[position], reason) for position, reason in reasons.items()}

    def remainder(self, event: list[str], positions: list[int]) -> Remainder | None:
        if len(positions) == len(event):
            return None
        events = [read_event(event[position]) for position in positions]
        return Remainder(positions, batch_argsrepr(events, self.topic))
