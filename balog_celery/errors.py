"""The errors that balog_celery raises, as one tree.

* :class:`BalogError`

  * :class:`ConfigurationError`   a setting, an option or a decorator's argument is wrong: nothing has started

    * :class:`VersionConditionError`   a version condition cannot be read

  * :class:`RecordError`          a record or a payload is not what its schema says

    * :class:`DecodeError`        the bytes of a message are not a record

  * :class:`BatchFailure`         raised by a consumer's function: some events of its batch failed

  * :class:`QueueError`           the queue's service answered with an error

    * :class:`QueueNotFound`      there is no queue of that name
    * :class:`AccessDenied`       the credentials are wrong, missing, expired, or lack a permission

Every error says what was wrong, with which value, and what to do about it. None of them holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class BalogError(Exception):
    """The base of every error that this package raises on purpose."""


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


class RecordError(BalogError, ValueError):
    """A record or a payload does not hold what its schema asks for."""


class DecodeError(RecordError):
    """The body of a message is not a record.

    :param reason: one line that says why, fit for a log line and for a message attribute; it never holds the body.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BatchFailure(BalogError):
    """What the function of a batch consumer raises, or returns, when only some of the events failed.

    These are retried, as the task's ``max_retries``, ``default_retry_delay`` or ``retry_backoff`` say, and are dead
    letters after that, each by itself. The others are done. If it names none, all are done.

    :param failed: which failed: each an index into the list that the function was given, or an event's id. A mapping
        also says why: a text, or the exception.
    :raises TypeError: one is neither.
    """

    def __init__(self, failed: Iterable[int | str] | Mapping[int | str, object]) -> None:
        if isinstance(failed, str):
            raise TypeError(f"BatchFailure takes several indexes or ids, not the text {failed!r}: put it into a list")
        reasons = failed if isinstance(failed, Mapping) else dict.fromkeys(failed, "")
        for which in reasons:
            if isinstance(which, bool) or not isinstance(which, (int, str)):
                raise TypeError(f"BatchFailure takes indexes and ids of events, not {which!r}")
        #: Why each failed; "" where nothing was said.
        self.failed: dict[int | str, str] = {
            which: reason if isinstance(reason, str) else repr(reason) for which, reason in reasons.items()
        }
        super().__init__(self.failed)

    def __str__(self) -> str:
        shown = [f"{which} ({reason})" if reason else f"{which}" for which, reason in [*self.failed.items()][:5]]
        return f"{len(self.failed)} of the batch's events failed: {', '.join(shown)}{', ...' * (len(self.failed) > 5)}"


class QueueError(BalogError):
    """SQS, or the broker in its place, refused a call or could not be reached.

    :param message: what to tell a person.
    :param code: the error code of the service (``"AccessDenied"``), or the name of the exception of boto3 or kombu.
    """

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class QueueNotFound(QueueError):
    """There is no queue of that name in this account and region."""


class AccessDenied(QueueError):
    """The credentials are missing, wrong or expired, or they lack a permission."""
