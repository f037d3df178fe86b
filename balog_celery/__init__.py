"""Any JSON event on an Amazon SQS queue becomes Celery tasks, one for each function that asked for it.

Importing this imports neither Celery nor boto3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    AccessDenied,
    BalogError,
    ConfigurationError,
    DecodeError,
    QueueError,
    QueueNotFound,
    RecordError,
    VersionConditionError,
)
from .logger import SchemaFormatter, configure, get_logger
from .records import FacilityRecord, LogPayload, MetricsPayload, NullPayload, Payload

if TYPE_CHECKING:
    from .handlers import SQSHandler
    from .integration import install

__version__ = "2.0.0.dev0"

__all__ = [
    "AccessDenied",
    "BalogError",
    "ConfigurationError",
    "DecodeError",
    "FacilityRecord",
    "LogPayload",
    "MetricsPayload",
    "NullPayload",
    "Payload",
    "QueueError",
    "QueueNotFound",
    "RecordError",
    "SQSHandler",
    "SchemaFormatter",
    "VersionConditionError",
    "configure",
    "get_logger",
    "install",
]


def __getattr__(name: str) -> Any:
    # What needs Celery or boto3 is imported when it is asked for.
    if name == "install":
        from .integration import install

        return install
    if name == "SQSHandler":
        from .handlers import SQSHandler

        return SQSHandler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
