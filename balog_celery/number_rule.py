"""The rule for every number that a user sets: it is finite, and no boolean, which Python takes for 0 or 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationInfo, field_validator

from .arguments import is_number

#: The longest time, in seconds: a hundred years. Redis and datetimes count some more.
LONGEST = 3_155_760_000


def wrong_number(value: object, annotation: Any) -> str:
    """Return why *value* is not what *annotation* asks for, if that is a number; "" if nothing is wrong with it here.

    :param annotation: the type; a union with ``bool`` takes booleans, too.
    """
    types = {*_types(annotation)}
    if not types & {int, float} or not isinstance(value, (bool, float)):
        return ""
    return "" if is_number(value) or (isinstance(value, bool) and bool in types) else "give a finite number"


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


class NumbersChecked(BaseModel):
    """A model whose numbers follow the rule."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_right_number(cls, value: Any, info: ValidationInfo) -> Any:
        if wrong := wrong_number(value, cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(wrong)
        return value
