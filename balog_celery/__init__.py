"""Any JSON event on an Amazon SQS queue becomes Celery tasks, one for each function that asked for it.

Importing this imports neither Celery nor boto3.
"""

from __future__ import annotations

from importlib import import_module
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

if TYPE_CHECKING:
    from .handlers import SQSHandler
    from .integration import install
    from .records import FacilityRecord, LogPayload, MetricsPayload, NullPayload, Payload

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


#: What needs Celery, boto3 or pydantic's models is imported when it is asked for, from these modules.
_LATER = {
    "SQSHandler": ".handlers",
    "install": ".integration",
    **dict.fromkeys(("FacilityRecord", "LogPayload", "MetricsPayload", "NullPayload", "Payload"), ".records"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
