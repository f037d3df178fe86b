"""The errors that balog_celery raises, as one tree.

* :class:`BalogError`

  * :class:`ConfigurationError`   a setting, an option or a decorator's argument is wrong: nothing has started

    * :class:`VersionConditionError`   a version condition cannot be read

  * :class:`RecordError`          a record or a payload is not what its schema says

    * :class:`DecodeError`        the bytes of a message are not a record

  * :class:`QueueError`           the queue's service answered with an error

    * :class:`QueueNotFound`      there is no queue of that name
    * :class:`AccessDenied`       the credentials are wrong, missing, expired, or lack a permission

Every error says what was wrong, with which value, and what to do about it. None of them holds a secret.
"""

from __future__ import annotations


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
