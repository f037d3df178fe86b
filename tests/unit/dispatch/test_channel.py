"""The socket between an engine and its worker: lines arrive as they were sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from balog_celery.dispatch.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a channel."""
    near, far = map(Channel, socket.socketpair())
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A channel whose other end is a plain socket."""
    ours, theirs = socket.socketpair()
    far = Channel(theirs)
    yield ours, far
    ours.close()
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
def test_a_line_arrives_as_it_was_sent(ends: tuple[Channel, Channel], line: list[Any]) -> None:
    """Texts of any characters, batches and large numbers arrive as they were sent."""
    near, far = ends
    near.send(line, line)
    assert far.receive() == [line, line]


def test_a_lone_surrogate_arrives_as_the_record_will_be_read(ends: tuple[Channel, Channel]) -> None:
    """A lone surrogate arrives as U+FFFD, and the lines that are sent with it arrive, too."""
    near, far = ends
    near.send(["a"], ["task", 1, 'a \ud83d b, \ud83d\ude00, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'], ["z"])
    first, (_, _, text), last = far.receive() or []
    assert (first, last) == (["a"], ["z"])
    assert text == 'a \ufffd b, \U0001f600, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'


def test_a_line_that_arrives_in_parts_is_returned_whole(raw: tuple[socket.socket, Channel]) -> None:
    """A line that arrives in parts is returned whole."""
    near, far = raw
    near.sendall(b'["done",')
    assert far.receive() == []
    near.sendall(b'1]\n["done"')
    assert far.receive() == [["done", 1]]
    near.sendall(b",2]\n")
    assert far.receive() == [["done", 2]]


def test_the_end_of_the_other_side_is_noticed(ends: tuple[Channel, Channel]) -> None:
    """The end of the other side is noticed: receive returns None, and sending is an error."""
    near, far = ends
    far.close()
    assert near.receive() is None
    with pytest.raises(OSError):
        near.send(["done", 1])


def test_what_the_other_side_has_no_room_for_is_sent_when_it_has(ends: tuple[Channel, Channel]) -> None:
    """A send with a timeout of zero does not wait, and buffered lines are sent in order when there is room."""
    # Given more than the other side has room for
    near, far = ends
    lines = [["done", number, "x" * 1000] for number in range(2000)]
    posted = [near.send(line, timeout=0) for line in lines]
    assert posted[0]
    assert not posted[-1]
    assert not near.send(timeout=0)
    # When the other side reads
    arrived: list[Any] = []
    while len(arrived) < len(lines):
        arrived += far.receive() or []
        near.send(timeout=0)
    # Then
    assert arrived == lines
    assert near.send(timeout=0)
    # And a send with a timeout returns as soon as the other side has read
    posted = [near.send(line, timeout=0) for line in lines]
    assert not posted[-1]
    assert not near.send(timeout=0.01)
    arrived = []

    def read() -> None:
        while len(arrived) < len(lines):
            arrived.extend(far.receive() or [])

    reader = threading.Thread(target=read)
    reader.start()
    assert near.send(timeout=60)
    reader.join(60)
    assert arrived == lines
    far.close()
    with pytest.raises(OSError):
        near.send(["done"], timeout=0)


def test_an_end_that_came_without_blocking_blocks_all_the_same() -> None:
    """A non-blocking socket, as gevent makes them, still blocks: no data yet does not mean the end."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    near, far = Channel(ours), Channel(theirs)
    received: list[object] = []
    thread = threading.Thread(target=lambda: received.append(near.receive()))
    thread.start()
    far.send(["open", 1, []])
    thread.join(60)
    assert received == [[["open", 1, []]]]
    # More than a socket takes at once.
    sender = threading.Thread(target=lambda: far.send(["task", "x" * 5_000_000]))
    sender.start()
    while not (lines := near.receive()):
        pass
    sender.join(60)
    assert lines == [["task", "x" * 5_000_000]]
    near.close()
    assert far.receive() is None
    far.close()
