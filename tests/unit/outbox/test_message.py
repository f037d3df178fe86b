"""Rows of the outbox: the record, the columns, and what is refused when it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from balog_celery import ConfigurationError, RecordError, configure
from balog_celery.events.records import decode
from balog_celery.outbox.message import new_row
from balog_celery.outbox.sqlalchemy import SQLAlchemyStore, add, outbox_table

METADATA = sa.MetaData()
TABLE = outbox_table(METADATA)
PAYLOAD = {"cls_type": "order-placed", "order": 7}


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """A connection to a database in memory."""
    # SQLite counts up keys of the type INTEGER only.
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE balog_outbox (id INTEGER PRIMARY KEY, topic, message_group, deduplication_id, body, "
            "attributes, delay, created_at, attempts, failed_at, reason)"
        )
        yield connection
    engine.dispose()


def rows(connection: sa.Connection) -> list[Any]:
    return list(connection.execute(sa.text("SELECT * FROM balog_outbox")).mappings())


def test_the_record_is_the_loggers(connection: sa.Connection) -> None:
    """The body is a record with the configured context and processors, and the event's id is returned."""

    def add_tenant(logger: Any, name: str, event_dict: Any) -> Any:
        return {**event_dict, "tenant": "blue"}

    configure(context={"application": "shop"}, processors=[add_tenant])
    try:
        event_id = add(connection, TABLE, PAYLOAD, topic="orders", channel="shop.placed", context={"more": 1})
    finally:
        configure()
    (row,) = rows(connection)
    record = decode(row["body"])
    assert record.header.id == event_id
    assert record.header.channel == "shop.placed"
    assert record.header.context.model_dump(exclude_none=True) == {"application": "shop", "tenant": "blue", "more": 1}
    assert json.loads(row["body"])["payload"] == PAYLOAD


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans() | st.none(), max_size=4))
def test_a_payload_of_any_text_is_written_in_ascii(fields: dict[str, Any]) -> None:
    """A payload with any text, NUL included, is written in ASCII and read back unchanged."""
    payload = {**fields, "cls_type": "free"}
    event_id, row = new_row(payload, topic="orders")
    assert row.body.isascii()
    assert "\0" not in row.body
    assert json.loads(row.body)["payload"] == payload
    assert json.loads(row.body)["header"]["id"] == event_id


@pytest.mark.parametrize(
    ("topic", "given_group", "group"),
    [
        ("orders", None, ""),
        ("orders", "a", "a"),
        ("orders.fifo", None, "balog"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", None, "balog"),
        ("orders.fifo", "a", "a"),
    ],
)
def test_the_group_is_the_callers(topic: str, given_group: str | None, group: str) -> None:
    """The group is the caller's, by default none, or one for a FIFO topic; the event's id deduplicates."""
    event_id, row = new_row(PAYLOAD, topic=topic, group=given_group)
    assert (row.message_group, row.deduplication_id) == (group, event_id)
    assert new_row(PAYLOAD, topic=topic, deduplication_id="mine")[1].deduplication_id == "mine"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"payload": {"no": "type"}}, RecordError),
        ({"payload": {"cls_type": "metrics", "values": "x"}}, RecordError),
        ({"payload": {"cls_type": "free", "text": "x" * 1_048_576}}, RecordError),
        ({"context": {"application": 5}}, RecordError),
        ({"attributes": {"empty": ""}}, RecordError),
        ({"attributes": {"number": 5}}, RecordError),
        ({"attributes": {"large": "x" * 1_048_576}}, RecordError),
        ({"topic": ""}, ConfigurationError),
        ({"topic": "x" * 256}, ConfigurationError),
        ({"group": ""}, ConfigurationError),
        ({"group": "two words"}, ConfigurationError),
        ({"group": "x" * 129}, ConfigurationError),
        ({"deduplication_id": "é"}, ConfigurationError),
        ({"delay": -1}, ConfigurationError),
        ({"delay": 901}, ConfigurationError),
        ({"delay": 1.5}, ConfigurationError),
        ({"delay": 1, "topic": "orders.fifo"}, ConfigurationError),
    ],
)
def test_what_sqs_can_never_take_is_refused(connection: sa.Connection, wrong: Any, error: type[Exception]) -> None:
    """A message that SQS can never take is refused when it is written, without a row."""
    arguments = {"payload": PAYLOAD, "topic": "orders", **wrong}
    with pytest.raises(error) as raised:
        add(connection, TABLE, arguments.pop("payload"), **arguments)
    assert len(str(raised.value).splitlines()) == 1
    assert rows(connection) == []


def test_a_processor_that_drops_the_record_is_an_error() -> None:
    """A processor that drops the record is an error."""
    import structlog

    def drop(*_: Any) -> Any:
        raise structlog.DropEvent

    configure(processors=[drop])
    try:
        with pytest.raises(RecordError, match="dropped"):
            new_row(PAYLOAD, topic="orders")
    finally:
        configure()


def test_only_postgresql_is_relayed() -> None:
    """A relay refuses any database but PostgreSQL before it sends anything."""
    with pytest.raises(ConfigurationError, match="an outbox in sqlite cannot be relayed"):
        SQLAlchemyStore(sa.create_engine("sqlite://"), TABLE).check()


DJANGO_COLUMNS = """
import json, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["balog_celery.outbox.django"])
django.setup()
from balog_celery.outbox.django.models import OutboxMessage
fields = OutboxMessage._meta.get_fields()
print(json.dumps({field.column: [getattr(field, "max_length", None), field.null] for field in fields}))
"""


def test_both_kinds_of_table_are_alike(tmp_path: Path) -> None:
    """Django's and SQLAlchemy's tables have the same columns, lengths and nulls, so one relay serves both."""
    done = subprocess.run(
        [sys.executable, "-c", DJANGO_COLUMNS], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {
        column.name: [getattr(column.type, "length", None), bool(column.nullable)] for column in TABLE.columns
    }
