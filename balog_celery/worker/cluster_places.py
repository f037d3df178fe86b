"""The places of consumers whose concurrency is limited over all workers, in Redis.

A place is a member of a sorted set with the time until which its worker has it. Workers extend their places, so those
of a worker that dies are free a little later. All times are of Redis's own clock, so clocks of workers do not matter;
if that clock goes back, no place lasts longer than a new one would.

Workers that wait get places in turns: the one whose last place was granted first is the next.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..engine.outage import Outage

#: For how long a worker has a place unless it extends it, in seconds.
LASTS = 30.0
#: How often a worker that waits asks for a place, in seconds.
_ASK_INTERVAL = 0.1
#: How long a worker that has not asked again counts as waiting, in seconds.
_WAITS = 2.0

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
#: Keys: places, waiting workers, turns. Arguments: place, worker, limit, how long places and waiting last.
_ACQUIRE = (
    _NOW
    + """
local lasts, waits = tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for _, far in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. (now + lasts), '+inf')) do
    redis.call('ZADD', KEYS[1], now + lasts, far)
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. (now + waits), '+inf')
local free = tonumber(ARGV[3]) - redis.call('ZCARD', KEYS[1])
local turn = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0)
for _, other in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if other ~= ARGV[2] and tonumber(redis.call('HGET', KEYS[3], other) or 0) < turn then free = free - 1 end
end
if free < 1 then
    redis.call('ZADD', KEYS[2], now + waits, ARGV[2])
    redis.call('PEXPIRE', KEYS[2], waits * 2)
    return 0
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now + lasts, ARGV[1])
redis.call('PEXPIRE', KEYS[1], lasts * 2)
redis.call('HSET', KEYS[3], ARGV[2], redis.call('HINCRBY', KEYS[3], '', 1))
redis.call('EXPIRE', KEYS[3], 86400)
return 1
"""
)
#: Key: places. Arguments: how long they last, and the places. One that has expired is taken again: its task still runs.
_EXTEND = (
    _NOW
    + """
for number = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[number]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
"""
)


class PlaceStore:
    """The places and the waiting workers in Redis.

    :param client: returns the redis-py client.
    :param lasts: for how long a place is a worker's unless it is extended, in seconds.
    :param prefix: the beginning of the keys.
    """

    def __init__(self, client: Callable[[], Any], lasts: float = LASTS, prefix: str = "balog:concurrency:") -> None:
        self.lasts = lasts
        self._client = client
        self._prefix = prefix

    def acquire(self, name: str, place: str, worker: str, limit: int) -> bool:
        """Take *place* for a task of the consumer *name*; return False if *worker* has to wait."""
        keys, times = self._keys(name), (int(self.lasts * 1000), int(_WAITS * 1000))
        return bool(self._client().eval(_ACQUIRE, 3, *keys, place, worker, limit, *times))

    def extend(self, name: str, places: Sequence[str]) -> None:
        """Extend *places*, which are not empty."""
        self._client().eval(_EXTEND, 1, self._keys(name)[0], int(self.lasts * 1000), *places)

    def give_back(self, name: str, place: str) -> None:
        """Free a place."""
        self._client().zrem(self._keys(name)[0], place)

    def _keys(self, name: str) -> list[str]:
        return [f"{self._prefix}{{{name}}}:{kind}" for kind in ("places", "waiting", "turns")]


class ClusterPlaces:
    """Asks Redis for places in a thread of its own: Redis may hang, and the worker's main thread must not.

    :param store: has them in Redis.
    :param wake: called in this object's thread when a place was granted.
    """

    def __init__(self, store: PlaceStore, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._worker = uuid.uuid4().hex
        #: The places that were granted and are not taken, each with its consumer.
        self.granted: deque[tuple[str, str]] = deque()
        self._changed = threading.Condition()
        # Guarded by the condition's lock.
        self._wanted: dict[str, int] = {}
        self._held: dict[str, set[str]] = {}
        self._returned: list[tuple[str, str]] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="cluster-places", daemon=True)
        self._outage = Outage("asking Redis for places of consumers with concurrency=(..., 'cluster')")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._thread.ident is not None

    def stop(self, timeout: float = 5.0) -> None:
        """Give all places back, and wait for that up to *timeout* seconds."""
        with self._changed:
            self._stopped = True
            self._wanted.clear()
            self._returned += [(name, place) for name, places in self._held.items() for place in places]
            self._held.clear()
            self._changed.notify_all()
        if self.started:
            self._thread.join(timeout)

    def want(self, name: str, limit: int) -> None:
        """Ask for a place for a task of the consumer *name*, until one was granted."""
        with self._changed:
            if not self._stopped and name not in self._wanted:
                self._wanted[name] = limit
                self._changed.notify_all()

    def give_back(self, name: str, place: str) -> None:
        """Give a place back."""
        with self._changed:
            self._held.get(name, set()).discard(place)
            self._returned.append((name, place))
            self._changed.notify_all()

    def _run(self) -> None:
        extend_at = time.monotonic() + self._store.lasts / 3
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, max(0.0, extend_at - time.monotonic()))
                if self._stopped and not self._returned:
                    return
            pause = _ASK_INTERVAL
            try:
                if time.monotonic() >= extend_at:
                    extend_at = time.monotonic() + self._store.lasts / 3
                    self._extend()
                self._return()
                got = self._ask()
            except Exception as error:  # also what Redis may raise
                if self._stopped:
                    return  # places that cannot be given back expire
                pause, got = self._outage.failed(error), False
            else:
                self._outage.succeeded()
            if not got:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._returned) or self._stopped, pause)

    def _has_work(self) -> bool:
        return bool(self._wanted or self._returned or self._stopped)

    def _ask(self) -> bool:
        """Ask for a place for each consumer that wants one; return whether one was granted."""
        with self._changed:
            wanted = list(self._wanted.items())
        got = False
        for name, limit in wanted:
            place = f"{self._worker}:{uuid.uuid4().hex}"
            if not self._store.acquire(name, place, self._worker, limit):
                continue
            got = True
            with self._changed:
                self._wanted.pop(name, None)
                self._held.setdefault(name, set()).add(place)
            self.granted.append((name, place))
            self._wake()
        return got

    def _extend(self) -> None:
        with self._changed:
            held = {name: list(places) for name, places in self._held.items() if places}
        for name, places in held.items():
            self._store.extend(name, places)

    def _return(self) -> None:
        with self._changed:
            returned = list(self._returned)
        for name, place in returned:
            self._store.give_back(name, place)
            with self._changed:
                self._returned.remove((name, place))
