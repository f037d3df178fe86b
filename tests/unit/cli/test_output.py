"""The output of commands, on terminals of any width and in pipes."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

ROW = ("shop.events.archive_everything", "myproj-orders-production-eu-west-1", "", "KeyError('order'), " * 8)

TABLE = f"""
from balog_celery.cli import output
output.table(("TASK", "TOPIC", "NOTHING", "ERROR"), [{ROW!r}] * 2)
"""

HEALTH = """
from balog_celery.cli import output
from balog_celery.cli.health import described

lag = {"emitted": {"last": 28722693.2, "max": 28722693.2}}
state = {"doing": "polling", "reason": "", "last_poll": 1, "in_flight": 0, "oldest": 0, "owed": 1, "paused": []}
state["lag"] = lag
output.paragraph(described(7, "orders", state))
"""

PROGRESS = """
from balog_celery.cli import output
with output.progress(400, "sending") as advance:
    for _ in range(40):
        advance(10)
"""


def on_terminal(code: str, width: int) -> str:
    """Run *code* on a terminal of that width, and return what it shows."""
    main, other = pty.openpty()
    ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    program = subprocess.Popen([sys.executable, "-c", code], stdin=other, stdout=other, stderr=other, env=env)
    os.close(other)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # as Linux says that the other end is closed
        pass
    finally:
        os.close(main)
        assert program.wait(30) == 0
    return shown.decode()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_is_never_wider_than_the_terminal(width: int) -> None:
    """A table that does not fit into the terminal is printed as a block of lines for each row, with all values."""
    lines = on_terminal(TABLE, width).replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    assert all(text.count("".join(cell.split())) == 2 for cell in ROW if cell)


def test_a_cell_cannot_forge_a_line() -> None:
    """Characters that a terminal would obey are escaped, whatever the column."""
    code = (
        f"from balog_celery.cli import output\noutput.table(('A', 'B'), [{(chr(27) + '[2J', 'x' + chr(10) + 'y')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert [line.split() for line in done.stdout.splitlines()] == [["A", "B"], ["\\x1b[2J", "x\\ny"]]


def test_health_is_told_in_short_lines_and_words() -> None:
    """The line about a topic is wrapped to the terminal, has no plural of one, and durations that people can read."""
    lines = on_terminal(HEALTH, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines) == (
        "engine 7, topic orders: polling, polled 1.0 s ago, 0 in flight, 1 delete pending, "
        "the last event emitted 332 d before it was received (at most 332 d)"
    )


def test_a_table_that_is_piped_has_a_line_for_each_row() -> None:
    """A table in a pipe has one line for each row, however wide it is."""
    done = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=True, timeout=30)
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["TASK", "TOPIC", "NOTHING", "ERROR"]
    assert len(rows) == 2


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_progress_bar_stays_in_its_line(width: int) -> None:
    """A progress bar fits into one line of a terminal of any width."""
    shown = on_terminal(PROGRESS, width)
    assert shown.count("\n") <= 1
    assert all(len(part.replace("\x1b[?25l", "").replace("\x1b[?25h", "")) <= width for part in shown.split("\r"))
