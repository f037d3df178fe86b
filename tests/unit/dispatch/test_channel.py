"""The socket between an engine and its worker: messages arrive as they were sent, also from another release."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.protocol import (
    Alive,
    Closed,
    Done,
    Message,
    Open,
    Pace,
    Publish,
    Released,
    Remaining,
    Task,
    Version,
    Waiting,
)

NUMBERS = st.integers(1, 2**60)
TEXTS = st.text()
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Task, NUMBERS, TEXTS, TEXTS, TEXTS, st.one_of(TEXTS, st.lists(TEXTS)), st.dictionaries(TEXTS, st.integers())
    ),
    st.builds(Version, NUMBERS),
    st.builds(Open, NUMBERS, st.lists(TEXTS), st.lists(TEXTS), NUMBERS),
    st.builds(Remaining, NUMBERS, st.lists(NUMBERS)),
    st.builds(Waiting, NUMBERS),
    st.builds(Done, NUMBERS),
    st.builds(Released, NUMBERS),
    st.builds(Pace, TEXTS, NUMBERS, st.floats(0, 1e6)),
    st.sampled_from([Closed(), Publish(), Alive()]),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda values: st.lists(values) | st.dictionaries(TEXTS, values)
)


def task(argument: str | list[str]) -> Task:
    """A task with this argument."""
    return Task(1, "id", "name", "(shown,)", argument, {"balog_times": {"emitted": 1}})


def write(end: socket.socket, *lines: object) -> None:
    """Write *lines* as a process of another release may."""
    end.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def kinds_and(messages: list[Message] | None) -> list[tuple[type[Message], Message]]:
    """Messages with their kinds: as tuples, those of different kinds may be equal."""
    return [(type(message), message) for message in messages or []]


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


@given(st.lists(MESSAGES, min_size=1, max_size=5))
def test_messages_arrive_as_they_were_sent(messages: list[Message]) -> None:
    """Messages of each kind arrive in order, as they were sent."""
    near, far = map(Channel, socket.socketpair())
    near.send(*messages)
    assert kinds_and(far.receive()) == kinds_and(messages)
    near.close()
    far.close()


@pytest.mark.parametrize("argument", ['{"schema": "0.0.1"}', ["one\nline", "two\r\n\u2028lines", "é \U0001f600 \x00"]])
def test_an_argument_arrives_as_it_was_sent(ends: tuple[Channel, Channel], argument: str | list[str]) -> None:
    """Texts of any characters, and batches, arrive as they were sent."""
    near, far = ends
    near.send(task(argument))
    assert far.receive() == [task(argument)]


@given(st.lists(JSON))
def test_what_a_later_release_adds_is_skipped(added: list[Any]) -> None:
    """A line of an unknown kind is skipped, whatever its fields are, and so are fields beyond the known ones."""
    ours, theirs = socket.socketpair()
    far = Channel(theirs)
    write(ours, ["unknown", *added], [None, *added], [added], [], ["version", 1, *added], ["done", 2])
    assert far.receive() == [Version(1), Done(2)]
    ours.close()
    far.close()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Task(1, "id", "name", "(shown,)", "text", {"a": 1}), ["task", 1, "id", "name", "(shown,)", "text", {"a": 1}]),
        (Open(12, ["celery"], ["a"], 2), ["open", 12, ["celery"], ["a"], 2]),
        (Publish(), ["publish"]),
        (Closed(), ["closed"]),
        (Waiting(1), ["waiting", 1]),
        (Remaining(1, [0, 2]), ["left", 1, [0, 2]]),
        (Done(1), ["done", 1]),
        (Released(1), ["refused", 1]),
        (Pace("name", 10, 0.5), ["pace", "name", 10, 0.5]),
        (Alive(), ["alive"]),
        (Version(1), ["version", 1]),
    ],
    ids=str,
)
def test_the_names_on_the_wire_stay(raw: tuple[socket.socket, Channel], message: Message, line: list[Any]) -> None:
    """A worker that runs during an upgrade starts the engine of the new release."""
    near, far = raw
    far.send(message)
    assert json.loads(near.recv(1000)) == line
    write(near, line)
    assert kinds_and(far.receive()) == [(type(message), message)]


def test_a_lone_surrogate_arrives_as_the_record_will_be_read(ends: tuple[Channel, Channel]) -> None:
    """A lone surrogate arrives as U+FFFD, and the messages that are sent with it arrive, too."""
    near, far = ends
    near.send(Done(1), task('a \ud83d b, \ud83d\ude00, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'), Done(2))
    first, given, last = far.receive() or []
    assert (first, last) == (Done(1), Done(2))
    assert isinstance(given, Task)
    assert given.argument == 'a \ufffd b, \U0001f600, \\ud83d and \\\\ud83d {"c": "\\\\\\ud83d"}'


def test_a_line_that_arrives_in_parts_is_returned_whole(raw: tuple[socket.socket, Channel]) -> None:
    """A line that arrives in parts is returned whole."""
    near, far = raw
    near.sendall(b'["done",')
    assert far.receive() == []
    near.sendall(b'1]\n["done"')
    assert far.receive() == [Done(1)]
    near.sendall(b",2]\n")
    assert far.receive() == [Done(2)]


def test_the_end_of_the_other_side_is_noticed(ends: tuple[Channel, Channel]) -> None:
    """The end of the other side is noticed: receive returns None, and sending is an error."""
    near, far = ends
    far.close()
    assert near.receive() is None
    with pytest.raises(OSError):
        near.send(Done(1))


def test_a_close_ends_a_receive_in_another_thread(ends: tuple[Channel, Channel]) -> None:
    """A thread that waits for a message reads the end when its own end is closed."""
    near, _ = ends
    received: list[object] = []
    thread = threading.Thread(target=lambda: received.append(near.receive()))
    thread.start()
    near.close()
    thread.join(60)
    assert received == [None]
    assert near.receive() is None


def test_what_the_other_side_has_no_room_for_is_sent_when_it_has(ends: tuple[Channel, Channel]) -> None:
    """A send with a timeout of zero does not wait, and buffered messages are sent in order when there is room."""
    # Given more than the other side has room for
    near, far = ends
    messages = [Pace("x" * 1000, number, 1.0) for number in range(2000)]
    posted = [near.send(message, timeout=0) for message in messages]
    assert posted[0]
    assert not posted[-1]
    assert not near.send(timeout=0)
    # When the other side reads
    arrived: list[Message] = []
    while len(arrived) < len(messages):
        arrived += far.receive() or []
        near.send(timeout=0)
    # Then
    assert arrived == messages
    assert near.send(timeout=0)
    # And a send with a timeout returns as soon as the other side has read
    posted = [near.send(message, timeout=0) for message in messages]
    assert not posted[-1]
    assert not near.send(timeout=0.01)
    arrived = []

    def read() -> None:
        while len(arrived) < len(messages):
            arrived.extend(far.receive() or [])

    reader = threading.Thread(target=read)
    reader.start()
    assert near.send(timeout=60)
    reader.join(60)
    assert arrived == messages
    far.close()
    with pytest.raises(OSError):
        near.send(Done(1), timeout=0)


def test_an_end_that_came_without_blocking_blocks_all_the_same() -> None:
    """A non-blocking socket, as gevent makes them, still blocks: no data yet does not mean the end."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    near, far = Channel(ours), Channel(theirs)
    received: list[object] = []
    thread = threading.Thread(target=lambda: received.append(near.receive()))
    thread.start()
    far.send(Done(1))
    thread.join(60)
    assert received == [[Done(1)]]
    # More than a socket takes at once.
    large = task("x" * 5_000_000)
    sender = threading.Thread(target=lambda: far.send(large))
    sender.start()
    while not (messages := near.receive()):
        pass
    sender.join(60)
    assert messages == [large]
    near.close()
    assert far.receive() is None
    far.close()
