"""Builds the distributions, and installs them into empty environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from documents import ROOT

#: What is in this folder, but would not be in a clone.
NOT_CLONED = (
    ".git",
    ".venv",
    ".balog",
    ".hypothesis",
    ".*_cache",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "site",
)

CONSUMERS = """
import time
from balog_celery.consumers import consumer_config

@consumer_config(topic="orders", cls_type="order")
def book(event):
    print(f"booked {event['header']['id']}")

@consumer_config(topic="orders", cls_type="slow")
def slow(event):
    print(f"began {event['header']['id']}")
    time.sleep(event["payload"]["seconds"])
    print(f"ended {event['header']['id']}")
"""


def build(folder: Path) -> Path:
    """Build the sdist from a copy of the repository, and the wheel from the sdist; return the folder they are in."""
    source = folder / "clone"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_CLONED))
    command = [sys.executable, "-m", "build", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "dist"


def pip(python: Path, *arguments: str | Path) -> None:
    """Run pip, without what the environment of this process would add."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def write_project(folder: Path) -> None:
    """Write a package of consumers, and a configuration that names it."""
    (folder / "orders").mkdir()
    (folder / "orders" / "__init__.py").write_text("")
    (folder / "orders" / "consumers.py").write_text(CONSUMERS)
    (folder / "celeryconfig.py").write_text('balog_packages = ["orders"]\nbalog_drain = 1\n')
