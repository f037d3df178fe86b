"""Every number that a user sets: a boolean is none, and it is finite."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from balog_celery.consumers import Consumer, consumer_config
from balog_celery.consumers.options import TASK_OPTIONS
from balog_celery.engine.config import EngineConfig
from balog_celery.errors import ConfigurationError
from balog_celery.settings import Settings
from balog_celery.topic_settings import TopicSettings


def process(event: Any) -> None:
    """Do nothing."""


async def wait(event: Any) -> None:
    """Do nothing."""


def setting(name: str, value: Any) -> Any:
    return getattr(Settings.from_conf({f"balog_{name}": value}), name)


def of_topic(name: str, value: Any) -> Any:
    return getattr(Settings.from_conf({"balog_topics": {"t": {name: value}}}).topics["t"], name)


def of_consumer(name: str, value: Any) -> Any:
    others: dict[str, Any] = {"batch_wait": {"batch": 2}, "chunk_wait": {"chunk": 2}, "each": {"batch": 2}}
    kept = getattr(Consumer(wait, "t", **{**others.get(name, {}), name: value}), name)
    return kept[0] if isinstance(kept, tuple) else kept


def of_cluster(_name: str, value: Any) -> Any:
    return of_consumer("concurrency", (value, "cluster"))


def of_task(name: str, value: Any) -> Any:
    return Consumer(process, "t", options={name: value}).options[name]


def of_engine(name: str, value: Any) -> Any:
    return getattr(EngineConfig(**{name: value}), name)


Read = Callable[[str, Any], Any]
OF_CONSUMER = sorted({*inspect.signature(consumer_config).parameters} - {"topic", "name", "task_options"})
OPTIONS: list[tuple[Read, str]] = [
    *((setting, name) for name in Settings.model_fields),
    *((of_topic, name) for name in TopicSettings.model_fields),
    *((of_consumer, name) for name in OF_CONSUMER),
    (of_cluster, "concurrency"),
    *((of_task, name) for name in sorted(TASK_OPTIONS)),
    *((of_engine, name) for name in EngineConfig.__dataclass_fields__),
]


def accepted(read: Read, name: str, value: Any) -> list[Any]:
    """What is read from *value*; nothing if it is refused."""
    try:
        return [read(name, value)]
    except ConfigurationError:
        return []


@pytest.mark.parametrize(("read", "name"), OPTIONS, ids=lambda given: getattr(given, "__name__", given))
def test_what_takes_numbers_takes_no_boolean_and_only_finite_ones(read: Read, name: str) -> None:
    """`pollers=True` would count as 1, and `time_limit=nan` as no limit at all."""
    # Given an option that takes a number as a number
    numbers = [value for value in (2, 30, 300) if [value] == accepted(read, name, value)]
    takes_numbers = any(type(accepted(read, name, value)[0]) in (int, float) for value in numbers)
    takes_all = bool(accepted(read, name, [object()]))
    # Then
    for boolean in (True, False):
        assert all(type(value) not in (int, float) for value in accepted(read, name, boolean))
    if takes_numbers and not takes_all:
        assert not any(accepted(read, name, value) for value in (math.nan, math.inf, -math.inf))


def test_the_rule_covers_the_numbers() -> None:
    """The options that the rule is for are found."""
    for read, name in ((of_topic, "pollers"), (of_consumer, "chunk"), (of_task, "max_retries"), (of_engine, "drain")):
        assert accepted(read, name, 2) == [2]
        assert accepted(read, name, True) == []
