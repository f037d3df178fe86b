"""The versions of Celery and kombu: which are allowed, which are tested, and what is said of others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import celery
import pytest
from celery import Celery
from packaging.requirements import Requirement
from packaging.version import Version

import balog_celery
from balog_celery.celery_compat import versions
from balog_celery.operations.checks.run import check
from balog_celery.worker.bootsteps import EngineStep

CHECKOUT = Path(__file__).parents[3]


def test_the_installed_versions_are_tested() -> None:
    """When this fails: run all tests with the new minor, mend what fails, and raise ``NEWEST_TESTED``."""
    assert list(versions.untested()) == []


@pytest.mark.parametrize("version", ["5.5.3", "5.6.0", "5.7.0", "5.7.99", "5.7.1rc1"])
def test_nothing_is_said_of_a_tested_minor(version: str) -> None:
    """Whatever its patch: fixes of security are not kept out."""
    assert list(versions.untested({"celery": version, "kombu": version})) == []


@pytest.mark.parametrize("version", ["5.8.0", "5.8.0rc1", "5.10.1", "6.0.0"])
def test_a_newer_minor_has_a_warning_with_the_way_out(version: str) -> None:
    """One for each package."""
    (warning,) = versions.untested({"celery": "5.7.0", "kombu": version})
    assert warning.startswith(f"kombu {version} is newer than 5.7,")
    assert warning.endswith("upgrade balog_celery or install kombu<5.8")


def required() -> dict[str, Requirement]:
    """The requirements of the package by name."""
    section = re.search(r"^dependencies = \[(.*?)^\]", (CHECKOUT / "pyproject.toml").read_text(), re.S | re.M)
    assert section is not None
    requirements = map(Requirement, re.findall(r'^\s*"(.+)",$', section[1], re.M))
    return {requirement.name: requirement for requirement in requirements}


@pytest.mark.parametrize("package", ["celery", "kombu"])
def test_each_allowed_minor_is_tested_and_later_ones_are_not_kept_out(package: str) -> None:
    """By .ci/celery-versions, but the newest, which all tests run on."""
    allowed = required()[package].specifier
    text = (CHECKOUT / ".ci/celery-versions").read_text()
    tested = map(Version, re.findall(rf"\b{package}(?:\[redis\])?==([\d.]+)", text))
    newest = Version(versions.NEWEST_TESTED[package]).release
    minors = {version.release[:2] for version in tested} | {newest}
    assert minors == {(5, minor) for minor in range(newest[1] + 1) if f"5.{minor}.99" in allowed}
    assert "5.99" in allowed
    assert "6.0" not in allowed


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> str:
    """A Celery of a minor that was not tested."""
    monkeypatch.setattr(celery, "__version__", "5.99.1")
    return "celery 5.99.1 is newer than"


def test_check_warns_of_a_version_that_was_not_tested(newer: str) -> None:
    """It is no failure."""
    app = Celery("versions", broker="memory://", set_as_current=False)
    balog_celery.install(app, engine=False)
    first = next(iter(check(app)))
    assert (first.level, first.about) == ("WARN", "versions")
    assert first.text.startswith(newer)


def test_a_worker_warns_once_of_a_version_that_was_not_tested(newer: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that runs no engine."""
    app = Celery("versions", broker="memory://", set_as_current=False)
    balog_celery.install(app)
    EngineStep(SimpleNamespace(app=app, prefetch_multiplier=1), no_engine=True)
    assert [message for message in caplog.messages if message.startswith(newer)] != []
    assert len(caplog.messages) == 1


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("celery", "kombu", "billiard", "amqp", "vine"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    "code",
    [
        "import balog_celery",
        "from balog_celery import get_logger; get_logger('a').info('done', payload={'cls_type': 'log', 'message': ''})",
        "from balog_celery import SQSHandler; SQSHandler('q', region='eu-west-1').close()",
        "import balog_celery.handlers, balog_celery.logger, balog_celery.records, balog_celery.queues",
    ],
)
def test_a_producer_needs_no_celery(code: str) -> None:
    """Of any version: one that only sends may have another version for its own tasks, or none."""
    subprocess.run([sys.executable, "-c", BLOCKED + code], check=True, timeout=60)
