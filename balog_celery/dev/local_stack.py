"""The local stack, for trying things out and for development: a private Valkey as the broker and a local SQS.

A process that needs it calls :func:`hold`; a process that only looks calls :func:`find`. Everything is in one folder,
``.balog/``::

    local.json      the addresses of the running stack; written when it answers, removed when it ends
    local.log       the log of its processes
    users/          one file for each process that holds the stack, locked by it
    start.lock      held while a process starts the stack, and by a stack that ends
    guardian.lock   held by the guardian for as long as it runs
    sqs.port        the previous port of the SQS, so that it gets the same one the next time
    valkey.sock     the broker's socket; elsewhere if the folder's path is too long for a socket
    appendonlydir/  the broker's data

A **guardian** process (:mod:`.guardian`) owns the servers: Valkey is its child, SQS runs in its threads. It has its own
session, so Ctrl-C does not reach it. It ends when the last user has ended, however that ended: the kernel releases a
process's locks. A user's file without a lock shows that its process has ended; the guardian then puts the tasks that
process had not acknowledged back on their queues.

The broker's data is kept on disk. **Queues of the local SQS are in memory** and are gone when the stack ends. Only this
machine can connect to either, and only this user to the broker; any user of this machine can use the local SQS.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BalogError, ConfigurationError
from ..forks import run_in_child
from .guardian import START_TIMEOUT
from .locks import exclusive, is_locked
from .paths import StackPaths
from .transport import own_keys
from .users import StackUser
from .valkey import INSTALL, valkey_binary

#: The log is emptied at the next start when it is larger than this, in bytes.
_MAX_LOG_BYTES = 1_000_000


@dataclass(frozen=True)
class LocalStack:
    """A running local stack.

    :param broker_url: the value for Celery's ``broker_url``.
    :param endpoint_url: the endpoint of the local SQS.
    :param pid: the process id of its guardian.
    :param state_dir: its folder.
    """

    broker_url: str
    endpoint_url: str
    pid: int
    state_dir: Path


def available() -> str | None:
    """Return why the local stack cannot run here and how to mend it, or None if it can run."""
    missing = [name for name in ("flask", "flask_cors", "moto", "redis") if importlib.util.find_spec(name) is None]
    if valkey_binary() is None:
        missing.append("a Valkey or Redis server")
    return f"the local stack needs {', '.join(missing)}: {INSTALL}" if missing else None


def broker_url(state_dir: str | Path) -> str:
    """Return the address of the local broker of a folder, whether it runs or not.

    :param state_dir: the folder, ``.balog``.
    """
    return StackPaths(state_dir).broker_url


def find(state_dir: str | Path) -> LocalStack | None:
    """Return the running stack of a folder, or None. It may end at any time.

    :param state_dir: the folder, ``.balog``.
    """
    paths = StackPaths(state_dir)
    try:
        info = json.loads(paths.info.read_bytes())
        stack = LocalStack(str(info["broker_url"]), str(info["endpoint_url"]), int(info["pid"]), paths.state_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stack if is_locked(paths.guardian_lock) else None


def hold(state_dir: str | Path) -> LocalStack:
    """Use the stack of a folder: start it if needed, and keep it until this process ends or releases it.

    Calling it again is cheap, and restarts a stack that was killed. A forked child does not hold the stacks of its
    parent.

    :param state_dir: the folder, ``.balog``; created, for this user only, if it does not exist.
    :returns: the stack, which answers.
    :raises ConfigurationError: a package is missing, or the folder cannot be used.
    :raises BalogError: the stack did not start in time; the message ends with the last lines of its log.
    """
    reason = available()
    if reason:
        raise ConfigurationError(reason)
    paths = StackPaths(state_dir)
    deadline = time.monotonic() + START_TIMEOUT
    with _users_mutex:
        paths.create_folders()
        with exclusive(paths.start_lock, deadline):
            user = _users.get(paths.state_dir)
            if user is None or not user.is_registered():
                release(state_dir)
                user = _users[paths.state_dir] = StackUser.register(paths)
            try:
                return find(state_dir) or _start(paths, deadline)
            except BaseException:
                release(state_dir)
                raise


def release(state_dir: str | Path) -> None:
    """Stop using the stack. It ends about a second after its last user. Does nothing if it was not held.

    :param state_dir: the folder, ``.balog``.
    """
    with _users_mutex:
        user = _users.pop(StackPaths(state_dir).state_dir, None)
        if user is not None:
            user.unregister()


def consumer_options(state_dir: str | Path) -> dict[str, Any]:
    """Return the transport options that a process which holds the stack and consumes tasks needs in addition.

    They keep its unacknowledged tasks under its own name, so that the guardian restores them as soon as the process
    has ended, even while other workers run. Without them, tasks are restored at the next start of the stack.

    :param state_dir: the folder, ``.balog``.
    :raises RuntimeError: this process does not hold the stack.
    """
    with _users_mutex:
        user = _users.get(StackPaths(state_dir).state_dir)
    if user is None:
        raise RuntimeError(f"this process does not hold the local stack in {state_dir}: call hold() first")
    return own_keys(user.name)


_users: dict[Path, StackUser] = {}
_users_mutex = threading.RLock()


def _forget_after_fork() -> None:
    global _users_mutex
    _users_mutex = threading.RLock()
    for user in _users.values():
        user.unregister()
    _users.clear()


run_in_child(_forget_after_fork)


def _start(paths: StackPaths, deadline: float) -> LocalStack:
    """Run the guardian's command, which returns when the stack answers."""
    big = paths.log.exists() and paths.log.stat().st_size > _MAX_LOG_BYTES
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if big else os.O_APPEND)
    log = os.open(paths.log, flags, 0o600)
    why = "it ended"
    try:
        subprocess.run(
            [sys.executable, "-m", f"{__package__}.guardian", str(paths.state_dir)],
            # Python searches the current folder first: keep it away from the user's own modules.
            cwd=paths.state_dir,
            env=_guardian_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=True,
            timeout=max(0.1, deadline - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        why = f"it took longer than {START_TIMEOUT:g} s"
    except subprocess.CalledProcessError:
        pass
    except OSError as error:
        why = str(error)
    else:
        stack = find(paths.state_dir)
        if stack is not None:
            return stack
    finally:
        os.close(log)
    raise BalogError(f"the local stack did not start: {why}; the end of {paths.log}:\n{_last_lines(paths.log)}")


def _guardian_environment() -> dict[str, str]:
    # The local SQS is no client of AWS: a profile that does not exist on this machine must not keep it from starting.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment["AWS_CONFIG_FILE"] = environment["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    # A test run that turns warnings into errors must not do so for the servers' packages.
    environment.pop("PYTHONWARNINGS", None)
    # Keep web pages in the user's browser out.
    environment["MOTO_DISABLE_GLOBAL_CORS"] = "true"
    package = Path(__file__).absolute().parents[2]
    if package.name not in ("site-packages", "dist-packages"):
        # A checkout: this process may have found it in the folder that it was started from.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(package)]))
    return environment


def _last_lines(log: Path, count: int = 20) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError as error:
        return f"({error})"
