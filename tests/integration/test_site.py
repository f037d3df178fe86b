"""The documentation in a browser: contrast, width and length of its pages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium
from documents import ROOT

pytest.importorskip("zensical", reason="Zensical needs Python 3.11 and the extra docs")
pytest.importorskip("selenium")

AXE = (ROOT / "tests" / "data" / "axe" / "axe.min.js").read_text()
WIDTH, HEIGHT = 1440, 1080
#: The most screens that a page may fill.
SCREENS = 10
#: In the dark these stand for all pages: text and code, tables, the API.
IN_THE_DARK = ["index.html", "settings.html", "api-records.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(ROOT / "docs", folder / "docs")
    # Without URLs that a file system does not resolve.
    (folder / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text() + "use_directory_urls: false\n")
    subprocess.run([sys.executable, "-m", "zensical", "build"], cwd=folder, check=True, timeout=150)
    return folder / "site"


@pytest.fixture
def browser(scheme: str, tmp_path: Path) -> Iterator[Any]:
    """A browser whose user prefers a colour scheme."""
    with chromium(tmp_path, WIDTH, HEIGHT) as driver:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.set_script_timeout(60)
        yield driver


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable(scheme: str, site: Path, browser: Any) -> None:
    """Pages have the contrast of WCAG AA, are no wider than the screen, and no longer than ten screens."""
    pages = sorted(site.rglob("*.html")) if scheme == "light" else [site / name for name in IN_THE_DARK]
    faults = []
    for page in pages:
        browser.get(page.as_uri())
        browser.execute_script(AXE)
        rules = "{runOnly: ['color-contrast']}"
        found = browser.execute_async_script(f"axe.run({rules}).then(arguments[arguments.length - 1])")
        faults += [
            (page.name, node["target"], node["failureSummary"]) for one in found["violations"] for node in one["nodes"]
        ]
        wide, high = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        if wide > WIDTH or high > SCREENS * HEIGHT:
            faults.append((page.name, wide, high))
    assert faults == []
