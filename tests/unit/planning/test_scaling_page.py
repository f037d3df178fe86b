"""The page on scaling says what the simulation says today. To write it anew: ``python tests/scaling_page.py``."""

from __future__ import annotations

import re

import scaling_page

PAGE = scaling_page.PAGE.read_text()


def test_the_answer_on_the_page_is_that_of_the_command() -> None:
    """The command that begins the page prints what the page shows."""
    assert f"{scaling_page.COMMAND}\n\n{scaling_page.answer()}\n" in PAGE, "run python tests/scaling_page.py"


def test_the_table_is_made_from_the_simulation() -> None:
    """A row of the table is that of a plan made now, and the table has each function at each distance."""
    assert scaling_page.row(0.1, 0.05) in PAGE.splitlines(), "run python tests/scaling_page.py"
    rows = re.findall(r"^\| (\d+) ms \| (\d+) ms \|", PAGE, re.MULTILINE)
    wanted = [(int(s * 1000), int(d * 1000)) for s in scaling_page.SECONDS for d in scaling_page.DISTANCES]
    assert [(int(seconds), int(distance)) for seconds, distance in rows] == wanted


def test_the_table_of_ways_is_made_from_the_simulation() -> None:
    """Two rows of the second table are those of plans made now, and it has a row for each way of events."""
    lines = PAGE.splitlines()
    assert {scaling_page.way_row(*scaling_page.WAYS[number]) for number in (3, 5)} <= set(lines), (
        "run python tests/scaling_page.py"
    )
    head = lines.index(scaling_page.WAYS_HEAD)
    assert lines[head + 2 + len(scaling_page.WAYS)] == ""


def test_the_plot_is_made_from_the_simulation() -> None:
    """A point of the plot has the numbers of a simulation made now."""
    size, most = scaling_page.throughput(0.01, sizes=(16,))[0]
    assert f"<title>{size}: {most:,.0f} events/s</title>" in scaling_page.PLOT.read_text()
