"""A delete whose request is sent before, and whose answer is read after, something else that takes time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .answers import UnexpectedResponse, read_failures
from .clients import clients
from .direct import StartedCall
from .endpoints import Connection
from .entries import delete_entries
from .messages import EntryFailure

logger = logging.getLogger(__name__)


class StartedDelete:
    """A delete under way. Any thread may finish it, once.

    :param count: how many messages it deletes.
    """

    def __init__(self, call: StartedCall, count: int) -> None:
        self._call = call
        self._count = count

    def is_answered(self) -> bool:
        """Whether :meth:`finish` need not wait for the answer to begin."""
        return self._call.is_answered()

    def finish(self) -> list[EntryFailure] | None:
        """Wait for the answer; return the failures by position, or None if the delete must be made again."""
        answer = self._call.finish()
        try:
            return None if answer is None else read_failures(answer, self._count)
        except UnexpectedResponse:
            return None


def start_delete(connection: Connection, url: str, handles: Sequence[str]) -> StartedDelete | None:
    """Send the request that deletes up to 10 messages by their receipt handles; None if it cannot be sent.

    :param url: the queue's.
    """
    try:
        direct = clients.get(connection).direct
        if direct is None:
            return None
        asked = {"QueueUrl": url, "Entries": delete_entries(handles)}
        return StartedDelete(direct.start("DeleteMessageBatch", asked), len(handles))
    except Exception:  # the call that is made instead reports it
        logger.debug("sqs:DeleteMessageBatch could not be sent ahead", exc_info=True)
        return None
