"""What commands print: tables, JSON, and how far they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, as wide as what is in it."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for number, row in enumerate((headings, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(line if number else click.style(line, bold=True))


def document(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2))


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show how far long work is, on stderr if that is a terminal; call what this gives with each number done.

    :param length: how much there is to do, as far as is known.
    """
    if not sys.stderr.isatty() or not length:
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
