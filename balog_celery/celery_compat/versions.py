"""The versions of Celery and kombu that this package is tested with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import celery
import kombu
from packaging.version import Version

#: The newest minor of each that the tests run on. pyproject.toml has the oldest; ``.ci/celery-versions`` has all.
NEWEST_TESTED = {"celery": "5.7", "kombu": "5.7"}


def installed() -> dict[str, str]:
    """Return the installed versions of the packages in :data:`NEWEST_TESTED`."""
    return {"celery": celery.__version__, "kombu": kombu.__version__}


def untested(versions: Mapping[str, str] | None = None) -> Iterator[str]:
    """Return a warning, of one line, for each package whose minor is newer than the newest that was tested.

    :param versions: versions by the name of the package; default: :func:`installed`.
    """
    for package, version in (installed() if versions is None else versions).items():
        newest = NEWEST_TESTED[package]
        if Version(version).release[:2] > Version(newest).release:
            yield (
                f"{package} {version} is newer than {newest}, the newest that this version of balog_celery was tested "
                f"with: if something fails, upgrade balog_celery or install {package}<{_next_minor(newest)}"
            )


def _next_minor(minor: str) -> str:
    major, number = Version(minor).release
    return f"{major}.{number + 1}"
