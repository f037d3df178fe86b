"""Idempotency: each event is processed once for a consumer with ``once``, though SQS and brokers deliver at least once.

A record in Redis says whether an event is in progress or done for a consumer. A record in progress expires unless it is
renewed while the function runs, so the event can be tried again after a crash. A failed attempt deletes its record.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..text import brief

logger = logging.getLogger(__name__)

#: After how many seconds the record of an attempt expires unless it is renewed.
EXPIRES_AFTER = 60.0
#: For how many seconds a finished event is remembered by default: a day.
REMEMBER = 86_400.0

#: What a record of a finished event begins with, before a colon and its digest; earlier releases noted no digest.
_DONE = "done"
# Only its own attempt may change a record: it may have expired, and another attempt begun.
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_CLEAR = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class AlreadyDone(Exception):
    """The event has been finished by this consumer."""


class OtherPayload(Exception):
    """The consumer has finished an event with the same id and another payload."""


class InProgress(Exception):
    """Another attempt at the event is in progress."""


class IdempotencyStore:
    """The records, in Redis or another server with its protocol.

    :param client: returns the redis-py client of this process.
    :param prefix: the beginning of the records' keys.
    """

    def __init__(self, client: Callable[[], Any], prefix: str = "balog:once:") -> None:
        self._client = client
        self._prefix = prefix

    def ping(self) -> None:
        """Check that Redis answers.

        :raises Exception: redis-py's, if it does not.
        """
        self._client().ping()

    @contextmanager
    def attempt(self, key: str, remember: float, digest: str) -> Iterator[None]:
        """Run the block as the one attempt at *key*, which is done if the block ends without an exception.

        :param key: what is attempted: the id of a task.
        :param remember: for how many seconds it stays done.
        :param digest: of the payload.
        :raises AlreadyDone: an earlier attempt has done it.
        :raises OtherPayload: an earlier attempt has done it with another payload.
        :raises InProgress: another attempt is in progress.
        :raises Exception: redis-py's, if the record cannot be read before the block. Errors after it are logged.
        """
        name, token = self._prefix + key, uuid.uuid4().hex
        self._begin(name, token, digest)
        ended = threading.Event()
        threading.Thread(target=self._renew, args=(name, token, ended), name="once-renewal", daemon=True).start()
        try:
            yield
        except BaseException:
            self._quietly(lambda: self._client().eval(_CLEAR, 1, name, token))
            raise
        else:
            self._quietly(lambda: self._client().set(name, f"{_DONE}:{digest}", px=int(remember * 1000)))
        finally:
            ended.set()

    def _begin(self, name: str, token: str, digest: str) -> None:
        client = self._client()
        # Try twice: a record may expire between the two commands.
        for _ in range(2):
            if client.set(name, token, nx=True, px=int(EXPIRES_AFTER * 1000)):
                return
            value = client.get(name)
            if value is not None:
                raise _seen(value if isinstance(value, str) else value.decode(), digest)
        raise InProgress

    def _renew(self, name: str, token: str, ended: threading.Event) -> None:
        while not ended.wait(EXPIRES_AFTER / 3):
            self._quietly(lambda: self._client().eval(_RENEW, 1, name, token, int(EXPIRES_AFTER * 1000)))

    def _quietly(self, change: Callable[[], Any]) -> None:
        try:
            change()
        except Exception as error:
            # The function runs or has run, so an error here would only make sure that it runs again.
            logger.warning(
                "an idempotency record could not be changed, so an event may be processed again: %s", brief(error)
            )


def digest_of(event: str) -> str:
    """Return a digest of the payload in *event*, a JSON text; it does not depend on the order of the keys."""
    payload = json.dumps(json.loads(event.removeprefix("\ufeff"))["payload"], sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()[:32]


def _seen(value: str, digest: str) -> Exception:
    """Return what to raise for a record that exists."""
    state, _, noted = value.partition(":")
    if state != _DONE:
        return InProgress()
    return OtherPayload() if noted not in ("", digest) else AlreadyDone()
