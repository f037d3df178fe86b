"""Reads and checks the answers of SQS. With ``received.py``, the one place that knows the shape of each answer.

An entry of a batch is done only if the answer lists it in ``Successful``; an entry that is not listed at all is tried
again. An answer that SQS would never give (a web page, a member of the wrong type, an entry that was not in the
request) is a :class:`UnexpectedResponse`: none of it is believed.

A ``null`` member is an absent one, as Smithy's AWS JSON 1.0 protocol demands.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pydantic_core import from_json

from ..text import printable
from .codes import is_hopeless, is_known
from .messages import EntryFailure

#: The members that are used of each answer, and their types.
_MEMBERS: dict[str, dict[str, type]] = {
    "CancelMessageMoveTask": {"ApproximateNumberOfMessagesMoved": int},
    "ChangeMessageVisibilityBatch": {"Successful": list, "Failed": list},
    "CreateQueue": {"QueueUrl": str},
    "DeleteMessageBatch": {"Successful": list, "Failed": list},
    "GetQueueAttributes": {"Attributes": dict},
    "GetQueueUrl": {"QueueUrl": str},
    "ListDeadLetterSourceQueues": {"queueUrls": list, "NextToken": str},
    "ListMessageMoveTasks": {"Results": list},
    "ReceiveMessage": {"Messages": list},
    "SendMessageBatch": {"Successful": list, "Failed": list},
    "StartMessageMoveTask": {"TaskHandle": str},
}
#: The attributes of a queue that are numbers.
_NUMBERS = frozenset(
    {
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "DelaySeconds",
        "MaximumMessageSize",
        "MessageRetentionPeriod",
        "ReceiveMessageWaitTimeSeconds",
        "VisibilityTimeout",
    }
)
#: A large answer is sampled for escaped characters: the first _SAMPLE bytes of every _STRIDE bytes. The standard
#: library's parser is faster if there is more than one escape in _BYTES_PER_ESCAPE bytes.
_SAMPLE, _STRIDE, _BYTES_PER_ESCAPE = 1024, 65_536, 30
#: The members of what gateways and SQS say instead of an answer. An empty queue's answer has no members.
_OF_ERRORS = frozenset({"__type", "code", "Code", "error", "Error", "errors", "Errors", "message", "Message"})
_DIGITS = re.compile(r"[0-9]{1,15}")
#: Larger than any count, and than any time in milliseconds until the year 5138.
_LARGEST_NUMBER = 10**14


class UnexpectedResponse(Exception):
    """The answer is not from the AWS service. The text says in a few words what is wrong with it."""


def read_answer(operation: str, content: bytes) -> dict[str, Any]:
    """Return the members of an answer to *operation* that are present. The functions below read their contents.

    :raises UnexpectedResponse: it is not JSON, or not of the right shape.
    """
    answer = _parsed(content)
    if type(answer) is not dict:
        raise UnexpectedResponse("it is not a JSON object")
    members = {}
    for name, kind in _MEMBERS[operation].items():
        value = answer.get(name)
        if value is not None:
            if type(value) is not kind:
                raise UnexpectedResponse(f"its {name} has the wrong type")
            members[name] = value
    if answer and not members and not _OF_ERRORS.isdisjoint(answer):
        raise UnexpectedResponse("it is an error with the HTTP status of a success")
    return members


def _parsed(content: bytes) -> Any:
    if not _has_many_escapes(content):
        with contextlib.suppress(ValueError):
            return from_json(content)
    # It may hold a lone surrogate, which this parser accepts: the messages beside it must not be lost.
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UnexpectedResponse("it is not JSON" if content else "it is empty") from None


def _has_many_escapes(content: bytes) -> bool:
    """Return whether the standard library's parser is faster: twice as fast for these, and slower for all else."""
    if len(content) < _STRIDE:
        return False
    sample = b"".join([content[start : start + _SAMPLE] for start in range(0, len(content), _STRIDE)])
    return sample.count(b"\\u") * _BYTES_PER_ESCAPE > len(sample)


def read_instead(operation_model: Any, response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    """Handle boto3's event ``before-parse``: read the answer here, and leave nothing to botocore's parser.

    That parser takes a web page for an empty answer, and raises any Python error for a member of the wrong type.

    :raises UnexpectedResponse: it is a redirect, not JSON, or not of the right shape.
    """
    content, status = response_dict["body"], response_dict["status_code"]
    refuse_redirect(status, response_dict["headers"].get("location", ""))
    if status < 300:
        customized_response_dict.update(read_answer(operation_model.name, content))
        response_dict["body"] = b"{}"
    elif not _is_error(content):
        response_dict["body"] = b"{}"  # the HTTP status becomes the code


def refuse_redirect(status: int, location: str) -> None:
    """Refuse a redirect: SQS sends none, and a signature is for one host only. Load balancers and portals send them.

    :raises UnexpectedResponse: *status* is one.
    """
    if 300 <= status < 400:
        raise UnexpectedResponse(f"it is a redirect ({status}) to {location or 'nowhere'}")


def read_error_code(content: bytes) -> str:
    """Return the code of an error answer, without its namespace; "" if there is none."""
    try:
        code = json.loads(content)["__type"]
    except (LookupError, RecursionError, TypeError, ValueError):
        return ""
    return code.rpartition("#")[2] if isinstance(code, str) else ""


def _is_error(content: bytes) -> bool:
    """Return whether botocore's parser can read *content* as an error."""
    try:
        error = json.loads(content.decode())
    except (RecursionError, UnicodeDecodeError):
        return False
    except ValueError:
        return True  # the parser makes it the error's message
    return isinstance(error, dict) and isinstance(error.get("__type", ""), str)


def read_url(answer: Mapping[str, Any]) -> str:
    """Return the queue's URL.

    :raises UnexpectedResponse: there is none.
    """
    url: str = answer.get("QueueUrl", "")
    if not url:
        raise UnexpectedResponse("it has no QueueUrl")
    return url


def read_attributes(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes of a queue.

    :raises UnexpectedResponse: there are none, though every queue has some, or one has the wrong type.
    """
    attributes: dict[str, str] = answer.get("Attributes", {})
    if not attributes:
        raise UnexpectedResponse("it has no Attributes")
    for name, value in attributes.items():
        if not isinstance(value, str) or (name in _NUMBERS and not _DIGITS.fullmatch(value)):
            raise UnexpectedResponse(f"its attribute {printable(name, 50)} has the wrong type")
    return attributes


def read_number(value: Any, default: int) -> int:
    """Return a number that SQS only estimates, or *default*: a bad one must not keep the message from processing."""
    if value is None:
        return default
    try:
        number = int(value)
    except (OverflowError, TypeError, ValueError):
        return default
    return number if 0 <= number <= _LARGEST_NUMBER else default


def read_failures(answer: Mapping[str, Any], count: int, bodies: Sequence[str] | None = None) -> list[EntryFailure]:
    """Return those of a batch's *count* entries that SQS does not report as successful. Entry ids are positions.

    :param bodies: the bodies that were sent, if this was a send. If the answer has a body's MD5, it must match. The MD5
        of the attributes is not compared: that of the body already shows an answer to another send, and a server that
        computes the other in its own way would have every message sent again and again.
    :raises UnexpectedResponse: it names an entry that was not in the request, an entry twice, or no entry at all.
    """
    failures = []
    unnamed = {str(index): index for index in range(count)}
    for entry in answer.get("Successful", ()):
        index = _named(entry, unnamed)
        if bodies is not None and is_corrupted(bodies[index], entry.get("MD5OfMessageBody")):
            failures.append(EntryFailure(index, "MD5Mismatch", "SQS has another body than the one sent", False, True))
    for entry in answer.get("Failed", ()):
        failures.append(_failure(_named(entry, unnamed), entry, sent=bodies is not None))
    if len(unnamed) == count > 0:
        raise UnexpectedResponse("it names no entry")
    for index in unnamed.values():
        failures.append(EntryFailure(index, "NoResult", "the answer does not mention it", False))
    return sorted(failures, key=lambda failure: failure.index)


def read_message_ids(answer: Mapping[str, Any], failed: Set[int]) -> dict[int, str]:
    """Return SQS's ids of the messages of a send, by their positions, but for those that *failed*.

    Call it after :func:`read_failures`, which checks the entries' ids. An id that is no text is "".
    """
    found = {}
    for entry in answer.get("Successful", ()):
        index, message_id = int(entry["Id"]), entry.get("MessageId")
        if index not in failed:
            found[index] = message_id if isinstance(message_id, str) else ""
    return found


def _named(entry: Any, unnamed: dict[str, int]) -> int:
    """Remove the index of *entry* from *unnamed*, and return it."""
    try:
        return unnamed.pop(entry["Id"])
    except (KeyError, TypeError):
        raise UnexpectedResponse("it names an entry twice, or one that was not in the request") from None


def is_corrupted(body: str, digest: Any) -> bool:
    """Return whether *digest*, the MD5 that SQS reports, is that of another body than *body*; None is none."""
    if digest is None:
        return False
    try:
        md5 = hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    except ValueError:  # an OpenSSL for FIPS may have none
        return False
    return bool(digest != md5.hexdigest())


def _failure(index: int, entry: Mapping[str, Any], *, sent: bool) -> EntryFailure:
    code, message, blamed = entry.get("Code") or "", entry.get("Message") or "", entry.get("SenderFault") or False
    if not (isinstance(code, str) and isinstance(message, str) and isinstance(blamed, bool)):
        raise UnexpectedResponse("an entry in its Failed has the wrong type")
    unknown = blamed and not is_known(code)
    # To give up a delete or an extension loses nothing, since the message comes again. To give up a send loses it.
    return EntryFailure(index, code, message, is_hopeless(code) or (unknown and not sent), unknown and sent)
