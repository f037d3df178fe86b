"""Wheel and source distribution: what they hold, and that they work on the Pythons at both ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import pip, write_project
from documents import ROOT, Shell

# Environments are made, and the package index may be slow.
pytestmark = pytest.mark.timeout(600)

SMOKE = """
import json, sys
from balog_celery import get_logger
from balog_celery.testing import ConsumerHarness, capture_records

with capture_records() as records:
    get_logger("shop").info("done", payload={"cls_type": "order", "total": 9.9})
report = ConsumerHarness("orders").feed(records)
assert report.ran == ["orders.consumers.book"], report
get_logger("shop").info("smoke", payload={"cls_type": "null"})
print("version", sys.version_info[:2])
"""


def test_the_sdist_holds_what_builds_and_tests_it(sdist: Path) -> None:
    """The sdist holds what is needed to build and test the package, and no other files of a working folder."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "balog_celery/py.typed", "tests/servers.py"}
    assert wanted <= names
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        kept = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
        assert {name for name in kept if name.startswith(("balog_celery/", "tests/", "docs/"))} <= names
        made = {"PKG-INFO", ".gitignore"}
        assert not {name for name in names - kept - made if "." in name.rpartition("/")[2]}


def pythons(version: str) -> Iterator[Path]:
    """The interpreters of that version that this machine may have: pyenv's, and one on the path."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"))
    if found := shutil.which(f"python{version}"):
        yield Path(found)


def is_version(python: Path, version: str) -> bool:
    """Whether it runs, and is what it is called."""
    code = "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() == version


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_both_install_and_work_on_the_oldest_and_the_newest_python(
    version: str, wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    """Log, decode, route, run a task, and find the commands: in an environment that has nothing else."""
    python = next((python for python in pythons(version) if is_version(python, version)), None)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    programs = tmp_path / "venv" / "bin"
    write_project(tmp_path)
    (tmp_path / "smoke.py").write_text(SMOKE)
    for distribution, more in ((wheel, []), (sdist, ["--force-reinstall", "--no-deps"])):
        pip(programs / "python", "install", *more, distribution)
        with Shell(tmp_path, programs=programs) as shell:
            booked, record, ran_on = shell.run("python -W error smoke.py").splitlines()
            assert booked.startswith("booked LG")
            assert json.loads(record)["header"]["channel"] == "shop.smoke"
            assert ran_on == f"version ({version.replace('.', ', ')})"
            assert "orders.consumers.book" in shell.run("celery -A balog_celery balog consumers")
            shell.run("python -m pip check")
