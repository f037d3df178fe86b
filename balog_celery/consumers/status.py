"""What an engine is doing, in a form that other processes can read and judge."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: How often an engine writes its status, in seconds.
INTERVAL = 2.0
#: A status older than this is that of an engine that hangs, in seconds.
STALE_AFTER = 15.0
#: How much longer than its long poll a poll may take before the poller counts as frozen, in seconds.
POLL_MARGIN = 35.0
#: For how long SQS may refuse deletes and extensions before the engine counts as sick, in seconds.
KEEPING_MARGIN = 45.0
#: What a poller may be doing for any time.
_WELL = ("paused", "dispatching")


def status_folder(given: str | None) -> Path:
    """The folder of the status files, made if it is missing, for this user only.

    :param given: the setting ``balog_status_dir``.
    :raises OSError: it cannot be made, or belongs to somebody else.
    """
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"balog-celery-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(f"{folder} is not a folder of this user's")
    return folder


class StatusFile:
    """The status of one engine process, on disk for as long as it runs."""

    def __init__(self, folder: Path, app: str) -> None:
        self._path = folder / f"engine-{os.getpid()}.json"
        self._app = app
        self._next = 0.0

    def write(self, status: Mapping[str, Any], *, now: bool = False) -> None:
        """Write *status*, if the last time is long enough ago or it must be *now*."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        document = {**status, "app": self._app, "pid": os.getpid(), "written": time.time()}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(document))
        part.replace(self._path)

    def remove(self) -> None:
        """The engine has stopped."""
        self._path.unlink(missing_ok=True)


def engine_statuses(folder: Path, app: str) -> Iterator[dict[str, Any]]:
    """The status of every engine of *app* whose process runs; files of others that have ended are removed."""
    for path in sorted(folder.glob("engine-*.json")):
        try:
            status: dict[str, Any] = json.loads(path.read_text())
            os.kill(int(status["pid"]), 0)
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                path.unlink()
        except (OSError, ValueError, KeyError):
            continue
        else:
            if status.get("app") == app:
                yield status


def together(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The status of a topic, of those of its pollers and keepers: the worst that one does, the sum of what all have.

    :param states: what each says of itself, at least one.
    """
    poller = max(states, key=lambda state: (state["doing"] not in _WELL, state["last_poll"]))
    keeper = max(states, key=lambda state: state["keeping_fails_for"])
    return {
        **poller,
        **{name: sum(state[name] for state in states) for name in ("in_flight", "owed")},
        **{name: keeper[name] for name in ("keeping_trouble", "keeping_fails_for")},
        "oldest": max(state["oldest"] for state in states),
    }


def problems(status: Mapping[str, Any]) -> list[str]:
    """What is wrong with an engine, one line each; none if it is healthy.

    A pause because the broker has no room, and a wait for the worker or a function to take what was received, are no
    faults of the engine's; a poller that only seems to poll is.
    """
    age = time.time() - status["written"]
    if age > STALE_AFTER:
        return [f"the engine (pid {status['pid']}) hangs: it wrote its status {age:.0f} s ago"]
    found = []
    for topic, state in status["topics"].items():
        if state["last_poll"] > status["wait_time"] + POLL_MARGIN and state["doing"] not in _WELL:
            trouble = f": {state['trouble']}" if state["trouble"] else ""
            found.append(f"topic {topic}: the last successful poll was {state['last_poll']:.0f} s ago{trouble}")
        if state["keeping_fails_for"] > KEEPING_MARGIN:
            found.append(
                f"topic {topic}: deletes and extensions have failed for {state['keeping_fails_for']:.0f} s, "
                f"{state['owed']} are owed: {state['keeping_trouble']}"
            )
    return found
