"""The processes that use a local stack: one locked file each."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .locks import is_same_file, open_lock, try_lock
from .paths import StackPaths


@dataclass(frozen=True)
class StackUser:
    """This process as a user of a stack: a file in ``users/``, locked for as long as ``fd`` is open."""

    name: str
    fd: int
    path: Path

    @classmethod
    def register(cls, paths: StackPaths) -> StackUser:
        """Create this process's file."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        hidden = paths.users / f".{name}"
        fd = open_lock(hidden)
        try_lock(fd)
        # Locked before it becomes visible: a visible file without a lock belongs to a process that has ended.
        path = hidden.rename(paths.users / name)
        return cls(name, fd, path)

    def is_registered(self) -> bool:
        """Return True if the file still exists."""
        return is_same_file(self.fd, self.path)

    def unregister(self) -> None:
        """Release the lock. The guardian removes the file."""
        os.close(self.fd)


def collect_users(paths: StackPaths) -> tuple[set[str], set[str]]:
    """Return the names of the users that run and of those that have ended. Remove the files of the latter."""
    living: set[str] = set()
    ended: set[str] = set()
    try:
        files = [file for file in paths.users.iterdir() if not file.name.startswith(".")]
    except FileNotFoundError:
        return living, ended
    for file in files:
        fd = os.open(file, os.O_RDWR)
        try:
            if try_lock(fd):
                file.unlink()
                ended.add(file.name)
            else:
                living.add(file.name)
        finally:
            os.close(fd)
    return living, ended
