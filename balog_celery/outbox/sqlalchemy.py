"""The outbox of an application that uses SQLAlchemy 2: a table of its metadata, written in its sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Identity,
    Index,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    func,
)
from sqlalchemy.orm import Session

from .message import MAX_ID, MAX_TOPIC, new_row
from .store import TABLE, Execute, Store, check_database


def outbox_table(metadata: MetaData, name: str = TABLE) -> Table:
    """Add the outbox table to *metadata*, for ``create_all`` and Alembic's ``--autogenerate``.

    :param name: the table's name; its schema is that of *metadata*.
    """
    return Table(
        name,
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("topic", String(MAX_TOPIC), nullable=False),
        Column("message_group", String(MAX_ID), nullable=False),
        Column("deduplication_id", String(MAX_ID), nullable=False),
        Column("body", Text, nullable=False),
        Column("attributes", Text, nullable=False),
        Column("delay", SmallInteger),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("attempts", SmallInteger, nullable=False, server_default="0"),
        Column("failed_at", DateTime(timezone=True)),
        Column("reason", Text, nullable=False, server_default=""),
        Index(f"{name}_group", "topic", "message_group", "id"),
    )


def add(
    session: Session | Connection,
    table: Table,
    payload: object,
    *,
    topic: str,
    channel: str | None = None,
    group: str | None = None,
    deduplication_id: str | None = None,
    delay: int | None = None,
    attributes: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
) -> str:
    """Write an event into the outbox, in the transaction of *session*. A relay sends it once that is committed.

    With an ``AsyncSession``, call ``await session.run_sync(add, table, payload, topic=...)``.

    :param table: what :func:`outbox_table` returned.
    :param payload: a mapping with a ``cls_type``, or a :class:`~balog_celery.Payload`.
    :param topic: the queue's name, or its URL.
    :param channel: the record's channel; default: the queue's name.
    :param group: the message group, within which events keep their order; default: none, or one for all events of a
        FIFO topic.
    :param deduplication_id: for a FIFO topic; default: the event's id.
    :param delay: for how many seconds the message is invisible at first; not for a FIFO topic.
    :param attributes: message attributes, texts that are not empty.
    :param context: added to the configured context of the record.
    :returns: the event's id.
    :raises RecordError: the payload, the context or the attributes are not valid, or the message is too large.
    :raises ConfigurationError: the topic, the group, the deduplication id or the delay is not one.
    """
    event_id, row = new_row(
        payload,
        topic=topic,
        channel=channel,
        group=group,
        deduplication_id=deduplication_id,
        delay=delay,
        attributes=attributes,
        context=context,
    )
    session.execute(table.insert().values(row._asdict()))
    return event_id


class SQLAlchemyStore(Store):
    """An outbox table in the database of an engine, for ``balog_outbox``.

    :param engine: a synchronous engine; its pool is used.
    :param table: what :func:`outbox_table` returned.
    """

    def __init__(self, engine: Engine, table: Table) -> None:
        super().__init__(self._begin, engine.dialect.identifier_preparer.format_table(table))
        self._engine = engine

    def check(self) -> None:
        check_database(self._engine.dialect.name)

    @contextmanager
    def _begin(self) -> Iterator[Execute]:
        # Overrides the engine's own level: with autocommit no lock would be held while a row is sent.
        level = {"isolation_level": "READ COMMITTED"}
        with self._engine.connect().execution_options(**level) as connection, connection.begin():

            def execute(statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
                result = connection.exec_driver_sql(statement, tuple(parameters) or None)
                return [tuple(row) for row in result] if result.returns_rows else []

            yield execute
