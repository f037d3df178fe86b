"""The documentation: it builds, its examples are valid, and its pages load nothing from other hosts."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from balog_celery.consumers import ConsumerHub
from balog_celery.events.decoders import DECODERS, find_decoder, reader_of
from balog_celery.events.records import as_event
from balog_celery.settings import PREFIX, Settings
from balog_celery.sqs.messages import Message
from balog_celery.testing import ConsumerHarness
from settings_page import PAGE as SETTINGS_PAGE
from settings_page import page_with_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

pytest.importorskip("zensical", reason="Zensical needs Python 3.11 and the extra docs")
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
    """Each block names its language, and Python, JSON, YAML and unit files can be parsed."""
    assert page.read_text().count("```") == 2 * len(blocks(page))
    for language, text in blocks(page):
        READERS[language](text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_built(site: Path) -> None:
    """Every page is built and is in the navigation."""
    names = {path.parent.name for path in site.rglob("index.html")} - {site.name}
    assert {page.stem for page in PAGES} - {"index"} <= names
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Pages load no fonts, scripts, styles or pictures from other hosts."""
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\s\">]+|<link\b[^>]*>")
    for page in site.rglob("*.html"):
        for tag in loaded.findall(page.read_text()):
            assert not re.search(r"(?:https?:)?//", tag) or 'rel="canonical"' in tag, f"{page}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_the_settings_table_has_every_setting(site: Path) -> None:
    """The settings table is the one that the settings make, and each setting has an anchor."""
    assert SETTINGS_PAGE.read_text() == page_with_table(SETTINGS_PAGE.read_text()), "run python tests/settings_page.py"
    page = (site / "settings" / "index.html").read_text()
    for name in Settings.model_fields:
        assert f'id="{PREFIX}{name}"' in page


def test_the_reference_has_the_docstrings(site: Path) -> None:
    """The reference has the docstrings of functions and classes, with their arguments."""
    page = "".join(file.read_text() for file in site.glob("api-*/index.html"))
    for name in ("get_logger", "consumer_config", "SQSEngine", "install", "ConsumerHarness", "DecodeError"):
        assert f"{name}</span>" in page or f"{name}</code>" in page, name
    assert "which schema versions it wants" in page


def test_the_permissions_are_those_of_the_readme() -> None:
    """The policy allows exactly the permissions that the README lists."""
    (policy,) = [json.loads(text) for language, text in blocks(ROOT / "docs" / "operating.md") if language == "json"]
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    (said,) = re.findall(r"The credentials need (.*?dead-letter queue)", (ROOT / "README.md").read_text(), re.DOTALL)
    assert allowed == set(re.findall(r"sqs:\w+", said))


@pytest.mark.parametrize(
    ("containing", "topic", "body", "ids"),
    [
        (
            'channel="shop"',
            "orders",
            {"kind": "placed", "order": {"id": 7}, "created": "2026-01-01T12:00:00Z"},
            ["placed 7"],
        ),
        (
            "partial(",
            "shop-notifications",
            {
                "Type": "Notification",
                "TopicArn": "arn:aws:sns:eu-west-1:123456789012:shop",
                "MessageId": "m",
                "Message": json.dumps({"kind": "placed", "id": "inside"}),
            },
            ["placed inside"],
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
    """The decoders on the page on event sources decode suitable bodies."""
    page = ROOT / "docs" / "event-sources.md"
    (text,) = [text for language, text in blocks(page) if language == "python" and containing in text]
    scope: dict[str, Any] = {}
    exec(text, scope)
    decoder = scope["balog_decoders"][topic] if topic else scope["order_lines"]
    assert [event.header.id for event, _ in reader_of(find_decoder(decoder))(json.dumps(body))] == ids


def test_the_decoder_that_takes_the_message_decodes() -> None:
    """The page's decoder that takes a message decodes one."""
    page = ROOT / "docs" / "event-sources.md"
    (text,) = [text for language, text in blocks(page) if language == "python" and "def by_type" in text]
    scope: dict[str, Any] = {}
    exec(text, scope)
    message = Message('{"n": 1}', "handle", "m-1", 0.0, sent=1000, attributes={"type": "placed"})
    ((event, _),) = reader_of(scope["by_type"], "orders")(message)
    assert (event.payload.cls_type, event.header.id, event.header.channel) == ("placed", "m-1", "orders")


def test_the_patterns_that_are_shown_are_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumers of the page on event sources can be declared."""
    page = ROOT / "docs" / "event-sources.md"
    (text,) = [text for language, text in blocks(page) if language == "python" and "where=" in text]
    module = ModuleType("shown_patterns")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(text, module.__dict__)
    hub = ConsumerHub()
    hub.scan(module)
    assert sorted(str(consumer.name) for consumer in hub) == ["make_thumbnail", "started"]
    assert all(consumer.pattern is not None for consumer in hub)


def test_every_named_decoder_is_in_the_table() -> None:
    """Every named decoder but ``auto`` is in the table."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "event-sources.md").read_text(), re.MULTILINE)
    assert set(DECODERS) - {"auto"} == set(rows[: len(DECODERS) - 1])


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """The README's links lead to existing files and headings; MkDocs checks those of the pages."""
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


def test_the_loops_queue_can_be_consumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer and the decoder on the page on boto3 loops take what such a loop takes, and what `record` makes."""
    module = ModuleType("shown_instead_of_a_loop")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    loop, consumer, setting, record = [text for _, text in blocks(ROOT / "docs" / "from-boto3.md")]
    assert "receive_messages" in loop
    exec(consumer + setting + record, module.__dict__)
    harness = ConsumerHarness(module, decoders=module.__dict__["balog_decoders"])
    (run,) = harness.feed('{"order": 1}', topic="shop-orders").runs
    assert (run.state, as_event(run.event)["payload"]) == ("SUCCESS", {"cls_type": "shop-orders", "order": 1})
    (run,) = ConsumerHarness(module).feed(module.__dict__["record"]("placed", order=1), topic="shop-orders").runs
    assert (run.state, run.event.payload.cls_type) == ("SUCCESS", "placed")


def test_pages_name_the_version(site: Path) -> None:
    """The first page has the version of the package, and a picture of its processes."""
    version = metadata.version("balog_celery")
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    page = (site / "index.html").read_text()
    assert f"balog_celery {version}," in page
    assert "images/processes.svg" in page


def test_the_decoder_of_the_old_queue_decodes() -> None:
    """The decoder for PyQS's bodies reads one."""
    (text,) = [text for _, text in blocks(ROOT / "docs" / "from-others.md") if "balog_decoders" in text]
    scope: dict[str, Any] = {}
    exec(text, scope)
    body = {"task": "email.tasks.send_email", "args": [], "kwargs": {"to": "ada", "subject": "hello"}}
    message = Message(json.dumps(body), "handle", "m-1", 0.0, sent=1000)
    ((event, _),) = reader_of(find_decoder(scope["balog_decoders"]["email"]), "email")(message)
    assert (event.payload.cls_type, event.payload.kwargs["to"]) == ("email.tasks.send_email", "ada")


def test_the_settings_on_the_page_on_aws_are_settings() -> None:
    """The settings on the page on AWS exist, and take these values."""
    (text,) = [text for _, text in blocks(ROOT / "docs" / "aws.md") if "balog_s3_endpoint_url" in text]
    scope: dict[str, Any] = {}
    exec(text, scope)
    given = {name.removeprefix(PREFIX): value for name, value in scope.items() if name.startswith(PREFIX)}
    assert Settings(**given).endpoint_url == given["endpoint_url"]
