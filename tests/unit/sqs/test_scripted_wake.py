"""The scripted SQS wakes a receive that waits, whenever the message comes, and only if one may have come."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from scripted_sqs.script import Script
from scripted_sqs.server import ScriptedSqs
from scripted_sqs.store import SqsStore

FIFO = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def ask(connection: Connection, action: str, **asked: Any) -> None:
    """Write a call to a connection, at once."""
    body = json.dumps({"QueueUrl": "http://sqs/000000000000/events", **asked})
    connection[1].write(
        f"POST / X\r\nX-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )


async def answer(connection: Connection) -> Any:
    """Read the answer to a call."""
    head = await asyncio.wait_for(connection[0].readuntil(b"\r\n\r\n"), 60)
    return json.loads(await connection[0].readexactly(int(head.rpartition(b"Content-Length: ")[2])))


async def receive_and_send_together() -> tuple[Any, float]:
    """Have a server read a receive and a send in one turn of its loop; return the received and the seconds."""
    sqs = ScriptedSqs(SqsStore(), Script())
    server = await sqs.listen()
    port = server.sockets[0].getsockname()[1]
    receiver, sender = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for connection in (receiver, sender):
        ask(connection, "CreateQueue", QueueName="events")
        await answer(connection)

    began = time.monotonic()
    ask(receiver, "ReceiveMessage", WaitTimeSeconds=20)
    ask(sender, "SendMessage", MessageBody="one")
    received = await answer(receiver)
    seconds = time.monotonic() - began

    for _, writer in (receiver, sender):
        writer.close()
    server.close()
    await sqs.close()
    return received, seconds


def test_a_message_that_comes_right_after_a_receive_wakes_it() -> None:
    """A send in the same turn of the server's loop ends the receive's wait, instead of lying there for all of it."""
    received, seconds = asyncio.run(receive_and_send_together())
    assert [message["Body"] for message in received["Messages"]] == ["one"]
    assert seconds < 20


@pytest.mark.parametrize(
    ("name", "restored", "wakes"),
    [("events", False, False), ("events", True, True), ("events.fifo", False, True)],
    ids=["standard", "delivered_after_delete", "next_of_the_group"],
)
def test_a_delete_wakes_receives_only_if_it_let_one_have_a_message(name: str, restored: bool, wakes: bool) -> None:
    """Idle receives of other queues would else look again at each delete, which costs more CPU than the delete."""
    store = SqsStore()
    store.call("CreateQueue", {"QueueName": name, "Attributes": FIFO if name.endswith(".fifo") else {}})
    queue = store.named(name)
    if restored:
        store.on_deleted.append(lambda stored, message: stored.restore(message))
    for body in ("one", "two"):
        store.put(queue, body, "group")
    received = [store.call("ReceiveMessage", {"QueueUrl": name}) for _ in range(2)]
    woken: list[str] = []
    store.listen(lambda: woken.append("woken"))

    handle = received[0]["Messages"][0]["ReceiptHandle"]
    store.call("DeleteMessageBatch", {"QueueUrl": name, "Entries": [{"Id": "0", "ReceiptHandle": handle}]})

    assert bool(woken) == wakes
    assert bool(store.call("ReceiveMessage", {"QueueUrl": name})) == wakes
