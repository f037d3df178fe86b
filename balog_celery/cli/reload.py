"""``balog up --reload``: the worker starts again when a Python file of the project changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from ..errors import ConfigurationError
from ..text import printable

#: The time between two looks at the worker, in milliseconds.
_LOOK_MS = 500


class WorkerProcess:
    """A worker as a child process. Signal handlers may call :meth:`stop`.

    :param argv: its command line.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Run the worker to its end, and return its exit code."""
        self._start()
        return self._wait()

    def run_with(self, changes: Iterator[Sequence[str]]) -> int:
        """Run the worker, and start it again at each change. Return the exit code of the last one.

        A worker is told to stop as by SIGTERM: it finishes its tasks, and its engine releases what it holds. The next
        one starts when it has ended. After a worker that has ended by itself, the next change starts another.

        :param changes: yields the names of changed files; without names, it only lets this look at the worker. It ends
            after :meth:`is_set` is true.
        """
        next(changes)  # from now on, no change is missed
        self._start()
        has_ended = False
        for names in changes:
            if names:
                click.echo(f"{printable(', '.join(names))} changed: restarting the worker", err=True)
                self._terminate()
                self._wait()
                self._start()
                has_ended = False
            elif not has_ended and self._process is not None and (code := self._process.poll()) is not None:
                has_ended = True
                click.echo(f"the worker ended with exit code {code}: waiting for a change", err=True)
        return self._wait()

    def stop(self) -> None:
        """Start no other worker. Ctrl-C reaches the worker itself, because it is in the same process group."""
        self._stopping = True

    def terminate(self) -> None:
        """Stop the worker, and start no other."""
        self.stop()
        self._terminate()

    def is_set(self) -> bool:
        """Return whether no other worker is to be started: the method of an event that watchfiles calls."""
        return self._stopping

    def _start(self) -> None:
        if not self._stopping:
            self._process = subprocess.Popen(self._argv)
            if self._stopping:  # a signal has come meanwhile
                self._terminate()

    def _terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def _wait(self) -> int:
        while self._process is not None:
            try:
                return self._process.wait()
            except KeyboardInterrupt:
                continue  # a second Ctrl-C, which the worker has as well: it ends at once
        return 0


def python_changes(stop: WorkerProcess) -> Iterator[Sequence[str]]:
    """Yield the names of changed Python files in this folder and those below, about twice a second, also if none has.

    :param stop: ends the iteration when its ``is_set`` is true.
    :raises ConfigurationError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise ConfigurationError("--reload needs watchfiles: pip install 'balog_celery[reload]'") from error
    folder = Path.cwd()
    found = watch(
        folder,
        watch_filter=PythonFilter(),
        stop_event=stop,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    return (sorted({os.path.relpath(path, folder) for _, path in changes}) for changes in found)
