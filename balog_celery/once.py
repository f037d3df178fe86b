"""Process each event once for a consumer, although SQS and brokers deliver at least once.

A mark in Redis says how far an event is for a consumer: done, or in progress, with a lease that is renewed while the
function runs. A crash leaves a mark whose lease ends, and then the event may be tried again; a failed attempt clears
its mark. (The idea is that of idempotency records: in progress, with an expiry, then completed.)
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

#: How long a mark of an attempt that no longer renews it blocks the event, in seconds.
LEASE = 60.0
#: How long a finished event is remembered unless the consumer says otherwise, in seconds: a day.
REMEMBER = 86_400.0

_DONE = b"done"
# Only the attempt that holds a mark may change it: its lease may have ended, and another attempt begun.
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_CLEAR = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class AlreadyDone(Exception):
    """The event has been finished by this consumer."""


class InProgress(Exception):
    """Another attempt at the event has begun, and its lease has not ended."""


class Marks:
    """Marks in Redis, or in anything that speaks its protocol.

    :param client: gives the redis-py client of this process.
    :param prefix: what the names of the marks begin with.
    """

    def __init__(self, client: Callable[[], Any], prefix: str = "balog:once:") -> None:
        self._client = client
        self._prefix = prefix

    def ping(self) -> None:
        """Ask whether Redis is there.

        :raises Exception: redis-py's; it is not.
        """
        self._client().ping()

    @contextmanager
    def attempt(self, key: str, remember: float) -> Iterator[None]:
        """Attempt what *key* names: done for the next *remember* seconds if the block ends well, else not begun.

        :raises AlreadyDone: it was done.
        :raises InProgress: it is being attempted.
        :raises Exception: redis-py's, if Redis cannot be asked before the block. After it, that is only logged.
        """
        name, token = self._prefix + key, uuid.uuid4().hex
        self._begin(name, token)
        ended = threading.Event()
        threading.Thread(target=self._renew, args=(name, token, ended), name="once-lease", daemon=True).start()
        try:
            yield
        except BaseException:
            self._quietly(lambda: self._client().eval(_CLEAR, 1, name, token))
            raise
        else:
            self._quietly(lambda: self._client().set(name, _DONE, px=int(remember * 1000)))
        finally:
            ended.set()

    def _begin(self, name: str, token: str) -> None:
        client = self._client()
        # The second time is for a mark that ended between the two commands.
        for _ in range(2):
            if client.set(name, token, nx=True, px=int(LEASE * 1000)):
                return
            value = client.get(name)
            if value is not None:
                raise AlreadyDone if value in (_DONE, _DONE.decode()) else InProgress
        raise InProgress

    def _renew(self, name: str, token: str, ended: threading.Event) -> None:
        while not ended.wait(LEASE / 3):
            self._quietly(lambda: self._client().eval(_RENEW, 1, name, token, int(LEASE * 1000)))

    def _quietly(self, change: Callable[[], Any]) -> None:
        try:
            change()
        except Exception as error:
            # The function has run, or runs: failing now would only run it again for sure.
            logger.warning("a mark of once= could not be changed, so an event may be processed again: %r", error)
