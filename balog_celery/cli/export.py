"""Files of dead letters: a JSON object on each line, which ``balog replay`` takes."""

from __future__ import annotations

import json
from typing import IO

from ..dead_letters.original import pack, unpack
from ..dead_letters.reader import DeadLetter
from ..events.mark import number_in, text_in
from ..sqs.messages import Message

#: The member that tells a dead letter from a record, with the letter's message attributes as its value.
_MARK = "balog_dead_letter"


def write_letter(letter: DeadLetter, file: IO[str]) -> None:
    """Write a dead letter as one line, with all that a replay needs."""
    message = letter.message
    line = {
        _MARK: pack(message.all_attributes),
        "topic": letter.topic,
        "message_id": message.message_id,
        "sent": message.sent,
        "moved_from": message.moved_from,
        "body": message.body,
    }
    # Escaped to ASCII: a body may hold lone surrogates, which no file can.
    file.write(json.dumps(line) + "\n")


def read_line(line: str, number: int) -> tuple[Message, str] | None:
    """Return the message of a dead letter and its topic, or None if *line* is something else.

    :param number: the number of the line, which stands in for the id of a message that an earlier release wrote.
    """
    if _MARK not in line:
        return None
    try:
        found = json.loads(line)
        attributes, body = found[_MARK], found["body"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(body, str) or not isinstance(attributes, dict):
        return None
    given = unpack(attributes)
    message = Message(
        body,
        "",
        text_in(found, "message_id") or f"line {number}",
        0.0,
        sent=number_in(found, "sent"),
        attributes={name: value for name, value in given.items() if isinstance(value, str)},
        typed={name: value for name, value in given.items() if not isinstance(value, str)},
        moved_from=text_in(found, "moved_from"),
    )
    return message, text_in(found, "topic") or text_in(attributes, "topic")
