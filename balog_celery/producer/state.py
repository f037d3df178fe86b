"""What all loggers of a process share: their configuration and their counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from .processors import BuildRecord, Line, describe, pop_traceback, render_record, shown
from .values import converter

_root = logging.getLogger()


class State:
    """The configuration and the counts. All loggers share it, so that a change reaches those that exist."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.invalid = 0
        self.strict = False
        #: Resolves the topics of ``send``; the S3 bucket for its large messages, and what is large, in bytes.
        self.operator: Any = None
        self.bucket: str | None = None
        self.payload_threshold: int | None = None
        self.build = BuildRecord()
        self.processors: list[Any] = [self.build, render_record]
        self.handler: logging.Handler | None = None
        #: The last of them is given lines instead of a handler: for tests.
        self.captures: list[Callable[[str], object]] = []


state = State()


@contextmanager
def capture(take: Callable[[str], object], level: int | str, strict: bool) -> Iterator[None]:
    """Give the lines of all loggers in this process to *take*, instead of to handlers: for tests.

    :param level: the root logger's level meanwhile.
    :param strict: as of :func:`configure`, meanwhile.
    """
    was_level, was_disabled, was_strict = _root.level, _root.manager.disable, state.strict
    _root.setLevel(level)
    logging.disable(logging.NOTSET)
    state.strict = strict
    state.captures.append(take)
    try:
        yield
    finally:
        state.captures.remove(take)
        state.strict = was_strict
        logging.disable(was_disabled)
        _root.setLevel(was_level)


def stats() -> dict[str, int]:
    """Return what was counted in this process.

    ``invalid`` calls became a record that says what is wrong; ``converted`` values and keys were written in another
    form, because JSON does not know them.
    """
    return {"invalid": state.invalid, "converted": converter.converted}


def invalid_record(channel: str, error: Exception, given: dict[str, Any]) -> Line:
    with state.lock:
        state.invalid += 1
    payload = {"message": f"invalid record: {describe(error)}; given: {shown(given)}", "severity": "error"}
    if exc_text := pop_traceback({"exc_info": given.get("exc_info")}):
        payload["exc_text"] = exc_text
    return render_record(None, "error", state.build.log_record(channel, datetime.now(timezone.utc), **payload))
