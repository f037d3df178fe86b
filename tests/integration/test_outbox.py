"""The outbox on a real PostgreSQL: which rows a relay sends, in which order, and how it handles refusals."""

from __future__ import annotations

import json
import logging
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

import servers
from balog_celery import configure
from balog_celery.errors import QueueError
from balog_celery.outbox import store as store_module
from balog_celery.outbox.relay import Relay
from balog_celery.outbox.sqlalchemy import SQLAlchemyStore, add, outbox_table
from balog_celery.outbox.store import Store
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, EntryFailure, OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.observed import ObservedQueue

METADATA = sa.MetaData()
TABLE = outbox_table(METADATA)


@pytest.fixture
def engine(postgresql: servers.PostgreSQL, database: str) -> Iterator[sa.Engine]:
    """An engine of a database with an empty outbox."""
    engine = sa.create_engine(postgresql.url("postgresql+psycopg", database), pool_pre_ping=True)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    """The outbox, as a relay sees it."""
    return SQLAlchemyStore(engine, TABLE)


class Queues(dict[str, ObservedQueue]):
    """Scripted queues, made when they are asked for."""

    def __missing__(self, name: str) -> ObservedQueue:
        self[name] = ObservedQueue(name)
        return self[name]


@pytest.fixture
def queues() -> Queues:
    return Queues()


@pytest.fixture
def relay(store: Store, queues: Queues) -> Relay:
    return Relay(store, queues.__getitem__)


def write(engine: sa.Engine, *numbers: int, topic: str = "events", group: str | None = None) -> None:
    """Commit an event for each number."""
    with engine.begin() as connection:
        for number in numbers:
            add(connection, TABLE, {"cls_type": "counted", "number": number}, topic=topic, group=group)


def numbers(messages: Sequence[OutgoingMessage]) -> list[int]:
    return [json.loads(message.body)["payload"]["number"] for message in messages]


def waiting(engine: sa.Engine) -> list[int]:
    """The numbers of the events in the table, in the order of their rows."""
    with engine.begin() as connection:
        rows = connection.execute(sa.select(TABLE.c.body).order_by(TABLE.c.id)).scalars()
        return [json.loads(body)["payload"]["number"] for body in rows]


def refuse(number: int, code: str, *, final: bool = False, doubtful: bool = False) -> Callable[[Any], Any]:
    """A send that refuses one event and takes the others."""

    def send(messages: Sequence[OutgoingMessage]) -> list[EntryFailure] | None:
        found = numbers(messages)
        if number not in found:
            return None
        return [EntryFailure(found.index(number), code, "said SQS", sender_fault=final or doubtful)]

    return send


def test_only_what_is_committed_is_sent(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """Rows of an open transaction wait, and those of a rolled-back one are never sent."""
    with engine.connect() as open_one, engine.connect() as rolled_back:
        for number, connection in enumerate((open_one, rolled_back)):
            add(connection, TABLE, {"cls_type": "counted", "number": number}, topic="events")
        assert relay.sweep() == 0
        rolled_back.rollback()
        open_one.commit()
        assert relay.sweep() == 1
    assert numbers(queues["events"].sent) == [0]
    assert waiting(engine) == []


def test_a_row_stays_until_sqs_has_confirmed_it(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """A row stays if the call fails, or if SQS does not list its entry as sent."""
    write(engine, 1, 2, 3)
    queues["events"].on["send"] = lambda _: (_ for _ in ()).throw(QueueError("down", "EndpointConnectionError"))
    relay.sweep()
    assert waiting(engine) == [1, 2, 3]
    queues["events"].on["send"] = refuse(2, "InternalError")
    servers.wait_until(lambda: relay.sweep() == 2)
    assert waiting(engine) == [2]
    del queues["events"].on["send"]
    servers.wait_until(relay.sweep)
    assert waiting(engine) == []


def test_a_relay_sends_while_another_waits_for_sqs(engine: sa.Engine, store: Store, queues: Queues) -> None:
    """A relay neither waits for rows that another one has locked, nor sends them."""
    slow, sending, answer = ObservedQueue(), threading.Event(), threading.Event()

    def send(_: Any) -> None:
        sending.set()
        assert answer.wait(60)

    slow.on["send"] = send
    write(engine, *range(10))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Relay(store, lambda _: slow).sweep)
        assert sending.wait(60)
        write(engine, 10)
        try:
            assert pool.submit(Relay(store, queues.__getitem__).sweep).result(30) == 1
        finally:
            answer.set()
        assert first.result(60) == 10
    assert numbers(queues["events"].sent) == [10]


def test_relays_do_not_reorder_a_group(engine: sa.Engine, store: Store, queues: Queues) -> None:
    """While one relay sends the first event of a group, another sends none of that group."""
    slow, sending, answer = ObservedQueue("events.fifo"), threading.Event(), threading.Event()

    def send(_: Any) -> None:
        sending.set()
        assert answer.wait(60)

    slow.on["send"] = send
    write(engine, 1, topic="events.fifo", group="a")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Relay(store, lambda _: slow).sweep)
        assert sending.wait(60)
        write(engine, 2, 3, topic="events.fifo", group="a")
        write(engine, 11, 12, topic="events.fifo", group="b")
        try:
            other = Relay(store, queues.__getitem__)
            assert pool.submit(other.sweep).result(30) == 2
            assert numbers(queues["events.fifo"].sent) == [11, 12]
        finally:
            answer.set()
        first.result(60)
    other.sweep()
    assert numbers(queues["events.fifo"].sent) == [11, 12, 2, 3]


def test_no_call_has_two_events_of_a_group(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """No call for a FIFO topic has two events of a group, because SQS may take only the second."""
    queue = queues["events.fifo"]
    for group in ("a", "b", "c"):
        write(engine, *range(4), topic="events.fifo", group=group)
    assert relay.sweep() == 12
    calls = [[message.group for message in sent] for what, sent in queue.calls if what == "send"]
    assert calls[:3] == [["a", "b", "c"]] * 3
    assert all(len(groups) == len(set(groups)) for groups in calls)
    assert len({message.deduplication_id for message in queue.sent}) == 12


def test_a_standard_topic_takes_ten_events_of_a_group_in_a_call(
    engine: sa.Engine, relay: Relay, queues: Queues
) -> None:
    """A call for a standard topic has ten events of one group, in order."""
    write(engine, *range(25), group="a")
    assert relay.sweep() == 25
    assert [len(sent) for what, sent in queues["events"].calls if what == "send"] == [10, 10, 5]
    assert numbers(queues["events"].sent) == list(range(25))


@pytest.mark.parametrize("seed", range(5))
def test_refusals_do_not_reorder_a_group(engine: sa.Engine, store: Store, queues: Queues, seed: int) -> None:
    """Whatever SQS refuses or fails to answer, the events of a group of a FIFO topic arrive in their order."""
    chance, queue = random.Random(seed), queues["events.fifo"]

    def send(messages: Sequence[OutgoingMessage]) -> list[EntryFailure] | None:
        if chance.random() < 0.1:
            raise QueueError("down", "EndpointConnectionError")
        refused = [index for index in range(len(messages)) if chance.random() < 0.2]
        return [EntryFailure(index, "InternalError", "busy", False) for index in refused]

    for number in range(60):
        write(engine, number, topic="events.fifo", group=chance.choice("abc"))
    queue.on["send"] = send
    while waiting(engine):
        Relay(store, queues.__getitem__).sweep()  # a new one does not wait after a failure
    assert sorted(numbers(queue.sent)) == list(range(60))
    for group in "abc":
        found = numbers([message for message in queue.sent if message.group == group])
        assert found == sorted(found)


def test_a_refused_event_stops_its_group_in_the_same_transaction(
    engine: sa.Engine, relay: Relay, queues: Queues
) -> None:
    """Behind an event that SQS does not take, none of its group is sent; another group goes on."""
    write(engine, *range(5), topic="events.fifo", group="a")
    write(engine, *range(10, 14), topic="events.fifo", group="b")
    queues["events.fifo"].on["send"] = refuse(2, "InvalidMessageContents", final=True)
    relay.sweep()
    assert waiting(engine) == [2, 3, 4]


def test_a_fifo_topic_without_groups_is_one_group(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """The events of a FIFO topic without groups are sent in order, as one group."""
    write(engine, *range(5), topic="events.fifo")
    assert relay.sweep() == 5
    assert numbers(queues["events.fifo"].sent) == list(range(5))
    assert len([what for what, _ in queues["events.fifo"].calls if what == "send"]) == 5


def test_an_event_that_is_tried_again_holds_its_group(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """While an event is retried, later events of its group wait and other groups go on."""
    write(engine, 1, 2, topic="events.fifo", group="a")
    write(engine, 11, 12, topic="events.fifo", group="b")
    queues["events.fifo"].on["send"] = refuse(1, "Unheard", doubtful=True)
    relay.sweep()
    assert waiting(engine) == [1, 2]


def test_a_row_that_commits_late_does_not_reorder_its_group(engine: sa.Engine, store: Store, queues: Queues) -> None:
    """A row with a smaller id that is committed during a send does not change the order of its group."""
    slow, sending, answer = ObservedQueue("events.fifo"), threading.Event(), threading.Event()

    def send(_: Any) -> None:
        sending.set()
        assert answer.wait(60)

    slow.on["send"] = send
    with engine.connect() as late, ThreadPoolExecutor(2) as pool:
        add(late, TABLE, {"cls_type": "counted", "number": 0}, topic="events.fifo", group="a")
        write(engine, 1, topic="events.fifo", group="a")
        first = pool.submit(Relay(store, lambda _: slow).sweep)
        assert sending.wait(60)
        late.commit()
        write(engine, 2, topic="events.fifo", group="a")
        other = Relay(store, queues.__getitem__)
        try:
            assert pool.submit(other.sweep).result(30) == 1
        finally:
            answer.set()
        first.result(60)
    assert numbers(queues["events.fifo"].sent) == [0]


@pytest.mark.parametrize("whole_call", [False, True])
def test_what_sqs_can_never_take_is_marked_and_blocks_its_group_only(
    engine: sa.Engine, store: Store, relay: Relay, queues: Queues, whole_call: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that SQS refuses permanently is marked, and blocks its group until it is retried or dropped."""

    def refuse_call(messages: Sequence[OutgoingMessage]) -> None:
        if 1 in numbers(messages):
            raise QueueError("said SQS", "InvalidMessageContents")

    queue = queues["events.fifo"]
    queue.on["send"] = refuse_call if whole_call else refuse(1, "InvalidMessageContents", final=True)
    write(engine, 1, 2, topic="events.fifo", group="a")
    write(engine, 11, 12, topic="events.fifo", group="b")
    with caplog.at_level(logging.ERROR):
        servers.wait_until(lambda: not relay.sweep())
    assert waiting(engine) == [1, 2]
    (failed,) = store.failed(10)
    assert (failed.topic, failed.group) == ("events.fifo", "a")
    assert "said SQS" in failed.reason
    assert sum("SQS can never take it" in line for line in caplog.messages) == 1
    # Retried, it fails again; without SQS's objection it is sent, and the group goes on.
    assert store.retry([failed.id]) == 1
    relay.sweep()
    assert len(store.failed(10)) == 1
    if whole_call:
        assert store.drop([]) == 1
    else:
        del queue.on["send"]
        assert store.retry([]) == 1
    servers.wait_until(lambda: relay.sweep() and not waiting(engine))
    assert numbers(queue.sent)[-1] == 2


def test_an_unknown_refusal_fails_a_row_in_the_end(
    engine: sa.Engine, relay: Relay, store: Store, queues: Queues
) -> None:
    """A row that SQS refuses with an unknown code fails after 20 tries, and does not hold up others."""
    write(engine, 1, 2)
    calls = 0

    def send(messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        nonlocal calls
        calls += 1
        write(engine, 100 + calls)  # there is always another that SQS takes
        return [EntryFailure(0, "Unheard", "of", sender_fault=True)]

    queues["events"].on["send"] = send
    servers.wait_until(lambda: relay.sweep() >= 0 and store.failed(10))
    assert calls == 20
    assert waiting(engine)[0] == 1


def test_an_outage_of_one_topic_holds_up_no_other(
    engine: sa.Engine, relay: Relay, queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage of one topic is logged once and does not hold up others; its rows are sent when the queue exists."""
    queues["down"].drop()
    write(engine, *range(5), topic="down")
    write(engine, *range(20), topic="up")
    with caplog.at_level(logging.INFO):
        assert relay.sweep() == 20
        for _ in range(5):
            relay.sweep()
        assert sum("relaying to down failed" in line for line in caplog.messages) == 1
        queues["down"].create()
        servers.wait_until(relay.sweep)
    assert any(line.startswith("relaying to down works again") for line in caplog.messages)
    assert numbers(queues["down"].sent) == list(range(5))


def test_calls_are_within_the_limits_of_sqs(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """A call sends at most ten messages and 1 MiB, which bounds the relay's memory."""
    with engine.begin() as connection:
        for number, size in enumerate([300_000] * 5 + [1_000_000] + [10] * 25):
            add(connection, TABLE, {"cls_type": "counted", "number": number, "text": "x" * size}, topic="events")
    assert relay.sweep() == 31
    calls = [sent for what, sent in queues["events"].calls if what == "send"]
    assert max(map(len, calls)) == 10
    assert max(sum(message.size() for message in call) for call in calls) <= MAX_MESSAGE_BYTES


def test_postgresql_ends_a_transaction_that_waits_too_long(
    engine: sa.Engine, store: Store, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends the transaction of a relay that hangs, and another relay sends its rows."""
    monkeypatch.setattr(store_module, "MAX_TRANSACTION", 1)
    hung, sending, answer = ObservedQueue(), threading.Event(), threading.Event()

    def send(_: Any) -> None:
        sending.set()
        assert answer.wait(60)

    hung.on["send"] = send
    write(engine, 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Relay(store, lambda _: hung).sweep)
        assert sending.wait(60)
        other = Relay(store, queues.__getitem__)
        try:
            servers.wait_until(other.sweep)
        finally:
            answer.set()
        with pytest.raises(sa.exc.DBAPIError):
            first.result(60)
    assert numbers(queues["events"].sent) == [1]


def test_a_relay_outlives_an_outage_of_the_database(
    engine: sa.Engine, postgresql: servers.PostgreSQL, relay: Relay, queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay survives an outage of the database, logs it once, and then sends the committed rows."""
    thread = threading.Thread(target=relay.run)
    with caplog.at_level(logging.INFO):
        thread.start()
        try:
            write(engine, 1)
            queues["events"].wait_for(lambda: len(queues["events"].sent) == 1)
            postgresql.kill()
            servers.wait_until(lambda: any("relaying the outbox failed" in line for line in caplog.messages))
            postgresql.start()
            write(engine, 2)
            queues["events"].wait_for(lambda: 2 in numbers(queues["events"].sent))
            servers.wait_until(lambda: any("works again" in line for line in caplog.messages))
        finally:
            relay.stop()
            thread.join(60)
    assert not thread.is_alive()


def test_what_waits_is_counted_by_topic(engine: sa.Engine, store: Store, relay: Relay, queues: Queues) -> None:
    """The backlog has the waiting and the failed rows of each topic, and the age of the oldest that waits."""
    queues["bad"].on["send"] = refuse(1, "InvalidMessageContents", final=True)
    queues["down"].drop()
    write(engine, 1, topic="bad")
    write(engine, 2, 3, topic="down")
    with engine.begin() as connection:
        connection.execute(sa.update(TABLE).values(created_at=sa.text("now() - interval '1 hour'")))
    write(engine, 4, topic="down")
    relay.sweep()
    backlog = store.backlog(10)
    assert {topic: (found.waiting, found.failed) for topic, found in backlog.items()} == {"bad": (0, 1), "down": (3, 0)}
    assert backlog["bad"].oldest == 0
    assert 3600 <= backlog["down"].oldest < 3700
    assert list(store.backlog(1)) == ["bad"]


def test_a_failure_shows_as_long_as_rows_wait_for_it(engine: sa.Engine, relay: Relay, queues: Queues) -> None:
    """The status of a relay names a topic that fails while rows of it wait, and counts what was sent."""
    queues["down"].drop()
    write(engine, 1, topic="down")
    write(engine, 2, 3, topic="up")
    relay.sweep()
    status = relay.status(["down", "up"])
    assert list(status["outages"]) == ["relaying to down"]
    assert "there is no queue 'down'" in status["outages"]["relaying to down"]["error"]
    assert status["sent"] == 2
    assert relay.status(["up"])["outages"] == {}


def test_events_reach_sqs(engine: sa.Engine, store: Store, sqs: servers.Sqs, queue_name: str, topic: Any) -> None:
    """Each sent event is a record with the given channel, context and attributes."""
    with engine.begin() as connection:
        event_id = add(
            connection,
            TABLE,
            {"cls_type": "counted", "number": 1},
            topic=queue_name,
            channel="shop.orders.placed",
            attributes={"tenant": "blue"},
            context={"application": "shop"},
        )
    assert Relay(store, SQSQueue).sweep() == 1
    (message,) = topic.client.receive_message(QueueUrl=topic.url, MessageAttributeNames=["All"])["Messages"]
    record = json.loads(message["Body"])
    assert record["header"]["id"] == event_id
    assert record["header"]["channel"] == "shop.orders.placed"
    assert record["header"]["context"]["application"] == "shop"
    assert record["payload"] == {"cls_type": "counted", "number": 1}
    assert message["MessageAttributes"]["tenant"]["StringValue"] == "blue"


def test_a_delay_and_a_large_body(
    engine: sa.Engine, store: Store, sqs: servers.Sqs, queue_name: str, topic: Any
) -> None:
    """A delayed event is invisible at first, and a body that is too large for SQS goes to S3."""
    bucket = f"outbox-{uuid.uuid4().hex[:8]}"
    configure(bucket=bucket)
    try:
        with engine.begin() as connection:
            add(connection, TABLE, {"cls_type": "counted", "number": 1}, topic=queue_name, delay=600)
            add(connection, TABLE, {"cls_type": "counted", "number": 2, "x": "x" * 1_100_000}, topic=queue_name)
    finally:
        configure()
    queue = SQSQueue(queue_name, payload_buckets=[bucket])
    queue.payloads.create_buckets()
    assert Relay(store, lambda _: queue).sweep() == 2
    assert (
        topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=["All"])["Attributes"][
            "ApproximateNumberOfMessagesDelayed"
        ]
        == "1"
    )
    (message,) = queue.receive(10, 0)
    assert json.loads(message.body)["payload"]["number"] == 2


def test_the_table_may_have_any_name_and_schema(engine: sa.Engine, queues: Queues) -> None:
    """The table may have any name and schema, which are quoted where needed."""
    metadata = sa.MetaData(schema="shop %s")
    table = outbox_table(metadata, 'my "outbox"')
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema("shop %s"))
        metadata.create_all(connection)
        add(connection, table, {"cls_type": "counted", "number": 5}, topic="events")
    write(engine, 1)
    assert Relay(SQLAlchemyStore(engine, table), queues.__getitem__).sweep() == 1
    assert numbers(queues["events"].sent) == [5]
    assert waiting(engine) == [1]


def test_an_engine_that_commits_by_itself_locks_all_the_same(engine: sa.Engine, queues: Queues, store: Store) -> None:
    """With an engine in autocommit mode a row that one relay sends is not sent by another."""
    by_itself = engine.execution_options(isolation_level="AUTOCOMMIT")
    slow, sending, answer = ObservedQueue(), threading.Event(), threading.Event()

    def send(_: Any) -> None:
        sending.set()
        assert answer.wait(60)

    slow.on["send"] = send
    write(engine, 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Relay(SQLAlchemyStore(by_itself, TABLE), lambda _: slow).sweep)
        assert sending.wait(60)
        try:
            assert Relay(store, queues.__getitem__).sweep() == 0
        finally:
            answer.set()
        assert first.result(60) == 1
