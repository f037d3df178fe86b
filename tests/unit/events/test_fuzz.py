"""Thousands of random bodies: the loop goes on, and every message ends in one way."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.router import Router
from balog_celery.engine.engine import Engine
from balog_celery.events.conditions import parse_version
from balog_celery.events.patterns import view_of
from balog_celery.events.records import FacilityRecord, decode
from engines import running
from sample_events import EVENT, event_text
from scripted_sqs.observed import ObservedQueue

CASES = 10_000
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 10**400, "", "x", "\x00\x1b[31m\n", "\ud800", "\uffff", "é" * 100, [], {},
    [[]], {"a": {}}, "nan", "1e999", "LG1", "2014", {"cls_type": "metrics"}, {"__type__": "datetime", "__value__": "x"},
]  # fmt: skip
#: Texts that SQS takes: no queue holds an empty body, NUL or half a surrogate pair.
RAW = [
    " ", "null", "[]", "[" * 100_000, "{" * 5_000, '{"a":' * 300 + "1" + "}" * 300, "NaN", "-Infinity", "1" * 5_000,
    '{"schema": "1", "schema": "2"}', '"\\ud800"', "{}" * 2, "\ufeff{}", "'single'", "a" * 100_000,
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
        text = text[:cut] + rng.choice(["", "\\", '"', "}", "\x09", "NaN", "1e999"]) + text[cut + rng.randrange(3) :]
    return text


def test_ten_thousand_odd_bodies_leave_the_loop_alive() -> None:
    """Each of 10,000 odd messages is deleted once: processed, unmatched, or a dead letter with its body unchanged."""
    rng = random.Random(2026)
    bodies = [mutant(rng, number) for number in range(CASES)]
    queues = {"topic": ObservedQueue("topic", bodies), "topic-dead": ObservedQueue("topic-dead")}
    processed: list[dict[str, Any]] = []
    hub = ConsumerHub()
    hub.add_consumer(Consumer(processed.append, "topic", cls_type="metrics", version="<1.0", name="metrics"))
    queue = queues["topic"]
    with running(Engine(hub, queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: len(queue.deleted) == CASES, 120)
        queue.put(event_text("last"))
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
CONDITIONS = st.sampled_from(
    [["a"], [1], ["a", 1, "c"], [{"prefix": "a"}], [{"prefix": "a"}, {"prefix": "c"}], [{"prefix": "a"}, "c"],
     [{"exists": False}], [{"anything-but": "a"}], [True], [None]]
)  # fmt: skip
WHERE = st.builds(lambda one: {"payload.state": one}, CONDITIONS) | st.builds(
    lambda one, other: {"$or": [{"payload.state": one}, {"payload.state": other}]}, CONDITIONS, CONDITIONS
)
VERSIONS = st.sampled_from(["<1.0", ">=1.0", "~=1.2", "==0.0.1"])


@settings(max_examples=200)
@given(
    wanted=st.lists(
        st.tuples(st.none() | st.sets(CLS_TYPES, min_size=1), st.none() | VERSIONS, st.none() | WHERE), max_size=8
    ),
    cls_type=st.sampled_from(["metrics", "null", "other", "unknown"]),
    schema=st.sampled_from(["0.0.1", "1.0", "1.3", "2.0a1", "garbage"]),
    state=st.sampled_from(["a", "ab", "c", 1, True, None, ["a", "c"], {"a": 1}, []]),
)
def test_the_index_finds_what_asking_every_consumer_would(
    wanted: list[tuple[set[str] | None, str | None, dict[str, Any] | None]], cls_type: str, schema: str, state: Any
) -> None:
    """The router finds the same consumers, in the same order, as asking each one."""
    consumers = [
        Consumer(print, "t", cls_types, version, f"c{number}", where=where)
        for number, (cls_types, version, where) in enumerate(wanted)
    ]
    event = decode(event_text("e", cls_type, schema, state=state))

    def wants(consumer: Consumer, event: FacilityRecord) -> bool:
        version = parse_version(event.schema_version)
        cls_type = event.payload.cls_type
        if consumer.cls_types is not None and not any(
            cls_type.startswith(wanted[:-1]) if wanted.endswith("*") else cls_type == wanted
            for wanted in consumer.cls_types
        ):
            return False
        if consumer.pattern is not None and not consumer.pattern(view_of(event, {})):
            return False
        return consumer.condition is None or (version is not None and consumer.condition(version))

    router = Router(consumers)
    expected = tuple(consumer for consumer in consumers if wants(consumer, event))
    assert router.route(event) == expected
    assert router.route(event) == expected
