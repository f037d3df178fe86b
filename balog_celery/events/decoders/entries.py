"""Records of AWS: the entries of ``Records``, which EventBridge Pipes sends bare, one or a list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...errors import DecodeError
from ..message import derived_id, join_id
from .aws import ses_event
from .documents import Event, as_object, text_at, text_or, value_at


def s3_event(entry: dict[str, Any]) -> Event:
    """Return the event in an entry of an Amazon S3 notification, or of a storage that speaks like S3."""
    bucket, name, time = (text_at(entry, path) for path in ("s3.bucket.name", "eventName", "eventTime"))
    optional = ("s3.object.key", "s3.object.versionId", "s3.object.sequencer", "responseElements.x-amz-request-id")
    more = [value if isinstance(value := value_at(entry, path.split(".")), str) else None for path in optional]
    # Sequencer or request id tell apart what happened to an object within a millisecond.
    is_unique = any(more[2:])
    return Event(
        entry,
        cls_type=f"aws.s3.{name.removeprefix('s3:')}",
        id=derived_id(bucket, name, time, *more) if is_unique else "",
        channel=bucket,
        timestamp=time,
        schema=text_at(entry, "eventVersion"),
    )


def _dynamodb_event(entry: dict[str, Any]) -> Event:
    arn = text_at(entry, "eventSourceARN")
    return Event(
        entry,
        cls_type=f"aws.dynamodb.{text_at(entry, 'eventName')}",
        id=join_id(arn, text_at(entry, "eventID")),
        channel=arn,
        timestamp=value_at(entry, ("dynamodb", "ApproximateCreationDateTime")),
        schema=text_or(entry, "eventVersion", "1"),
    )


def _kinesis_event(entry: dict[str, Any]) -> Event:
    arn = text_at(entry, "eventSourceARN")
    inner = entry.get("kinesis", entry)  # Lambda nests it, Pipes does not
    return Event(
        entry,
        cls_type="aws.kinesis.record",
        id=join_id(arn, text_at(entry, "eventID")),
        channel=arn,
        timestamp=value_at(inner, ("approximateArrivalTimestamp",)),
        schema=text_or(entry, "eventVersion", "1"),
    )


def _sqs_event(entry: dict[str, Any]) -> Event:
    arn, sent = text_at(entry, "eventSourceARN"), text_or(entry, "attributes.SentTimestamp")
    return Event(
        entry,
        cls_type="aws.sqs.message",
        id=join_id(arn, text_at(entry, "messageId")),
        channel=arn,
        timestamp=int(sent) if sent.isascii() and sent.isdecimal() and len(sent) < 16 else None,
    )


def _codecommit_event(entry: dict[str, Any]) -> Event:
    return Event(
        entry,
        cls_type=f"aws.codecommit.{text_at(entry, 'eventName')}",
        channel=text_or(entry, "eventSourceARN", "aws.codecommit"),
        timestamp=text_or(entry, "eventTime") or None,
        schema=text_or(entry, "eventVersion", "1"),
    )


def _ses_event(entry: dict[str, Any]) -> Event:
    return ses_event(as_object(entry.get("ses"), "record of SES"))._replace(document=entry)


#: By the source that an entry names.
_BY_SOURCE: dict[str, tuple[str, Callable[[dict[str, Any]], Event]]] = {
    "aws:codecommit": ("codecommit", _codecommit_event),
    "aws:dynamodb": ("dynamodb", _dynamodb_event),
    "aws:kinesis": ("kinesis", _kinesis_event),
    "aws:ses": ("ses", _ses_event),
    "aws:sqs": ("sqs", _sqs_event),
}


def _reader(entry: Any) -> tuple[str, Callable[[dict[str, Any]], Event]] | None:
    if not isinstance(entry, dict):
        return None
    if "s3" in entry:
        return "s3", s3_event
    if "codecommit" in entry:
        return _BY_SOURCE["aws:codecommit"]
    source = entry.get("eventSource")
    return _BY_SOURCE.get(source) if isinstance(source, str) else None


def kind_of_entries(entries: list[Any]) -> str | None:
    """Return the name of the decoder for *entries* of one known kind; None if there is no such decoder."""
    readers = [_reader(entry) for entry in entries]
    names = {reader[0] for reader in readers if reader is not None}
    return names.pop() if len(names) == 1 and None not in readers else None


def events_of_entries(entries: Iterable[Any]) -> Iterable[Event]:
    """Return the event of each of *entries*.

    :raises DecodeError: one is of no known kind.
    """
    for entry in entries:
        reader = _reader(entry)
        if reader is None:
            raise DecodeError("one of its Records is of no kind that is recognised")
        yield reader[1](entry)


def is_entry(document: dict[str, Any]) -> bool:
    """Return whether *document* is a single entry, as EventBridge Pipes sends it."""
    return "eventSourceARN" in document and document.get("eventSource") in ("aws:dynamodb", "aws:kinesis", "aws:sqs")
