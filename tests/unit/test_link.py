"""The socket between an engine and its worker: whatever is in a line arrives as it was."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from balog_celery.link import Link


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Both ends of a link."""
    near, far = map(Link, socket.socketpair())
    yield near, far
    near.close()
    far.close()


@pytest.mark.parametrize(
    "line",
    [
        ["task", 1, "id", "name", "(shown,)", '{"schema": "0.0.1"}', {"balog_times": {"emitted": 1}}],
        ["task", 2, "id", "name", "shown", ["one\nline", "two\r\n\u2028lines", "é \U0001f600 \x00"], {}],
        ["left", 3, [0, 2]],
        ["open", 14, ["celery"]],
        [1.5, 2**70, None, True],
        [],
    ],
    ids=str,
)
def test_a_line_arrives_as_it_was_sent(ends: tuple[Link, Link], line: list[Any]) -> None:
    """Texts of any characters, batches, numbers of any size."""
    near, far = ends
    near.send(line, line)
    assert far.receive() == [line, line]


def test_a_lone_surrogate_arrives_as_the_record_will_be_read(ends: tuple[Link, Link]) -> None:
    """It is no Unicode text, and must not hold up what is sent with it."""
    near, far = ends
    near.send(["a"], ["task", 1, 'a \ud83d b, \ud83d\ude00, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'], ["z"])
    first, (_, _, text), last = far.receive() or []
    assert (first, last) == (["a"], ["z"])
    assert text == 'a \ufffd b, \U0001f600, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'


def test_a_line_that_arrives_in_parts_is_given_whole(ends: tuple[Link, Link]) -> None:
    """However the socket cuts it."""
    near, far = ends
    near._socket.sendall(b'["done",')
    assert far.receive() == []
    near._socket.sendall(b'1]\n["done"')
    assert far.receive() == [["done", 1]]
    near._socket.sendall(b",2]\n")
    assert far.receive() == [["done", 2]]


def test_the_end_of_the_other_side_is_told(ends: tuple[Link, Link]) -> None:
    """By receiving nothing; what is sent then is an error."""
    near, far = ends
    far.close()
    assert near.receive() is None
    with pytest.raises(OSError):
        near.send(["done", 1])


def test_what_the_other_side_has_no_room_for_is_sent_when_it_has(ends: tuple[Link, Link]) -> None:
    """Nobody waits for it, and the order stays."""
    near, far = ends
    lines = [["done", number, "x" * 1000] for number in range(2000)]
    posted = [near.post(line) for line in lines]
    assert posted[0]
    assert not posted[-1]
    assert not near.flush()
    arrived: list[Any] = []
    while len(arrived) < len(lines):
        arrived += far.receive() or []
        near.flush()
    assert arrived == lines
    assert near.flush()
    # A patient flush is done as soon as the other side has read.
    posted = [near.post(line) for line in lines]
    assert not posted[-1]
    assert not near.flush(0.01)
    arrived = []

    def read() -> None:
        while len(arrived) < len(lines):
            arrived.extend(far.receive() or [])

    reader = threading.Thread(target=read)
    reader.start()
    assert near.flush(60)
    reader.join(60)
    assert arrived == lines
    far.close()
    with pytest.raises(OSError):
        near.post(["done"])
