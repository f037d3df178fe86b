"""What commands print: tables, JSON, counts and progress."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from ..errors import BalogError
from ..text import printable

#: The narrowest column in which the values of a block are wrapped, in characters.
_MIN_WRAP = 20


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. If it is wider than the terminal, print a block of lines for each row instead."""
    rows = [[printable(cell, len(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    if rows and sum(widths) + 2 * (len(widths) - 1) > terminal_width():
        for row in rows:
            _block(headings, row)
        return
    for number, row in enumerate((headings, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        echo(line if number else click.style(line, bold=True))


def _block(headings: Sequence[str], row: Sequence[str]) -> None:
    """Print one row as a line for each value that is not empty, wrapped to the terminal."""
    indent = max(map(len, headings)) + 4
    width = max(terminal_width() - indent, _MIN_WRAP)
    lead = ""
    for heading, cell in zip(headings, row, strict=True):
        if lines := textwrap.wrap(cell, width):
            label = f"{lead}{heading}".ljust(indent)
            echo(click.style(label, bold=True) + f"\n{' ' * indent}".join(lines))
        lead = "  "


def echo(text: str, *, done: str = "") -> None:
    """Print *text* on standard output.

    :param done: what the command has done, for the error: who sees none would do it again.
    :raises BalogError: it cannot be written, as on a full disk. A reader that has gone is click's to handle.
    """
    try:
        click.echo(text)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        _discard_output()
        but = f"{printable(done, 1000)}, but " if done else ""
        raise BalogError(f"{but}standard output cannot be written: {error.strerror}") from error


def _discard_output() -> None:
    """Have the flush at exit write what is left to nowhere: it would fail as well, and change the exit code."""
    with suppress(OSError, ValueError):  # in a test, standard output is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def is_terminal(stream: Any) -> bool:
    """Return whether *stream* is a terminal; it is None if the process was started with it closed."""
    return stream is not None and stream.isatty()


def terminal_width() -> int:
    """Return the width for text, in characters. Output to a file or a pipe is as wide as it needs."""
    if is_terminal(sys.stdout):
        return shutil.get_terminal_size().columns
    return sys.maxsize


def paragraph(text: str) -> None:
    """Print a text, wrapped to the terminal, with its further lines indented."""
    echo("\n".join(textwrap.wrap(text, terminal_width(), subsequent_indent="  ")))


def document(value: Any, *, done: str = "") -> None:
    """Print one JSON document.

    :param done: as of :func:`echo`.
    """
    echo(json.dumps(value, indent=2), done=done)


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr, if that is a terminal. Call the yielded function with each number of items done.

    :param length: how many items there are, as far as is known.
    :param label: a short one: the bar takes the rest of the terminal's width.
    """
    if not is_terminal(sys.stderr) or not length:
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, width=0) as bar:
        yield bar.update
