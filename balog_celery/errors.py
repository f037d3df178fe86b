"""The errors that balog_celery raises, as one tree.

* :class:`BalogError`

  * :class:`ConfigurationError`   a setting, an option or a decorator's argument is wrong: nothing has started

    * :class:`VersionConditionError`   a version condition cannot be read
    * :class:`PackageImportError`      a package of ``balog_packages`` cannot be imported

  * :class:`RecordError`          a record or a payload does not match its schema

    * :class:`DecodeError`        the bytes of a message are not a record

  * :class:`BatchFailure`         raised by a consumer's function: some events of its batch failed
  * :class:`FunctionAborted`      a consumer's function ended with a ``BaseException``

  * :class:`QueueError`           SQS, or the broker in its place, answered with an error

    * :class:`QueueNotFound`      there is no queue of that name
    * :class:`AccessDenied`       the credentials are wrong, missing, expired, or lack a permission

  * :class:`SendError`            SQS has not confirmed events that were sent

Each message names what is wrong, the value, and the way out. No message holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class BalogError(Exception):
    """The base class of all errors of this package."""


class ConfigurationError(BalogError, ValueError):
    """A setting, a task option or an argument of a decorator is wrong. Raised at decoration, at scan or at start."""


class VersionConditionError(ConfigurationError):
    """A version condition such as ``"<1.0"`` cannot be read. Raised at decoration."""

    def __init__(self, condition: object, reason: str) -> None:
        self.condition = condition
        super().__init__(
            f"bad version condition {condition!r}: {reason}; "
            'write one such as "<1.0", ">=1.0,<2.0" or "~=1.2", or several as a tuple'
        )


class PackageImportError(ConfigurationError):
    """A package of ``balog_packages``, or ``celeryconfig``, cannot be imported. Raised when the app is loaded.

    :param message: one line with the package, the file, the line and the reason.
    :param frames: the last frames of the traceback that are not this package's.
    """

    def __init__(self, message: str, frames: str) -> None:
        self.frames = frames
        super().__init__(message)


class RecordError(BalogError, ValueError):
    """A record or a payload does not match its schema."""


class DecodeError(RecordError):
    """The body of a message is not a record.

    :param reason: the reason in one line, fit for a log and for a message attribute; it never holds the body.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BatchFailure(BalogError):
    """Raised or returned by the function of a batch consumer when only some events of the batch failed.

    These are retried, as the task's ``max_retries``, ``default_retry_delay`` or ``retry_backoff`` say, and then become
    dead letters, each by itself. The others are done. If it names no event, all are done.

    :param failed: the events that failed: each an index into the list that the function got, or an event's id. A
        mapping adds the reason: a text, or the exception.
    :raises TypeError: one is neither.
    """

    def __init__(self, failed: Iterable[int | str] | Mapping[int | str, object]) -> None:
        if isinstance(failed, str):
            raise TypeError(f"BatchFailure takes several indexes or ids, not the text {failed!r}: put it into a list")
        reasons = failed if isinstance(failed, Mapping) else dict.fromkeys(failed, "")
        for which in reasons:
            if isinstance(which, bool) or not isinstance(which, (int, str)):
                raise TypeError(f"BatchFailure takes indexes and ids of events, not {which!r}")
        #: The reason of each failure; "" if none was given.
        self.failed: dict[int | str, str] = {
            which: reason if isinstance(reason, str) else repr(reason) for which, reason in reasons.items()
        }
        super().__init__(self.failed)

    def __str__(self) -> str:
        shown = [f"{which} ({reason})" if reason else f"{which}" for which, reason in [*self.failed.items()][:5]]
        return f"{len(self.failed)} of the batch's events failed: {', '.join(shown)}{', ...' * (len(self.failed) > 5)}"


class FunctionAborted(BalogError):
    """A consumer's function raised ``MemoryError``, or a ``BaseException`` such as ``CancelledError``.

    That exception is its ``__cause__``.
    """


class QueueError(BalogError):
    """SQS, or the broker in its place, refused a call or could not be reached.

    :param message: the error in one line.
    :param code: the error code of the service (``"AccessDenied"``), or the name of the exception of boto3 or kombu.
    """

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class QueueNotFound(QueueError):
    """There is no queue of that name in this account and region."""


class AccessDenied(QueueError):
    """The credentials are missing, wrong or expired, or they lack a permission."""


@dataclass(frozen=True)
class SendFailure:
    """An event that SQS has not confirmed.

    :param index: its position in what was to be sent.
    :param event_id: its id; "" if it was sent raw.
    :param code: the error code of the service, or the name of boto3's exception.
    :param reason: why, in one line.
    """

    index: int
    event_id: str
    code: str
    reason: str


class SendError(BalogError):
    """SQS has not confirmed one or more of the events.

    SQS may still have one whose call timed out. To send the same payloads again makes new events.

    :param queue: the queue's name.
    :param failures: the events that failed, and why.
    :param sent: the others, by their positions: :class:`~balog_celery.producer.sending.SentEvent`.
    """

    def __init__(self, queue: str, failures: Sequence[SendFailure], sent: Mapping[int, Any]) -> None:
        self.failures = tuple(failures)
        self.sent = dict(sent)
        first, *more = self.failures
        others = f" (and {len(more)} more events)" if more else ""
        count = f"{len(self.failures)} of {len(self.failures) + len(self.sent)} events were not sent to {queue}"
        super().__init__(f"{count}: {first.code}: {first.reason}{others}")
