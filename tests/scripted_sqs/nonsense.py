"""Answers with status 200 that SQS did not write: those of proxies, captive portals and wrong endpoints.

None of them lies: no entry that was not carried out is said to have succeeded, under its own id and with the right MD5.
So a client that takes for success only what SQS says has succeeded loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

Answer = dict[str, Any]

#: What any call may be answered with, whatever it asked for.
_WHATEVER = {
    "html": b"<!DOCTYPE html><html><body>Please sign in to the network.</body></html>",
    "empty": b"",
    "object": b"{}",
    "array": b"[]",
    "null": b"null",
    "string": b'"ok"',
    "nulls": b'{"Successful": null, "Failed": null, "Messages": null, "QueueUrl": null, "Attributes": null}',
}
#: What a call that names entries may be answered with as well.
_OF_BATCHES = ("ids_in_neither_list", "some_of_the_ids", "ids_of_others")
#: Which part of an answer has a digest, and what it is called there.
_DIGESTS = {"SendMessageBatch": ("Successful", "MD5OfMessageBody"), "ReceiveMessage": ("Messages", "MD5OfBody")}


def forms(action: str) -> list[str]:
    """Return the forms of nonsense that may answer *action*."""
    of_batches = _OF_BATCHES if action.endswith("Batch") else ()
    return [*_WHATEVER, "cut_short", *of_batches, *(["wrong_md5"] if action in _DIGESTS else [])]


def told(entries: list[Any]) -> list[Any]:
    """The entries that an answer of the form ``some_of_the_ids`` speaks of: half of them, but never all."""
    return entries[: len(entries) // 2]


def never_done(action: str, asked: Any) -> Answer:
    """The answer that SQS would give if it carried the call out, which it did not."""
    if not action.endswith("Batch"):
        return {}
    entries = [{"Id": entry["Id"], "MessageId": "none", **_digest(entry)} for entry in asked["Entries"]]
    return {"Successful": entries, "Failed": []}


def nonsense(form: str, action: str, asked: Any, answer: Answer) -> bytes:
    """Return nonsense in the place of *answer*."""
    if form in _WHATEVER:
        return _WHATEVER[form]
    if form == "cut_short":
        text = json.dumps(answer)
        return text[: len(text) // 2].encode()
    if form == "wrong_md5":
        part, name = _DIGESTS[action]
        wrong = [
            {**entry, name: hashlib.md5(b"wrong", usedforsecurity=False).hexdigest()} for entry in answer.get(part, ())
        ]
        return json.dumps({**answer, part: wrong}).encode()
    if form == "ids_in_neither_list":
        return b'{"Successful": [], "Failed": []}'
    if form == "ids_of_others":
        others = [
            {**entry, "Id": f"{number}9" if number % 2 else "other"} for number, entry in enumerate(asked["Entries"], 1)
        ]
        return json.dumps({"Successful": [{**one, **_digest(one)} for one in others], "Failed": []}).encode()
    known = {entry["Id"] for entry in told(asked["Entries"])}
    lists = {part: [entry for entry in entries if entry["Id"] in known] for part, entries in answer.items()}
    return json.dumps(lists).encode()


def _digest(entry: Any) -> Answer:
    body = entry.get("MessageBody")
    return {} if body is None else {"MD5OfMessageBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()}
