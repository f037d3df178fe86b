"""A topic is its queue, not its queue's name: counters, status and dead letters of queues that share a name."""

from __future__ import annotations

from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError, QueueError
from engines import Queues, running
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

HERE = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
THERE = "https://sqs.us-east-1.amazonaws.com/210987654321/orders"


def engine_of(queues: Queues, func: Any) -> Engine:
    hub = ConsumerHub()
    for topic in (HERE, THERE):
        hub.add_consumer(Consumer(func, topic, "metrics"))
    return Engine(hub, queues.__getitem__, linger=0.0)


def both(here: list[str], there: list[str]) -> Queues:
    queues = Queues({HERE: ObservedQueue("orders", here), THERE: ObservedQueue("orders", there)})
    queues[THERE].store.account = "210987654321"
    for topic in (HERE, THERE):
        queues[f"{topic}-dead"] = ObservedQueue("orders-dead")
    return queues


def test_queues_of_one_name_are_counted_and_shown_apart() -> None:
    """Each by the URL that its consumers give; a name that only one queue has is enough for that one."""
    queues = both([event_text("a"), event_text("b")], [event_text("c", "unwanted")])
    with running(engine_of(queues, lambda _event: None)) as engine:
        queues[HERE].wait_for(lambda: len(queues[HERE].deleted) == 2)
        queues[THERE].wait_for(lambda: len(queues[THERE].deleted) == 1)
        wait_until(lambda: engine.stats.of(HERE).get("deleted") == 2)
        wait_until(lambda: engine.stats.of(THERE).get("deleted") == 1)
        assert engine.stats.of(HERE) == {"received": 2, "dispatched": 2, "deleted": 2}
        assert engine.stats.of(THERE) == {"received": 1, "unwanted": 1, "deleted": 1}
        assert engine.status()["topics"][HERE]["received"] == 2
        assert engine.status()["topics"][THERE]["received"] == 1


@pytest.mark.parametrize("other", [HERE, f"{HERE}/"])
def test_one_queue_under_two_names_is_an_error_at_start(other: str) -> None:
    """Each topic would delete the events of the other's consumers, as nobody's."""
    queue = ObservedQueue("orders")
    queues = Queues({"orders": queue, HERE: queue})
    hub = ConsumerHub()
    for topic in ("orders", other):
        hub.add_consumer(Consumer(lambda _event: None, topic, f"of {topic}"))
    with pytest.raises(ConfigurationError, match=rf"topics 'orders' and '{HERE}' are the same queue"):
        Engine(hub, queues.__getitem__, linger=0.0).run()


@pytest.mark.parametrize(("topic", "dead_letter"), [("orders", "{topic}"), (HERE, "orders"), (f"{HERE}/", HERE)])
def test_a_topic_is_not_its_own_dead_letter_queue(topic: str, dead_letter: str) -> None:
    """Each dead letter would come again at once, and be one again."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda _event: None, topic))
    engine = Engine(hub, lambda _: ObservedQueue("orders"), dead_letter=dead_letter)
    for start in (engine.run, engine.check_configuration):
        with pytest.raises(ConfigurationError, match="is its own dead-letter queue"):
            start()


def test_a_stop_at_start_waits_for_one_queue_that_does_not_answer_not_for_all() -> None:
    """Each takes seconds."""
    hub, asked = ConsumerHub(), list[str]()
    queues = Queues()

    def fail(_argument: object) -> None:
        asked.append("a queue")
        engine.stop()
        raise QueueError("no answer", "TimeoutError")

    for number in range(5):
        queues[f"t{number}"].on["attributes"] = fail
        hub.add_consumer(Consumer(lambda _event: None, f"t{number}", str(number)))
    engine = Engine(hub, queues.__getitem__, dead_letter=None, visibility_timeout=30)
    engine.run()
    assert asked == ["a queue"]


def test_an_event_that_fails_in_place_is_a_dead_letter_beside_its_own_queue() -> None:
    """In the region and account of the topic's URL."""

    def fail(_event: Any) -> None:
        raise ValueError("no")

    queues = both([], [event_text()])
    own = queues["orders-dead"] = ObservedQueue("orders-dead")
    with running(engine_of(queues, fail)):
        queues[THERE].wait_for(lambda: queues[THERE].deleted == ["m1"])
    (letter,) = queues[f"{THERE}-dead"].sent
    assert mark_of(letter)["topic"] == THERE
    assert not own.sent
    assert not queues[f"{HERE}-dead"].sent
