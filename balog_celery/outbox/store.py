"""The outbox table as a relay sees it, in PostgreSQL's SQL: the same for Django and SQLAlchemy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..sqs.messages import OutgoingMessage

#: The table's name, unless the application gives it another.
TABLE = "balog_outbox"
#: The longest that a relay's transaction may wait for SQS, in seconds. Then PostgreSQL ends the session, rolls the
#: transaction back, and another relay may send its rows.
MAX_TRANSACTION = 60

#: Runs a statement with its parameters, written as %s, and returns the rows.
Execute = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


class PendingRow(NamedTuple):
    """A row that waits to be sent, without its content.

    :param group: its message group; "": none.
    :param size: at least its size as SQS counts it, in bytes.
    """

    id: int
    topic: str
    group: str
    size: int


class LockedRow(NamedTuple):
    """A row that this transaction has locked.

    :param attempts: how often SQS refused it with an unknown code.
    """

    id: int
    message: OutgoingMessage
    attempts: int


class Backlog(NamedTuple):
    """What the outbox holds for one topic.

    :param waiting: how many rows wait to be sent.
    :param failed: how many SQS can never take.
    :param oldest: the age of the oldest row that waits, in seconds.
    """

    waiting: int
    failed: int
    oldest: float


class FailedRow(NamedTuple):
    """A row that SQS can never take, and why."""

    id: int
    topic: str
    group: str
    created_at: datetime
    failed_at: datetime
    reason: str


class Batch:
    """Rows that this transaction has locked, and what becomes of them when it is committed."""

    def __init__(self, execute: Execute, table: str, rows: list[LockedRow]) -> None:
        self._execute = execute
        self._table = table
        self.rows = rows

    def delete(self, ids: Sequence[int]) -> None:
        """Delete rows: SQS has confirmed them."""
        if ids:
            self._execute(f"DELETE FROM {self._table} WHERE id = ANY(%s) RETURNING id", (list(ids),))

    def fail(self, row_id: int, reason: str) -> None:
        """Mark a row as one that SQS can never take."""
        self._execute(
            f"UPDATE {self._table} SET failed_at = now(), reason = %s WHERE id = %s RETURNING id", (reason, row_id)
        )

    def count_attempt(self, row_id: int) -> None:
        """Count that SQS refused a row with an unknown code."""
        self._execute(f"UPDATE {self._table} SET attempts = attempts + 1 WHERE id = %s RETURNING id", (row_id,))


class Store:
    """The rows of one outbox table.

    :param transaction: opens a transaction and gives what runs statements in it; it commits at the end of the block,
        and rolls back if that raises.
    :param table: the table's name, as SQL.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[Execute]], table: str) -> None:
        self._transaction = transaction
        self._table = table

    def check(self) -> None:
        """Check that the table can be relayed.

        :raises ConfigurationError: the database is not PostgreSQL, or cannot be used at all.
        """

    def last_id(self) -> int:
        """Return the largest id of a row; 0 if there is none."""
        with self._transaction() as execute:
            ((last,),) = execute(f"SELECT coalesce(max(id), 0) FROM {self._table}", ())
        return int(last)

    def pending(self, after: int, last: int, limit: int, without: Sequence[str] = ()) -> list[PendingRow]:
        """Return the first rows that wait to be sent, in the order of their ids.

        :param after: their ids are larger than this,
        :param last: and not larger than this.
        :param limit: how many.
        :param without: topics to leave out.
        """
        with self._transaction() as execute:
            rows = execute(
                "SELECT id, topic, message_group, octet_length(body) + octet_length(attributes) "
                f"FROM {self._table} WHERE failed_at IS NULL AND id > %s AND id <= %s AND NOT topic = ANY(%s) "
                "ORDER BY id LIMIT %s",
                (after, last, list(without), limit),
            )
        return [PendingRow(*row) for row in rows]

    @contextmanager
    def locked(self, rows: Sequence[PendingRow]) -> Iterator[Batch]:
        """Lock those of the rows that may be sent now, until the end of the block.

        Left out are rows that another relay has locked, and rows of a group with an earlier row, sent or not, that is
        not among the locked ones.

        :param rows: rows of one topic.
        """
        ids = [row.id for row in rows]
        with self._transaction() as execute:
            # Another level would fail at a row that another relay has deleted meanwhile.
            execute(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
                f"SET LOCAL idle_in_transaction_session_timeout = '{MAX_TRANSACTION}s'",
                (),
            )
            found = execute(
                "SELECT id, message_group, deduplication_id, body, attributes, attempts, delay "
                f"FROM {self._table} AS head WHERE id = ANY(%s) AND failed_at IS NULL AND (message_group = '' OR "
                f"NOT EXISTS (SELECT 1 FROM {self._table} AS earlier WHERE earlier.topic = head.topic AND "
                "earlier.message_group = head.message_group AND earlier.id < head.id AND earlier.id <> ALL(%s))) "
                "ORDER BY id FOR UPDATE SKIP LOCKED",
                (ids, ids),
            )
            yield Batch(execute, self._table, _in_order(rows, [_locked_row(*row) for row in found]))

    def backlog(self, limit: int) -> dict[str, Backlog]:
        """Return what there is for each topic, of the first *limit* topics. It reads the whole table."""
        with self._transaction() as execute:
            rows = execute(
                "SELECT topic, count(*) FILTER (WHERE failed_at IS NULL), count(failed_at), "
                "extract(epoch FROM now() - min(created_at) FILTER (WHERE failed_at IS NULL)) "
                f"FROM {self._table} GROUP BY topic ORDER BY min(id) LIMIT %s",
                (limit,),
            )
        return {topic: Backlog(waiting, failed, max(0.0, float(age or 0))) for topic, waiting, failed, age in rows}

    def failed(self, limit: int) -> list[FailedRow]:
        """Return the first *limit* rows that SQS can never take, in the order of their ids."""
        with self._transaction() as execute:
            rows = execute(
                f"SELECT id, topic, message_group, created_at, failed_at, reason FROM {self._table} "
                "WHERE failed_at IS NOT NULL ORDER BY id LIMIT %s",
                (limit,),
            )
        return [FailedRow(*row) for row in rows]

    def retry(self, ids: Sequence[int]) -> int:
        """Have failed rows sent again; return how many there were.

        :param ids: which; empty: all.
        """
        return self._settle(f"UPDATE {self._table} SET failed_at = NULL, reason = '', attempts = 0", ids)

    def drop(self, ids: Sequence[int]) -> int:
        """Delete failed rows permanently; return how many there were.

        :param ids: which; empty: all.
        """
        return self._settle(f"DELETE FROM {self._table}", ids)

    def _settle(self, statement: str, ids: Sequence[int]) -> int:
        with self._transaction() as execute:
            which = "AND id = ANY(%s)" if ids else ""
            parameters = (list(ids),) if ids else ()
            return len(execute(f"{statement} WHERE failed_at IS NOT NULL {which} RETURNING id", parameters))


def check_database(name: str) -> None:
    """Check that *name* is that of a database that a relay can use.

    :raises ConfigurationError: it is not.
    """
    if name != "postgresql":
        raise ConfigurationError(
            f"an outbox in {name} cannot be relayed: only PostgreSQL locks rows as the relay needs, so move it there"
        )


def _in_order(asked: Sequence[PendingRow], found: list[LockedRow]) -> list[LockedRow]:
    """Return the rows that were found, but none of a group behind one that was asked for and not found."""
    locked = {row.id: row for row in found}
    held: set[str] = set()
    rows = []
    for row in sorted(asked):
        if row.id not in locked:
            held.add(row.group)
        elif not row.group or row.group not in held:
            rows.append(locked[row.id])
    return rows


def _locked_row(
    row_id: int, group: str, deduplication_id: str, body: str, attributes: str, attempts: int, delay: int | None
) -> LockedRow:
    message = OutgoingMessage(body, json.loads(attributes), group, deduplication_id, delay)
    return LockedRow(row_id, message, attempts)
