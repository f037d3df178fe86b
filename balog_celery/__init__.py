"""Any JSON event on an Amazon SQS queue becomes Celery tasks, one for each function that consumes it.

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
    SendError,
    VersionConditionError,
)
from .producer.configuration import configure
from .producer.formatter import SchemaFormatter
from .producer.lineage import caused_by
from .producer.logger import get_logger
from .producer.process_end import flush

if TYPE_CHECKING:
    from .contracts.producers import produces
    from .events.payloads import LogPayload, MetricsPayload, NullPayload, Payload
    from .events.records import FacilityRecord
    from .integration import install
    from .producer.handlers import SQSHandler
    from .producer.sending import asend, asend_many, send, send_many

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
    "SendError",
    "VersionConditionError",
    "asend",
    "asend_many",
    "caused_by",
    "configure",
    "flush",
    "get_logger",
    "install",
    "produces",
    "send",
    "send_many",
]


#: What needs Celery, boto3 or pydantic's models is imported when it is asked for, from these modules.
_LATER = {
    "SQSHandler": ".producer.handlers",
    "install": ".integration",
    "produces": ".contracts.producers",
    **dict.fromkeys(("asend", "asend_many", "send", "send_many"), ".producer.sending"),
    **dict.fromkeys(("FacilityRecord", "LogPayload", "MetricsPayload", "NullPayload", "Payload"), ".events.records"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
