"""kombu's view of the local broker: its transport options, and the unacknowledged tasks of processes that have ended.

kombu keeps unacknowledged tasks in a hash and a sorted set, under the keys that the transport options name.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Any

from ..brokers.kombu_compat import RESTORE_EACH_SECOND, restore_all_unacked, unacked_keys
from ..text import count_of

logger = logging.getLogger(__name__)

#: ``broker_transport_options`` of the local broker; a process that consumes tasks adds :func:`own_keys`.
TRANSPORT_OPTIONS: dict[str, Any] = {
    # In seconds. A task that runs or waits longer is delivered once more. The tasks of a killed worker need not wait
    # for that: the guardian restores them.
    "visibility_timeout": 12 * 3600,
    **RESTORE_EACH_SECOND,
    # Longer than the second that a blocking pop waits, so it only hits a server that hangs.
    "socket_timeout": 15,
    "socket_connect_timeout": 5,
}


def own_keys(user: str) -> dict[str, Any]:
    """Return the transport options that keep the unacknowledged tasks of *user* apart."""
    return unacked_keys(lambda key: f"{key}:{user}")


def restore_tasks(url: str, living: Set[str], *, unnamed: bool) -> None:
    """Put the unacknowledged tasks of processes that have ended back on their queues.

    :param url: the broker's.
    :param living: the names of the users that still run.
    :param unnamed: also restore those of processes that did not use :func:`own_keys`.
    """
    from kombu.connection import Connection

    def connect(**options: Any) -> Any:
        return Connection(url, transport_options={**TRANSPORT_OPTIONS, **options})  # type: ignore[no-untyped-call]

    with connect() as connection:
        keys = [key.decode() for key in connection.default_channel.client.scan_iter(match="unacked_index*")]
    for owner in {key.partition(":")[2] for key in keys} - living:
        if not owner and not unnamed:
            continue
        with connect(**(own_keys(owner) if owner else {})) as connection:
            restored = restore_all_unacked(connection.default_channel)
            logger.info("restored %s of %s", count_of(restored, "task"), owner or "a consumer without a name")
