"""Installs the peers of this package, each into an environment of its own: ``python benchmarks/peers/install.py``.

Their versions are pinned in ``pins/``: a requirements file for each peer in Python, a ``.json`` for npm.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

PINS = Path(__file__).resolve().parent / "pins"
#: Where the environments are.
HOME = PINS.parents[1] / ".peers"


def pins(peer: str) -> Path:
    """Return the file with the versions of *peer*."""
    return next(PINS.glob(f"{peer}.*"))


def is_installed(peer: str) -> bool:
    """Return whether *peer* is there in the versions that are pinned now."""
    mark = HOME / peer / "installed"
    return mark.exists() and mark.read_text() == pins(peer).read_text()


def install(peer: str) -> None:
    """Make the environment of *peer* anew. :raises Exception: it cannot be made."""
    home, file = HOME / peer, pins(peer)
    shutil.rmtree(home, ignore_errors=True)
    if file.suffix == ".json":
        home.mkdir(parents=True)
        shutil.copy(file, home / "package.json")
        subprocess.run(["npm", "install", "--prefix", home, "--silent", "--no-fund", "--no-audit"], check=True)
    else:
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "--requirement", file], check=True)
    shutil.copy(file, home / "installed")


def main() -> int:
    """Install what is missing; return 1 if something cannot be."""
    failed = 0
    for peer in sorted(file.stem for file in PINS.iterdir()):
        if is_installed(peer):
            print(f"{peer} is installed", flush=True)
            continue
        try:
            install(peer)
        except (OSError, subprocess.CalledProcessError) as error:
            failed = 1
            print(f"{peer} cannot be installed, and will be left out: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{peer} has been installed", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
