"""Likely mistakes in what consumers want, for warnings at start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from ..events.conditions import matches
from ..text import printable
from .consumer import Consumer
from .existing import unwrapped


def lint(topics: Mapping[str, Iterable[Consumer]]) -> Iterator[str]:
    """Report consumers that can never match, and pairs that call one function twice for an event, a line each.

    :param topics: the consumers of each topic, after the operator's ``get_topic``.
    """
    for topic, consumers in topics.items():
        able = []
        for consumer in consumers:
            if consumer.condition is None or consumer.condition.possible():
                able.append(consumer)
            else:
                yield (
                    f"{printable(consumer.task_name)} can never match: no version meets {consumer.condition}; "
                    "correct its version="
                )
        for one, other in combinations(able, 2):
            if _function(one) == _function(other) and _overlap(one, other):
                yield (
                    f"{printable(one.task_name)} and {printable(other.task_name)} call the same function, twice for an "
                    f"event of {printable(topic)} that matches both ({_wants(one)}; {_wants(other)}): give them "
                    "conditions that do not overlap, or use one decorator"
                )


def _function(consumer: Consumer) -> object:
    """Return the function itself: a scan makes an instance, and so a bound method, for each consumer."""
    return unwrapped(consumer.func)


def _overlap(one: Consumer, other: Consumer) -> bool:
    if one.pattern != other.pattern:
        return False  # it takes an event to tell
    types, others = one.cls_types or {"*"}, other.cls_types or {"*"}
    if not any(_meet(this, that) for this in types for that in others):
        return False
    if one.condition is None or other.condition is None:
        return True
    return (one.condition & other.condition).possible()


def _meet(one: str, other: str) -> bool:
    """Return whether a type matches both, each of which may be a prefix."""
    return matches(one, other.removesuffix("*")) or matches(other, one.removesuffix("*"))


def _wants(consumer: Consumer) -> str:
    types = ",".join(sorted(consumer.cls_types or ("*",)))
    return printable(f"cls_type {types} version {consumer.condition or '*'}")
