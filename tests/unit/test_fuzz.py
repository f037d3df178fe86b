"""Bodies of any kind, thousands of them: the loop lives, and every message has one fate."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import running

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.engine import Engine
from balog_celery.consumers.hub import Router
from balog_celery.consumers.predicates import parse_version
from balog_celery.records import FacilityRecord, decode
from fakes import EVENT, FakeQueue, event_text

CASES = 10_000
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 10**400, "", "x", "\x00\x1b[31m\n", "\ud800", "\uffff", "é" * 100, [], {},
    [[]], {"a": {}}, "nan", "1e999", "LG1", "2014", {"cls_type": "metrics"}, {"__type__": "datetime", "__value__": "x"},
]  # fmt: skip
RAW = [
    "", " ", "null", "[]", "[" * 100_000, "{" * 5_000, '{"a":' * 300 + "1" + "}" * 300, "NaN", "-Infinity", "1" * 5_000,
    '{"schema": "1", "schema": "2"}', '"\\ud800"', "\ud800", "\x00", "{}" * 2, "\ufeff{}", "'single'", "a" * 100_000,
]  # fmt: skip


def mutant(rng: random.Random, number: int) -> str:
    """The text of an event with something wrong with it, or just text."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    event: Any = json.loads(json.dumps(EVENT))
    event["header"]["id"] = f"e{number}"
    for _ in range(rng.randrange(3)):
        place = rng.choice([event, event["header"], event["payload"]])
        if isinstance(place, dict):
            key = rng.choice([*place, "more", ""])
            if rng.random() < 0.3:
                place.pop(key, None)
            else:
                place[key] = copy.deepcopy(rng.choice(ODD))
        if not all(isinstance(event.get(part), dict) for part in ("header", "payload")):
            break
    text = json.dumps(event)
    if rng.random() < 0.2:
        cut = rng.randrange(len(text))
        text = text[:cut] + rng.choice(["", "\\", '"', "}", "\x00", "NaN", "1e999"]) + text[cut + rng.randrange(3) :]
    return text


def test_ten_thousand_odd_bodies_leave_the_loop_alive() -> None:
    """Each message is deleted once: processed, unwanted, or kept as a dead letter with its body as it was."""
    rng = random.Random(2026)
    bodies = [mutant(rng, number) for number in range(CASES)]
    queues = {"topic": FakeQueue("topic", bodies), "topic-dead": FakeQueue("topic-dead")}
    processed: list[dict[str, Any]] = []
    hub = ConsumerHub()
    hub.add_consumer(Consumer(processed.append, "topic", cls_type="metrics", version="<1.0", name="metrics"))
    queue = queues["topic"]
    with running(Engine(hub, queues.__getitem__)) as engine:
        queue.wait_for(lambda: len(queue.deleted) == CASES, 120)
        queue.bodies.append(event_text("last"))
        queue.wait_for(lambda: len(queue.deleted) == CASES + 1)
    counts = engine.stats.of("topic")
    assert processed[-1]["header"]["id"] == "last"
    assert len(processed) + counts["undecodable"] + counts["unwanted"] == CASES + 1
    assert len(queues["topic-dead"].sent) == counts["undecodable"] > CASES / 20
    assert {letter.body for letter in queues["topic-dead"].sent} <= set(bodies)
    assert len(processed) > CASES / 20
    assert "restarted" not in counts
    assert len(set(queue.deleted)) == len(queue.deleted)


CLS_TYPES = st.sampled_from(["metrics", "log", "null", "other", "*", "m*", "met*", "metrics*", "metricsx*", "nul*"])
VERSIONS = st.sampled_from(["<1.0", ">=1.0", "~=1.2", "==0.0.1"])


@settings(max_examples=200)
@given(
    wanted=st.lists(st.tuples(st.none() | st.sets(CLS_TYPES), st.none() | VERSIONS), max_size=8),
    cls_type=st.sampled_from(["metrics", "null", "other", "unknown"]),
    schema=st.sampled_from(["0.0.1", "1.0", "1.3", "2.0a1", "garbage"]),
)
def test_the_index_finds_what_asking_every_consumer_would(
    wanted: list[tuple[set[str] | None, str | None]], cls_type: str, schema: str
) -> None:
    """The same consumers, in the same order."""
    consumers = [
        Consumer(print, "t", cls_types, version, f"c{number}") for number, (cls_types, version) in enumerate(wanted)
    ]
    event = decode(event_text("e", cls_type, schema))

    def wants(consumer: Consumer, event: FacilityRecord) -> bool:
        version = parse_version(event.schema_version)
        cls_type = event.payload.cls_type
        if consumer.cls_types is not None and not any(
            cls_type.startswith(wanted[:-1]) if wanted.endswith("*") else cls_type == wanted
            for wanted in consumer.cls_types
        ):
            return False
        return consumer.condition is None or (version is not None and consumer.condition(version))

    router = Router(consumers)
    expected = tuple(consumer for consumer in consumers if wants(consumer, event))
    assert router.route(event) == expected
    assert router.route(event) == expected
