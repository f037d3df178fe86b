"""The table on the page of versions: what of Celery works for consumers, by way to the worker and by broker.

``tests/integration/test_compatibility_*.py`` try the features with real workers, and compare what they saw with the
page. To write what they saw into the page: ``UPDATE_COMPATIBILITY=1 pytest tests/integration/test_compatibility_*.py``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compatibility_rows import BY_HAND, COLUMNS, NOT_TRIED, ROWS, SHOWN_BY

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
HEAD = f"| | feature | {' | '.join(COLUMNS)} |"
NO_ANSWER = "not tried"
TRIED = "by hand"
LIST_HEAD = "Other tests show these rows:"
REST_HEAD = "Not tried:"


@dataclass
class Table:
    """The cells of the table, by feature and column.

    :param cells: ``yes`` or ``no`` and why.
    """

    cells: dict[str, dict[str, str]] = field(default_factory=dict)

    def column(self, column: str) -> dict[str, str]:
        """Return the cells of the features that the tests of the table try in a column."""
        return {
            feature: cells[column]
            for feature, cells in self.cells.items()
            if column in cells and column not in shown_elsewhere(feature)
        }

    def replace(self, column: str, seen: Mapping[str, str]) -> None:
        """Take what was seen in a column."""
        for cells in self.cells.values():
            cells.pop(column, None)
        for feature, cell in seen.items():
            self.cells.setdefault(feature, {})[column] = cell

    def markdown(self) -> str:
        """Return the table, the tests that show rows of it, and what is not tried."""
        lines = [HEAD, f"| --- | --- |{' --- |' * len(COLUMNS)}"]
        for group, features in ROWS.items():
            for feature in features:
                cells = {**self.cells.get(plain(feature), {}), **shown_elsewhere(plain(feature))}
                shown = " | ".join(cells.get(column, NO_ANSWER) for column in COLUMNS)
                lines.append(f"| {group} | {feature} | {shown} |")
        lines += ["", LIST_HEAD, ""]
        for group, features in ROWS.items():
            for feature in features:
                tests = dict.fromkeys(SHOWN_BY.get(plain(feature), {}).values())
                lines += [f"- {group}, {feature}: {', '.join(f'`{test}`' for test in tests)}"] if tests else []
        return "\n".join([*lines, "", REST_HEAD, "", *(f"- {group}: {names}" for group, names in NOT_TRIED.items())])


def plain(feature: str) -> str:
    """Return the name of a feature without marks of code."""
    return feature.replace("`", "")


def shown_elsewhere(feature: str) -> dict[str, str]:
    """Return the cells of a feature that the tests of the table do not fill, by column."""
    return {**dict.fromkeys(BY_HAND.get(feature, []), TRIED), **dict.fromkeys(SHOWN_BY.get(feature, {}), "yes")}


def read(page: str) -> Table:
    """Read the table of a page."""
    table = Table()
    for line in page.partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]:
        _, _, feature, *cells = (cell.strip() for cell in line.strip().removesuffix("|").split("|"))
        table.cells[plain(feature)] = {
            column: cell for column, cell in zip(COLUMNS, cells, strict=True) if cell != NO_ANSWER
        }
    return table


def page_with_table(page: str, table: Table) -> str:
    """Return the text of the *page* with another table, down to the next heading."""
    before, _, rest = page.partition(HEAD)
    _, heading, after = rest.partition("\n## ")
    return f"{before}{table.markdown()}\n{heading}{after}"


def differences(column: str, seen: Mapping[str, str]) -> list[str]:
    """Return where the page differs from what was seen in a column; if asked to, write it into the page first."""
    if os.environ.get("UPDATE_COMPATIBILITY"):
        with PAGE.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the columns are tried by several processes
            page = file.read()
            table = read(page)
            table.replace(column, seen)
            file.seek(0)
            file.truncate()
            file.write(page_with_table(page, table))
    written = read(PAGE.read_text()).column(column)
    return [
        f"{feature}: the page says {written.get(feature, 'nothing')!r}, the worker {seen.get(feature, 'nothing')!r}"
        for feature in sorted({*written, *seen})
        if written.get(feature) != seen.get(feature)
    ]
