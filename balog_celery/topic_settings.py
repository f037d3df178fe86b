"""The settings that a topic may have for itself, and the types of their values."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field

from .arguments import is_blank
from .number_rule import NumbersChecked
from .text import plain_topic


def _names_the_topic(value: str | None) -> str | None:
    if is_blank(value):
        raise ValueError("give a name or a URL, or None to keep no dead letters")
    if value is not None:
        try:
            value.format(topic="t")
        except (KeyError, IndexError, ValueError):
            raise ValueError("{topic} is the only placeholder") from None
    return None if value is None else plain_topic(value)


WaitTime: TypeAlias = Annotated[int, Field(ge=0, le=20)]
Pollers: TypeAlias = Annotated[int, Field(ge=1, le=100)]
Visibility: TypeAlias = Annotated[int, Field(ge=2, le=43_200)]
DeadLetter: TypeAlias = Annotated[str | None, AfterValidator(_names_the_topic)]
Positive: TypeAlias = Annotated[int, Field(gt=0)]


class TopicSettings(NumbersChecked):
    """The settings of one topic in ``balog_topics``. Each replaces the setting of the same name for that topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait_time: WaitTime = 0
    pollers: Pollers = 1
    visibility_timeout: Visibility | None = None
    dead_letter: DeadLetter = None
    high_water: Positive = 1
    max_in_flight: Positive | None = None
