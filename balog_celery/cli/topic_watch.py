"""``balog topics --watch``: the table of topics stays on the screen, and is renewed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import ConfigurationError
from ..text import count_of, printable
from .output import is_terminal
from .topic_rows import HEADINGS, cells

if TYPE_CHECKING:
    from rich.console import RenderableType

#: The columns that narrow terminals do without, the first to go first.
_DROPPED_FIRST = ("CONSUMERS", "DELAYED", "OLDEST", "IN FLIGHT")
#: The columns that share the width that is left.
_TEXTS = ("TOPIC", "DEAD LETTERS")
#: The least width of a column: of a number, and of a text, in characters.
_NUMBER_WIDTH, _TEXT_WIDTH = 8, 16
#: The lines of the screen that are no rows: the title, the headings with the rule below, and the last line.
_OTHER_LINES = 4

Row = Mapping[str, Any]


def watch_topics(read: Callable[[], Sequence[Row]], interval: float, *, as_json: bool) -> NoReturn:
    """Show the rows that *read* returns, and renew them every *interval* seconds, until Ctrl-C.

    :raises click.UsageError: standard output is not a terminal.
    :raises ConfigurationError: rich is not installed.
    """
    if as_json or not is_terminal(sys.stdout):
        raise click.UsageError("--watch needs a terminal: elsewhere, run `balog topics` or `balog topics --json`")
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise ConfigurationError("--watch needs rich: pip install 'balog_celery[watch]'") from error
    console = Console()
    with Live("reading the queues", console=console, screen=True, auto_refresh=False) as live:
        while True:
            rows = read()
            # The size is that of now: the terminal may have been resized.
            live.update(_screen(rows, console.width, console.height), refresh=True)
            time.sleep(interval)


def _screen(rows: Sequence[Row], width: int, height: int) -> RenderableType:
    """Return as many rows as there is room for: first those with an error, then those with most messages."""
    from rich.table import Table
    from rich.text import Text

    ordered = sorted(rows, key=lambda row: ("error" not in row, -(row.get("waiting") or 0), row["topic"]))
    shown = ordered[: max(height - _OTHER_LINES, 1)]
    hidden = len(rows) - len(shown)
    title = f"{count_of(len(rows), 'topic')} at {time.strftime('%H:%M:%S')}; Ctrl-C ends"
    more = f"{hidden} more, with fewer messages" if hidden else ""
    table = Table(title=title, caption=more, box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.title_justify = table.caption_justify = "left"
    for name in _columns(width, is_paused=any(row["paused"] for row in rows)):
        if name in _TEXTS:
            table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(name, width=_width(name), justify="right", no_wrap=True, overflow="ellipsis")
    for row in shown:
        texts = dict(zip(HEADINGS, cells(row), strict=True))
        if "error" in row:
            texts |= {"TOPIC": f"{row['topic']}: {row['error']}", "WAITING": "?"}
        style = "red" if "error" in row else "yellow" if any(map(_has_letters, row["dead_letters"])) else ""
        # Texts, not markup: a topic may be called [red].
        table.add_row(*(Text(printable(texts[str(column.header)], 500)) for column in table.columns), style=style)
    return table


def _columns(width: int, *, is_paused: bool) -> list[str]:
    """Return the headings of the columns that a terminal of *width* characters has room for.

    :param is_paused: whether something is paused, so that its column is not empty.
    """
    columns = [name for name in HEADINGS if is_paused or name != "PAUSED"]
    for name in _DROPPED_FIRST:
        if sum(map(_width, columns)) + len(columns) - 1 <= width:
            break
        columns.remove(name)
    return columns


def _width(heading: str) -> int:
    return _TEXT_WIDTH if heading in _TEXTS else max(len(heading), _NUMBER_WIDTH)


def _has_letters(found: Row) -> bool:
    return any(found.get(name) for name in ("waiting", "in_flight", "delayed"))
