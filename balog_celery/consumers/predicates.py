"""What a consumer wants of an event: its ``cls_type`` and its schema version, parsed once."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, Specifier
from packaging.version import InvalidVersion, Version

from ..errors import ConfigurationError, VersionConditionError

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

    Versions are ordered as PEP 440 orders them, so ``<1.0`` matches ``1.0a1``: unlike in a requirement of a package, a
    pre-release is a version like any other here. ``~=1.2`` and ``==1.*`` mean what PEP 440 says.

    :param conditions: ``"<1.0"``, ``">=1.0,<2.0"``, ``"~=1.2"``, or an iterable of such texts.
    :raises VersionConditionError: a condition cannot be read.
    """

    def __init__(self, conditions: str | Iterable[str]) -> None:
        texts = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        for text in texts:
            if not isinstance(text, str):
                raise VersionConditionError(text, "it is not a text")
        self._texts = tuple(part.strip() for text in texts for part in text.split(","))
        self._tests = tuple(_test(text) for text in self._texts)

    def __call__(self, version: Version) -> bool:
        return all(test(version) for test in self._tests)

    def failing(self, version: Version) -> tuple[str, ...]:
        """Those of the conditions that *version* does not meet."""
        return tuple(text for text, test in zip(self._texts, self._tests, strict=True) if not test(version))

    def __and__(self, other: VersionCondition) -> VersionCondition:
        return VersionCondition((*self._texts, *other._texts))

    def possible(self) -> bool:
        """Whether some version meets all of the conditions; none meets ``>2,<1``."""
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
    compare = _COMPARE.get(specifier.operator)
    if compare is None or specifier.version.endswith(".*"):
        return lambda version: specifier.contains(version, prereleases=True)
    bound = Version(specifier.version)
    return lambda version: compare(version, bound)


#: The least of all versions.
_LEAST = Version("0.dev0")


def _corners(text: str) -> Iterator[Version]:
    """The versions at which the verdict of a condition may change, and the next ones after them."""
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


@lru_cache(maxsize=4096)
def parse_version(schema: str) -> Version | None:
    """The version that an event's ``schema`` names, or None where it cannot be read as PEP 440 says."""
    try:
        return Version(schema)
    except InvalidVersion:
        return None


def version_condition(value: str | Iterable[str] | VersionCondition | None) -> VersionCondition | None:
    """The condition that a consumer asked for, or None for any version: nothing was given, or an empty collection.

    :raises VersionConditionError: a condition cannot be read.
    """
    if value is None or isinstance(value, VersionCondition):
        return value
    condition = VersionCondition(value)
    return condition if str(condition) else None


def matches(wanted: str, cls_type: str) -> bool:
    """Whether *cls_type* is *wanted*, or begins with it where that ends in ``*``."""
    return cls_type == wanted or (wanted.endswith("*") and cls_type.startswith(wanted[:-1]))


def cls_types(value: str | Iterable[str] | None) -> frozenset[str] | None:
    """The set of ``cls_type`` that a consumer asked for, or None for any; those that end in ``*`` are prefixes.

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
    # An empty collection asks for nothing in particular: it meant "any" in the original, and still does.
    return found or None
