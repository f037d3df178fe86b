"""A program on a terminal, whose screen a test reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyte
from typing_extensions import Self

import servers


class Terminal:
    """A program that runs on a terminal of its own; it is killed at the end of the block.

    :param argv: the program and its arguments.
    :param cwd: the folder to run in.
    :param columns: the width of the terminal.
    :param lines: its height.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, columns: int = 80, lines: int = 24) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        #: All that the program has written.
        self.written = b""
        self._master, slave = pty.openpty()
        self._resize(columns, lines)
        env = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            env.pop(name, None)
        self._process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(20)
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen that are not empty."""
        with self._lock:
            return [text for line in self._screen.display if (text := line.rstrip())]

    def wait_for(self, *texts: str) -> list[str]:
        """Wait until the screen shows all *texts*, and return its lines."""

        def shown() -> list[str]:
            lines = self.lines
            return lines if all(text in "\n".join(lines) for text in texts) else []

        try:
            return servers.wait_until(shown, 60, f"{texts} on the screen")
        except TimeoutError:
            print("\n".join(self.lines))  # shown if the test failed
            raise

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._resize(columns, lines)

    def interrupt(self, timeout: float = 60.0) -> int:
        """Press Ctrl-C, and return the exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self._process.wait(timeout)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the program has ended
            while content := os.read(self._master, 65536):
                with self._lock:
                    self.written += content
                    self._stream.feed(content)
