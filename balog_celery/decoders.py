"""The public place of the decoders: ``balog_decoders`` takes their dotted names as well."""

from .events.decoders import (
    At,
    Attribute,
    JSONMapping,
    Message,
    auto,
    balog,
    cloudevents,
    eventbridge,
    json,
    s3,
    sns,
)

__all__ = [
    "At",
    "Attribute",
    "JSONMapping",
    "Message",
    "auto",
    "balog",
    "cloudevents",
    "eventbridge",
    "json",
    "s3",
    "sns",
]
