"""One line of the report, and what several checks need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeVar

from ...errors import BalogError
from ...text import brief, printable

Level = Literal["OK", "WARN", "FAIL"]
T = TypeVar("T")

#: How long a server may take to answer, in seconds.
TIMEOUT = 10.0


class Finding(NamedTuple):
    """One line of the report.

    :param level: OK; WARN: it runs, but perhaps not as intended; FAIL: it does not run.
    :param about: the subject.
    :param text: the result, and what to do about it.
    """

    level: Level
    about: str
    text: str


def guarded(about: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run one check, and turn an exception into a finding: one failing check must not hide the others.

    :param about: the subject of that finding.
    """
    try:
        yield from check()
    except Exception as error:
        text = str(error) if isinstance(error, BalogError) else f"it cannot be checked: {brief(error)}"
        yield Finding("FAIL", about, printable(text, 1000))


def within_timeout(ask: Callable[[], T]) -> T:
    """Return what *ask* returns, or raise what it raises. It runs in a thread, as some clients have no timeout.

    :raises TimeoutError: there was no answer within twice :data:`TIMEOUT`.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer in {2 * TIMEOUT:g} s")
    return found[0]
