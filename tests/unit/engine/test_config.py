"""The configuration of engines."""

from __future__ import annotations

from dataclasses import fields

import pytest

from balog_celery.consumers import ConsumerHub
from balog_celery.consumers.kombu import KombuEngine
from balog_celery.consumers.sqs import SQSEngine
from balog_celery.engine.config import EngineConfig, EngineOptions
from balog_celery.engine.pauses import Pauses
from balog_celery.errors import ConfigurationError


def test_every_option_has_a_type_for_constructors() -> None:
    """Each field of EngineConfig has a type in EngineOptions, except the positional one."""
    assert {field.name for field in fields(EngineConfig)} == {*EngineOptions.__annotations__, "default_event_handler"}


def test_every_engine_passes_its_options_on() -> None:
    """Each engine's constructor accepts all options as keywords and passes them on."""
    options: EngineOptions = {
        "wait_time": 5,
        "pollers": 2,
        "drain": 1.0,
        "dead_letter": None,
        "max_depth": 7,
        "pauses": Pauses(),
    }
    engines = [SQSEngine(ConsumerHub(), **options), KombuEngine(ConsumerHub(), "memory://", **options)]
    for engine in engines:
        assert engine.config == EngineConfig(**options)


def test_a_visibility_timeout_that_cannot_be_extended_is_an_error() -> None:
    """A visibility timeout below 2 s is an error, because it cannot be extended in time."""
    assert EngineConfig(visibility_timeout=2).visibility_timeout == 2
    with pytest.raises(ConfigurationError, match="visibility_timeout is 1 s"):
        EngineConfig(visibility_timeout=1)
