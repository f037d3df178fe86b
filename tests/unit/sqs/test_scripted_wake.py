"""The scripted SQS wakes a receive that waits, whenever the message comes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from scripted_sqs.script import Script
from scripted_sqs.server import ScriptedSqs
from scripted_sqs.store import SqsStore

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
