"""Conditions on an event's ``cls_type`` and schema version, parsed once."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, Specifier
from packaging.version import Version

from ..errors import ConfigurationError, VersionConditionError

#: The longest text that is read as a version, in characters: a sender may write anything there.
MAX_VERSION = 200

_COMPARE: dict[str, Callable[[Version, Version], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class VersionCondition:
    """Conditions on a schema version, all of which must hold.

    Versions are ordered by PEP 440, and a pre-release is a version like any other, unlike in a package's requirements:
    ``<1.0`` matches ``1.0a1``. ``~=1.2`` and ``==1.*`` have PEP 440's meaning.

    :param conditions: ``"<1.0"``, ``">=1.0,<2.0"``, ``"~=1.2"``, or an iterable of such texts.
    :raises VersionConditionError: a condition cannot be read.
    """

    def __init__(self, conditions: str | Iterable[str]) -> None:
        try:
            texts = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        except TypeError:  # such as 1.0
            raise VersionConditionError(conditions, "it is no text") from None
        for text in texts:
            if not isinstance(text, str):
                raise VersionConditionError(text, "it is not a text")
        self._texts = tuple(part.strip() for text in texts for part in text.split(","))
        self._tests = tuple(_test(text) for text in self._texts)

    def __call__(self, version: Version) -> bool:
        return all(test(version) for test in self._tests)

    def failing(self, version: Version) -> tuple[str, ...]:
        """Return the conditions that *version* does not meet."""
        return tuple(text for text, test in zip(self._texts, self._tests, strict=True) if not test(version))

    def __and__(self, other: VersionCondition) -> VersionCondition:
        return VersionCondition((*self._texts, *other._texts))

    def possible(self) -> bool:
        """Return whether any version can meet all of the conditions; none meets ``>2,<1``."""
        # Between two neighbouring corners the verdict is the same everywhere, so one version after each will do.
        return any(map(self, (_LEAST, *itertools.chain.from_iterable(map(_corners, self._texts)))))

    def __str__(self) -> str:
        return ",".join(self._texts)

    def __repr__(self) -> str:
        return f"VersionCondition({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionCondition) and self._texts == other._texts

    def __hash__(self) -> int:
        return hash(self._texts)


def _test(text: str) -> Callable[[Version], bool]:
    if not text:
        raise VersionConditionError(text, "it is empty")
    try:
        specifier = Specifier(text)
    except InvalidSpecifier:
        raise VersionConditionError(text, "it is not an operator and a version") from None
    if specifier.operator == "===":
        raise VersionConditionError(text, "'===' compares texts, not versions")
    bound = parse_version(specifier.version.removesuffix(".*"))
    if bound is None:
        raise VersionConditionError(text, f"its version has more than {MAX_VERSION} characters")
    compare = _COMPARE.get(specifier.operator)
    if compare is None or specifier.version.endswith(".*"):
        return lambda version: specifier.contains(version, prereleases=True)
    return lambda version: compare(version, bound)


#: The least of all versions.
_LEAST = Version("0.dev0")


def _corners(text: str) -> Iterator[Version]:
    """Return the versions at which a condition's verdict may change, and the next ones after them."""
    specifier = Specifier(text)
    bound = Version(specifier.version.removesuffix(".*"))
    yield bound
    if bound.dev is not None:
        yield Version(f"{bound.public.rpartition('dev')[0]}dev{bound.dev + 1}")
    elif bound.post is not None:
        yield Version(f"{bound.public.rpartition('post')[0]}post{bound.post + 1}.dev0")
    else:
        yield Version(f"{bound.public}.post0.dev0")
    if specifier.version.endswith(".*") or specifier.operator == "~=":
        # Both are about a prefix of the release: ==1.2.* ends where 1.3.dev0 begins, and so does ~=1.2.0.
        *first, last = bound.release if specifier.operator != "~=" else bound.release[:-1]
        for number in (last, last + 1):
            yield Version(f"{bound.epoch}!{'.'.join(map(str, (*first, number)))}.dev0")


def parse_version(schema: str) -> Version | None:
    """Return the version that an event's ``schema`` names; None if it is too long, or not a version of PEP 440."""
    return _parse_version(schema) if len(schema) <= MAX_VERSION else None


@lru_cache(maxsize=4096)
def _parse_version(schema: str) -> Version | None:
    try:
        return Version(schema)
    except ValueError:  # not only InvalidVersion: int() has its own
        return None


def version_condition(value: str | Iterable[str] | VersionCondition | None) -> VersionCondition | None:
    """Return the condition in *value*, or None, for any version, if it is None.

    :raises VersionConditionError: a condition cannot be read.
    """
    if value is None or isinstance(value, VersionCondition):
        return value
    condition = VersionCondition(value)
    if not str(condition):
        raise VersionConditionError(value, "it is empty, and leaving it out means any version")
    return condition


def matches(wanted: str, cls_type: str) -> bool:
    """Return whether *cls_type* is *wanted*, or begins with it if that ends in ``*``."""
    return cls_type == wanted or (wanted.endswith("*") and cls_type.startswith(wanted[:-1]))


def may_match(one: str, other: str) -> bool:
    """Return whether a type can match both *one* and *other*, of which each may be a prefix."""
    return matches(one, other.removesuffix("*")) or matches(other, one.removesuffix("*"))


def cls_types(value: str | Iterable[str] | None) -> frozenset[str] | None:
    """Return the set of types in *value*, or None for any; those that end in ``*`` are prefixes.

    :raises ConfigurationError: it is neither a text nor an iterable of texts, one of them is empty, or has a ``*``
        elsewhere than at its end.
    """
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    try:
        found = frozenset(names)
    except TypeError:
        found = frozenset([None])  # type: ignore[list-item]
    if not all(isinstance(name, str) and name for name in found):
        raise ConfigurationError(
            f"bad cls_type {value!r}: give a text such as 'metrics', or several as a list, tuple or set"
        )
    for name in found:
        if "*" in name[:-1]:
            raise ConfigurationError(
                f"bad cls_type {name!r}: '*' can only be its last character, as in 'aws.s3.ObjectCreated:*', which "
                "matches every type that begins with what is before it"
            )
    if not found:
        raise ConfigurationError(f"bad cls_type {value!r}: it names no type; leave it out for events of any type")
    return found
