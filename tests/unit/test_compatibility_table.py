"""The compatibility table on its page: its rows, and the tests that it names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from compatibility_page import HEAD, PAGE, Table, differences, page_with_table, plain, read
from compatibility_rows import COLUMNS, HAND_OFF_REDIS, ROWS, SHOWN_BY

ROOT = Path(__file__).parents[2]
FEATURES = [plain(feature) for features in ROWS.values() for feature in features]


def test_the_page_has_the_rows() -> None:
    """The table, the tests that show rows of it, and what is not tried are on the page."""
    page = PAGE.read_text()
    assert page == page_with_table(page, read(page)), "run the tests of the table with UPDATE_COMPATIBILITY=1"


def test_each_row_has_a_cell() -> None:
    """A feature that no test tries is no row."""
    cells = read(PAGE.read_text()).cells
    assert [feature for feature in FEATURES if not cells.get(feature)] == []
    assert len(FEATURES) == len(set(FEATURES)) >= 60
    assert SHOWN_BY.keys() <= set(FEATURES)


@pytest.mark.parametrize("test", sorted({test for tests in SHOWN_BY.values() for test in tests.values()}))
def test_a_test_that_shows_a_row_exists(test: str) -> None:
    """Renaming or removing it fails here."""
    path, _, name = test.partition("::")
    functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_a_change_of_a_cell_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A yes that becomes a no, a no that becomes a yes, and a feature that is no longer tried."""
    monkeypatch.delenv("UPDATE_COMPATIBILITY", raising=False)
    written = read(PAGE.read_text()).column(HAND_OFF_REDIS)
    assert differences(HAND_OFF_REDIS, written) == []
    works = next(feature for feature, cell in written.items() if cell == "yes")
    assert differences(HAND_OFF_REDIS, {**written, works: "no: broken"}) == [
        f"{works}: the page says 'yes', the worker 'no: broken'"
    ]
    fails = next(feature for feature, cell in written.items() if cell != "yes")
    assert len(differences(HAND_OFF_REDIS, {**written, fails: "yes"})) == 1
    del written[works]
    assert differences(HAND_OFF_REDIS, written) == [f"{works}: the page says 'yes', the worker 'nothing'"]


def test_a_table_is_read_as_it_was_written() -> None:
    """The cells of one column are replaced, and the others stay."""
    table = Table({"prefork": dict.fromkeys(COLUMNS, "yes")})
    table.replace(HAND_OFF_REDIS, {"prefork": "no: broken"})
    page = page_with_table(f"# Page\n\n{HEAD}\n\n## Next\n", table)
    assert read(page).cells["prefork"] == {**dict.fromkeys(COLUMNS, "yes"), HAND_OFF_REDIS: "no: broken"}
    assert page.endswith("\n\n## Next\n")
