"""A compressed body is read up to the limit of a body, whatever it stands for."""

from __future__ import annotations

import bz2
import json
import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection, Producer

from balog_celery.brokers.compression import CompressionError, decompress
from balog_celery.brokers.kombu_queue import KombuQueue
from balog_celery.sqs.messages import OutgoingMessage
from sample_events import event_text

LIMIT = 4_194_304
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.fixture
def queue() -> KombuQueue:
    """An empty queue in memory."""
    queue = KombuQueue("compressed", "memory://", max_body_bytes=LIMIT)
    queue.create()
    while queue.receive(10, 0):
        pass
    return queue


def publish(body: bytes, compression: Any) -> None:
    with Connection("memory://") as connection, connection.channel() as channel:
        headers = {"compression": compression, "mine": "1"}
        Producer(channel).publish(
            body, routing_key="compressed", content_type="application/json", content_encoding="utf-8", headers=headers
        )


@pytest.mark.parametrize("name", COMPRESS)
def test_a_compressed_body_is_read(queue: KombuQueue, name: str) -> None:
    """Its header is gone: what is sent again is plain."""
    publish(COMPRESS[name](event_text().encode()), name)
    (message,) = queue.receive(10, 0)
    assert (message.body, message.problem, message.attributes) == (event_text(), "", {"mine": "1"})


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("requeued", [False, True])
def test_a_bomb_is_a_problem_and_no_more(queue: KombuQueue, name: str, requeued: bool) -> None:
    """Given 32 MiB in some bytes, when they are received, then they stay bytes, and can be kept as they came."""
    bomb = COMPRESS[name](bytes(32 * 1024 * 1024))
    publish(bomb, name)
    tracemalloc.start()
    (message,) = queue.receive(10, 0)
    if requeued:
        queue.change_visibility([message.handle], 0)
        (message,) = queue.receive(10, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 1024 * 1024
    assert message.problem == f"its body is larger than {LIMIT} bytes when decompressed (balog_max_body_bytes)"
    assert message.body.encode("utf-8", "surrogateescape") == bomb
    assert queue.send([OutgoingMessage(message.body, message.all_attributes)]) == []
    (kept,) = queue.receive(10, 0)
    assert (kept.body, kept.problem) == (message.body, message.problem)


@pytest.mark.parametrize("name", [*COMPRESS, "brotli", "zstd", "nope", "", None, 5, ["gzip"]])
@pytest.mark.parametrize("body", [b"", b"not compressed", zlib.compress(json.dumps([1] * 999).encode())[:-9]])
def test_what_cannot_be_decompressed_is_a_problem(name: Any, body: bytes) -> None:
    """Also if it is cut off, or compressed in another way."""
    with pytest.raises(CompressionError):
        decompress(body, name, LIMIT)


def test_a_body_of_the_largest_size_is_decompressed() -> None:
    """One byte more is not."""
    assert len(decompress(zlib.compress(bytes(LIMIT)), "gzip", LIMIT)) == LIMIT
    with pytest.raises(CompressionError, match="larger than"):
        decompress(zlib.compress(bytes(LIMIT + 1)), "gzip", LIMIT)
