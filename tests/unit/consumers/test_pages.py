"""The pages on retrying and on functions: their code runs, and does what they say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from balog_celery.settings import Settings
from balog_celery.testing import ConsumerHarness
from sample_events import event_text

DOCS = Path(__file__).parents[3] / "docs"


def code(page: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports the code of a page as a module."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(page: str) -> ModuleType:
        (tmp_path / "page_code.py").write_text(code(page))
        return __import__("page_code")

    yield load
    sys.modules.pop("page_code", None)


def test_the_page_on_retrying(load: Any) -> None:
    """Retries, by both ways; what gives up and what drops; the app's context."""
    # Given
    page = load("retrying.md")
    events, asked = ConsumerHarness(page), []

    def ask_the_bank(order: Any) -> None:
        asked.append(order)
        if len(asked) < 3:
            raise ConnectionError("busy")

    page.ask_the_bank = ask_the_bank
    # When, then
    assert len(events.feed(event_text("LG1", "order.paid", order=7))[page.charge].retries) == 2
    asked.clear()
    run = events.feed(event_text("LG2", "order.shipped", order=7))[page.notify]
    assert (run.state, [retry.when for retry in run.retries]) == ("SUCCESS", [10, 20])
    report = events.feed(event_text("LG3", "order.refunded", amount=-1), throw=False)
    assert ("negative" in report.dead_letters[0].error, len(report[page.refund].retries)) == (True, 0)
    report = events.feed(event_text("LG4", "order.viewed", robot=True))
    assert (report[page.count].state, report.dead_letters) == ("IGNORED", [])
    assert events.feed(event_text("LG5", "order.placed"))[page.place].result == "shop"


def test_the_page_on_functions(load: Any) -> None:
    """An existing task, the message, concurrent events, middleware; the setting is one."""
    # Given
    page = load("functions.md")
    events = ConsumerHarness(page, middleware=page.TenantContext)
    # When, then
    assert events.feed(event_text("LG1", "upload.done", key="a"), topic="uploads")[page.resize].result == "a at 100"
    assert events.feed(event_text("LG2", "upload.failed"), topic="uploads")[page.report].result == (None, 1)
    pages = [event_text(f"LG{number}", "page.changed", url="u") for number in range(5)]
    assert events.feed(*pages, topic="pages")[page.fetch].state == "SUCCESS"
    clicks = events.feed(*[event_text(f"LG{number}", "click", page="p") for number in range(5)], topic="clicks")
    assert (len(clicks[page.count_click].events), clicks[page.count_click].state) == (5, "SUCCESS")
    assert Settings.from_conf({"balog_routes": page.balog_routes}).routes == page.balog_routes
    page.event_dead.send("orders", reason="failed", consumer="shop.charge", error="no", body="")
    assert page.alerts == ["shop.charge on orders: failed, no"]
