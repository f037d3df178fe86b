"""The status of an engine or a relay: its file, which other processes read, and the rules of health checks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .outage import Outage

#: How often an engine writes its status, in seconds.
INTERVAL = 2.0
#: The age from which a status means that the engine hangs, in seconds.
STALE_AFTER = 15.0
#: How much longer than ``wait_time`` a receive may take before the poller counts as hanging, in seconds.
POLL_MARGIN = 35.0
#: How long a topic may be paused, or calls may fail, before that is a problem, in seconds: it shows within a minute, as
#: a status is a few seconds old. Calls have less time if the visibility timeout is shorter.
MARGIN = 55.0
#: The shortest such time, in seconds.
_SHORTEST_MARGIN = 10.0
#: What a poller may do for any time; a pause is judged by its reason.
_WELL = ("paused", "dispatching")
#: The subject of an outage's problem, by its name.
_FAILS = {
    "delete": "deletes have",
    "return": "releases have",
    "extend": "extensions of visibility have",
    "dispatch": "dispatching has",
}


def status_folders(given: str | None) -> list[Path]:
    """Return the folders in which status files may be, the best first: a process may lack the login's environment.

    :param given: the setting ``balog_status_dir``.
    :raises OSError: none can be created, or each belongs to another user, or other users can write to it.
    """
    if given:
        return [_own_folder(Path(given))]
    found, failed = list[Path](), list[OSError]()
    for make in (_runtime_folder, _temporary_folder):
        try:
            found += make()
        except OSError as error:
            failed.append(error)
    if not found:
        raise failed[-1]
    return found


def _runtime_folder() -> list[Path]:
    """Return the folder in this login's own one; none without a login, as in a container or after ``su``."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime or not Path(runtime).is_dir():
        return []
    # Who owns it can replace what is in it.
    return [_own_folder(_own_folder(Path(runtime)) / "balog-celery")]


def _temporary_folder() -> list[Path]:
    return [_own_folder(Path(tempfile.gettempdir()) / f"balog-celery-{os.getuid()}")]


def _own_folder(folder: Path) -> Path:
    """Return *folder*, which is created for this user only if it does not exist.

    :raises OSError: it cannot be created, belongs to another user, or other users can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(f"{folder} is not a folder of this user's")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"other users can write to {folder}, and could forge the status of an engine: chmod go-w it")
    return folder


class StatusFile:
    """The status of one process, an engine or a relay, on disk for as long as it runs.

    A lock beside it shows whether the process runs: the kernel releases it, and may give a process id to another.

    A status that cannot be written, because the disk is full or the folder unusable, does not stop the process.

    :param open_folder: returns the folder, or raises OSError; see :func:`status_folders`.
    :param app: the identity of the process's app.
    :param kind: ``"engine"`` or ``"relay"``.
    """

    def __init__(self, open_folder: Callable[[], Path], app: str, kind: str = "engine") -> None:
        self._open_folder = open_folder
        self._kind = kind
        self._path: Path | None = None
        self._app = app
        self._next = 0.0
        self._outage = Outage(f"writing the {kind}'s status, which `balog health` reads,")
        self._lock = -1

    def write(self, status: Mapping[str, Any], *, now: bool = False) -> None:
        """Write *status* if the last write was :data:`INTERVAL` ago, or *now*. A failure is logged once."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        about = {"app": self._app, **this_process(), "written": time.time()}
        document = {**status, **about}
        try:
            path = self._path = self._path or self._open_folder() / _file_name(self._kind)
            self._hold_lock(_lock_path(path))
            part = path.with_suffix(".part")
            part.write_text(json.dumps(document))
            part.replace(path)
        except OSError as error:
            self._outage.failed(error)
            # Not updated from now on, it would look like that of a hung engine, which is killed.
            self.remove()
            self._path = None  # the folder of a login goes with it
        else:
            self._outage.succeeded()

    def _unlink(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _hold_lock(self, path: Path) -> None:
        """Lock the file beside the status, again if it was deleted: a status without a locked file counts as ended."""
        if self._lock >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), path.stat()):
                    return
            os.close(self._lock)
            self._lock = -1
        self._lock = _lock(path)

    def remove(self) -> None:
        """Remove the status of a process that has stopped."""
        self._unlink()
        if self._path is not None and self._lock >= 0:
            with contextlib.suppress(OSError):
                _lock_path(self._path).unlink()
            os.close(self._lock)
            self._lock = -1


def _file_name(kind: str) -> str:
    """Return a name that no other process has: containers that share a folder have the same process ids."""
    return f"{kind}-{os.getpid()}-{secrets.token_hex(4)}.json"


def this_process() -> dict[str, Any]:
    """Return what tells this process apart from others, as a status has it: a container counts process ids anew."""
    namespace = 0
    with contextlib.suppress(OSError):  # only Linux has them
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return {"host": socket.gethostname(), "namespace": namespace, "pid": os.getpid()}


def is_of(status: Mapping[str, Any], pid: int | None) -> bool:
    """Return whether *status* is that of the engine with this process id, as this process counts them."""
    this = {**this_process(), "pid": pid}
    return all(status.get(name, value) == value for name, value in this.items())


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> int:
    """Lock a file until its descriptor is closed, and return that."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)  # a reader holds it for an instant only
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        os.close(fd)  # a reader has removed it: it was that of a process that has ended


def _remove_if_ended(path: Path) -> bool:
    """Remove the status at *path*, and return True, if its process has ended."""
    lock = _lock_path(path)
    try:
        fd = os.open(lock, os.O_RDONLY)
    except OSError:
        path.unlink(missing_ok=True)
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def read_statuses(folders: Iterable[Path], app: str, kind: str = "engine") -> Iterator[dict[str, Any]]:
    """Yield the status of each engine, or relay, of *app* that runs. Remove the files of those that have ended.

    :param app: an identity, or its first parts.
    """
    for path in sorted(path for folder in folders for path in folder.glob(f"{kind}-*.json")):
        try:
            if _remove_if_ended(path):
                continue
            status: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if f"{status.get('app')}-".startswith(f"{app}-"):
            yield status


def together(pollers: Sequence[Mapping[str, Any]], extender: Mapping[str, Any], wait_time: float) -> dict[str, Any]:
    """The status of a topic: that of its worst poller, with the longest outages and the sums of counts.

    :param pollers: the status of each poller, at least one.
    :param extender: the status of its visibility extender.
    :param wait_time: the duration of a long poll, in seconds.
    """
    worst = max(
        pollers,
        key=lambda state: (bool(_poller_problem(state, wait_time)), state["doing"] not in _WELL, state["last_poll"]),
    )
    outages: dict[str, Any] = {}
    for state in (*pollers, extender):
        for name, outage in state["outages"].items():
            outages[name] = max(outages.get(name, outage), outage, key=lambda one: float(one["fails_for"]))
    return {
        **worst,
        "owed": sum(state["owed"] for state in pollers),
        "held": sum(state["held"] for state in pollers),
        **{name: value for name, value in extender.items() if name != "outages"},
        "outages": outages,
    }


def problems(status: Mapping[str, Any]) -> list[str]:
    """The problems of an engine or a relay, one line each; none if it is healthy.

    While consumers are busy, pollers may be paused, or wait for the worker to take jobs, for any time. Any other pause,
    and any outage, is a problem within a minute.
    """
    age = time.time() - status["written"]
    who = "outbox relay" if "outbox" in status else "engine"
    if age > STALE_AFTER:
        return [f"the {who} (pid {status['pid']}) hangs: it wrote its status {age:.0f} s ago"]
    if "outbox" in status:
        return _relay_problems(status)
    found = []
    for topic, state in status["topics"].items():
        if problem := _poller_problem(state, status["wait_time"]):
            found.append(f"topic {topic}: {problem}")
        margin = min(MARGIN, max(state["visibility"], _SHORTEST_MARGIN))
        found += [
            f"topic {topic}: {_FAILS[name]} failed for {outage['fails_for']:.0f} s "
            f"({state['in_flight']} messages in flight, {state['owed']} to delete or release): {outage['error']}"
            for name, outage in state["outages"].items()
            if outage["fails_for"] > margin
        ]
    return found


def _relay_problems(status: Mapping[str, Any]) -> list[str]:
    waiting = sum(topic["waiting"] for topic in status["outbox"].values())
    found = [
        f"{what} has failed for {outage['fails_for']:.0f} s ({waiting} rows wait): {outage['error']}"
        for what, outage in status["outages"].items()
        if outage["fails_for"] > MARGIN
    ]
    if status["busy_for"] > MARGIN:
        found.append(f"the outbox relay (pid {status['pid']}) hangs: a step has taken {status['busy_for']:.0f} s")
    return found


def _poller_problem(state: Mapping[str, Any], wait_time: float) -> str:
    """The problem of a poller; "" if it has none."""
    if state["doing"] == "paused":
        if state["back_pressure"] or state["doing_for"] <= MARGIN:
            return ""
        return f"nothing has been received for {state['doing_for']:.0f} s: {state['reason']}"
    if state["doing"] in _WELL or state["last_poll"] <= wait_time + POLL_MARGIN:
        return ""
    trouble = f": {state['trouble']}" if state["trouble"] else ""
    return f"the last successful poll was {state['last_poll']:.0f} s ago{trouble}"
