"""The documentation: it builds, what it shows can be read, and it asks nobody for anything."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from balog_celery.decoders import DECODERS, find_decoder, reader_of
from balog_celery.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

mkdocs = pytest.importorskip("mkdocs")
yaml = pytest.importorskip("yaml")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def read_ini(text: str) -> None:
    configparser.ConfigParser(interpolation=None).read_string(text)


#: How it is found out whether a block can be read. For HCL there is no reader here.
READERS: dict[str, Any] = {"python": ast.parse, "json": json.loads, "yaml": yaml.safe_load, "ini": read_ini, "hcl": str}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_can_be_read(page: Path) -> None:
    """Python compiles; JSON, YAML and unit files parse. Each block says what it is."""
    assert page.read_text().count("```") == 2 * len(blocks(page))
    for language, text in blocks(page):
        READERS[language](text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    # Not -q: warnings that are not shown do not count.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    """And can be found: strict says so of those that the navigation does not have."""
    names = {path.parent.name for path in site.rglob("index.html")} - {site.name}
    assert {page.stem for page in PAGES} - {"index"} <= names
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or pictures of other hosts: links are all that leads away."""
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\s\">]+|<link\b[^>]*>")
    for page in site.rglob("*.html"):
        for tag in loaded.findall(page.read_text()):
            assert not re.search(r"(?:https?:)?//", tag) or 'rel="canonical"' in tag, f"{page}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_the_settings_table_has_every_setting(site: Path) -> None:
    """With type, default and meaning."""
    page = re.sub(r"<[^>]+>", "", (site / "settings" / "index.html").read_text())
    for name in Settings.model_fields:
        assert f"balog_{name}\n" in page
    assert "publish" in page
    assert "<!-- settings -->" not in page


def test_the_reference_has_the_docstrings(site: Path) -> None:
    """Of functions and classes, with their arguments."""
    page = (site / "reference" / "index.html").read_text()
    for name in ("get_logger", "consumer_config", "SQSEngine", "install", "ConsumerHarness", "DecodeError"):
        assert f"{name}</span>" in page or f"{name}</code>" in page, name
    assert "which schema versions it wants" in page


def test_the_permissions_are_those_of_the_readme() -> None:
    """The policy allows what the README says is needed, and nothing else."""
    (policy,) = [json.loads(text) for language, text in blocks(ROOT / "docs" / "operating.md") if language == "json"]
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    (said,) = re.findall(r"The credentials need (.*?dead-letter queue)", (ROOT / "README.md").read_text(), re.DOTALL)
    assert allowed == set(re.findall(r"sqs:\w+", said))


@pytest.mark.parametrize(
    ("containing", "topic", "body", "ids"),
    [
        ("channel=", "orders", {"kind": "placed", "order": {"id": 7}, "created": "2026-01-01T12:00:00Z"}, ["7"]),
        (
            "partial(",
            "shop-notifications",
            {
                "Type": "Notification",
                "TopicArn": "arn:aws:sns:eu-west-1:123456789012:shop",
                "MessageId": "m",
                "Message": json.dumps({"kind": "placed", "id": "inside"}),
            },
            ["inside"],
        ),
        (
            "def order_lines",
            "",
            {"id": 7, "created": "2026-01-01T12:00:00Z", "lines": [{"sku": "a"}, {"sku": "b"}]},
            ["7-0", "7-1"],
        ),
    ],
)
def test_the_decoders_that_are_shown_decode(containing: str, topic: str, body: Any, ids: list[str]) -> None:
    """Those of the page on event sources, of a body that has what they look for."""
    page = ROOT / "docs" / "event-sources.md"
    (text,) = [text for language, text in blocks(page) if language == "python" and containing in text]
    scope: dict[str, Any] = {}
    exec(text, scope)
    decoder = scope["balog_decoders"][topic] if topic else scope["order_lines"]
    assert [event.header.id for event, _ in reader_of(find_decoder(decoder))(json.dumps(body))] == ids


def test_every_named_decoder_is_in_the_table() -> None:
    """But for the one that knows all of them."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "event-sources.md").read_text(), re.MULTILINE)
    assert set(DECODERS) - {"auto"} == set(rows[: len(DECODERS) - 1])


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """To files that are there, and to headings in them; MkDocs sees to the pages' own."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert any(link.startswith("docs/") for link in links)
    for link in links:
        name, _, heading = link.partition("#")
        if "://" in name:
            continue
        text = (ROOT / name).read_text()
        titles = [
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
        ]
        assert not heading or heading in titles, link
