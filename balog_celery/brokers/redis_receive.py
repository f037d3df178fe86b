"""Receives messages from Redis as kombu keeps them there, without kombu's gap between taking and noting a message."""

from __future__ import annotations

import time
import uuid
from typing import Any

from kombu.utils.json import loads

from .kombu_compat import keep_invisible, redis_layout, redis_message, track_unacked

#: Takes one message and notes it as unacknowledged in one step, as kombu does in two: a message is lost if the process
#: is killed between them. An item that is not an envelope of kombu's becomes the body of one.
#: KEYS: the queue. ARGV: the hash and the index of unacknowledged messages, the time, a new tag, the queue's name, and
#: the suffix of the queue's key for each priority.
_RECEIVE = """
local item
for place = 6, #ARGV do
    item = redis.call('RPOP', KEYS[1] .. ARGV[place])
    if item then break end
end
if not item then return false end
local readable, envelope = pcall(cjson.decode, item)
local properties = readable and type(envelope) == 'table' and envelope.properties
local tag = type(properties) == 'table' and properties.delivery_tag
if type(tag) ~= 'string' or type(envelope.headers) ~= 'table' or type(properties.delivery_info) ~= 'table'
    or item:find('"headers"%s*:%s*%[') or item:find('"delivery_info"%s*:%s*%[') then
    tag = ARGV[4]
    item = cjson.encode({
        body = item,
        headers = {},
        properties = {delivery_tag = tag, delivery_info = {exchange = '', routing_key = ARGV[5]}}
    })
end
redis.call('ZADD', ARGV[2], ARGV[3], tag)
redis.call('HSET', ARGV[1], tag, '[' .. item .. ',"",' .. cjson.encode(ARGV[5]) .. ']')
return {tag, item}
"""


def receive_from_redis(channel: Any, queue: str, visibility: int | None) -> Any:
    """Receive a message as ``channel.basic_get`` does, but without losing any; return None if there is none.

    :param visibility: seconds for which the message stays invisible; None: the transport's visibility timeout.
    """
    layout = redis_layout(channel)
    script = channel.client.register_script(_RECEIVE)
    keys = [layout.unacked, layout.unacked_index]
    received = script(keys=[queue], args=[*keys, time.time(), str(uuid.uuid4()), queue, *layout.lists])
    if received is None:
        return None
    tag, item = (part.decode(errors="replace") for part in received)
    info: dict[str, Any] = {"exchange": "", "routing_key": queue}
    try:
        message = redis_message(channel, loads(item))  # type: ignore[no-untyped-call]
        info["redelivered"] = message.delivery_info.get("redelivered", False)
        if not isinstance(message.body, (bytes, str)):
            raise TypeError("a body is text or bytes")
    except Exception:
        # It looks like an envelope, but is not.
        properties = {"delivery_tag": tag, "delivery_info": info}
        message = redis_message(channel, {"body": item, "headers": {}, "properties": properties})
    # A requeued message must go to the queue that it came from, not to all queues of its exchange.
    message.delivery_info = info
    track_unacked(channel, message, tag)
    if visibility not in (None, channel.visibility_timeout):
        extend_on_redis(visibility, message)
    return message


def extend_on_redis(seconds: float, message: Any) -> bool:
    """Keep *message* invisible for *seconds* from now; return False if another process has received it again."""
    return keep_invisible(message.channel, message.delivery_tag, seconds, time.time())
