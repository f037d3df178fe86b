"""Locks that end with their process: POSIX record locks.

``filelock`` would not do. It uses ``flock``, which a forked child keeps: the pool of a killed worker would keep the
worker's lock. It also has no shared mode, so two processes that test a lock would each see the other as its owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import BalogError

#: Time between two attempts to take a lock, in seconds.
RETRY_INTERVAL = 0.02


def open_lock(path: Path) -> int:
    """Open a lock's file, creating it if needed, and return its descriptor. Closing it releases the lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(fd: int, mode: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file, without waiting. Return False if another process holds it."""
    try:
        fcntl.lockf(fd, mode | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return True if another process holds the lock. Never ask for a lock of this process: that would release it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two processes that ask at once do not see each other as the owner.
        return not try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def is_same_file(fd: int, path: Path) -> bool:
    """Return True if *path* still names the file that *fd* is open on. The folder may have been removed."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


@contextlib.contextmanager
def exclusive(path: Path, deadline: float) -> Iterator[None]:
    """Hold a lock for the duration of the block.

    :param deadline: when to stop waiting for it, by the monotonic clock.
    :raises BalogError: another process held it until then.
    """
    fd = open_lock(path)
    try:
        while not try_lock(fd):
            if time.monotonic() > deadline:
                raise BalogError(f"another process has been starting or ending the local stack for long: see {path}")
            time.sleep(RETRY_INTERVAL)
        yield
    finally:
        os.close(fd)
