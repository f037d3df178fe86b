"""The files of a local stack."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ..errors import ConfigurationError

#: The longest path of a unix socket, in bytes: Linux allows 108 and macOS 104, with the final zero.
_SOCKET_PATH_MAX = 100


class StackPaths:
    """Where the files of a stack are.

    :param state_dir: the folder of the stack, ``.balog``.
    """

    def __init__(self, state_dir: str | Path) -> None:
        self.state_dir = Path(os.path.realpath(state_dir))
        self.users = self.state_dir / "users"
        self.info = self.state_dir / "local.json"
        self.log = self.state_dir / "local.log"
        self.port = self.state_dir / "sqs.port"
        self.start_lock = self.state_dir / "start.lock"
        self.guardian_lock = self.state_dir / "guardian.lock"
        self.valkey_pid = self.state_dir / "valkey.pid"
        self.socket = self._socket()
        self.broker_url = f"redis+socket://{self.socket}"

    def _socket(self) -> Path:
        # Some readers of such a URL do not undo its quoting, so a path that needs quoting cannot be used either.
        path = self.state_dir / "valkey.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX and re.fullmatch(r"[A-Za-z0-9/._-]+", str(path)):
            return path
        # tempfile's folder will not do: it depends on the environment, and is long on macOS.
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        return Path(f"/tmp/balog-{os.geteuid()}-{digest}/valkey.sock")

    def create_folders(self) -> None:
        """Create the folders, accessible to this user only.

        :raises ConfigurationError: they cannot be created, or belong to another user.
        """
        _create_private(self.state_dir)
        _create_private(self.users)
        _create_private(self.socket.parent)
        ignore = self.state_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")


def _create_private(folder: Path) -> None:
    advice = "run from a folder of yours, or set a broker and an SQS queue"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Any user may have created it first under /tmp, so check the name itself and not the target of a symlink.
        if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
            raise ConfigurationError(f"the local stack cannot use {folder}, which is not this user's: {advice}")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"the local stack cannot use {folder} ({error.strerror}): {advice}") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see either the old or the new content."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
