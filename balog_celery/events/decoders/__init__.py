"""Decoders: they turn the messages of all sources into events.

A decoder is a function that takes a body, or a :class:`Message`, and returns its events, none to many; it raises
:class:`~balog_celery.errors.DecodeError` where it cannot, and then the message as a whole is a dead letter. ``auto``
knows a message by its shape; the setting ``balog_decoders`` names another one for a topic. docs/event-sources.md has a
table of the kinds.

``registry`` names the decoders and makes readers of them. ``detect`` tells kinds apart; ``cloud_events``, ``aws``,
``entries`` (the Records of AWS) and ``others`` know one kind each, ``mapping`` is for plain JSON, and ``documents``
makes records of what they find.

The payload is the source's document as it is, with the key ``cls_type`` added. A document that has another
``cls_type`` of its own keeps it as ``document_cls_type``. The header's ``decoder`` names the kind.

An event's id is the same whenever its message comes again, so that its tasks are too. It is what the source guarantees
to be the event's alone, else the message's id (SNS's, else SQS's) and the position in it. Events of one message that
have one id and say the same are one event; if they say different things, the message is a dead letter.
"""

from ..message import Message
from .mapping import At, Attribute, JSONMapping
from .mapping import json_object as json
from .registry import (
    DECODERS,
    Decoder,
    Reader,
    auto,
    balog,
    cloudevents,
    decoder_for,
    eventbridge,
    find_decoder,
    reader_of,
    s3,
    sns,
)

__all__ = [
    "DECODERS",
    "At",
    "Attribute",
    "Decoder",
    "JSONMapping",
    "Message",
    "Reader",
    "auto",
    "balog",
    "cloudevents",
    "decoder_for",
    "eventbridge",
    "find_decoder",
    "json",
    "reader_of",
    "s3",
    "sns",
]
