"""The public place of the models of records, and of what reads and writes them."""

from .events.payloads import LogPayload, MetricsPayload, MetricValue, NullPayload, Payload
from .events.records import Context, FacilityRecord, Header, decode, encode
from .events.timestamps import parse_timestamp

__all__ = [
    "Context",
    "FacilityRecord",
    "Header",
    "LogPayload",
    "MetricValue",
    "MetricsPayload",
    "NullPayload",
    "Payload",
    "decode",
    "encode",
    "parse_timestamp",
]
