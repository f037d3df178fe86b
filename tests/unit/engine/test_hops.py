"""How many functions and calls one event takes through the engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HOPS = Path(__file__).parents[3] / "benchmarks" / "hops.py"

#: The goal is 45, 250 and 9: the numbers must only shrink.
FUNCTIONS, CALLS, DEPTH = 45, 56, 8


def test_an_event_takes_few_hops() -> None:
    """An event's way through the engine takes no more functions, calls and depth than before."""
    done = subprocess.run([sys.executable, HOPS], capture_output=True, text=True, check=True, timeout=120)
    found = re.match(r"(\d+) functions in \d+ files, (\d+) calls, depth (\d+)", done.stdout)
    assert found is not None
    functions, calls, depth = map(int, found.groups())
    assert (functions <= FUNCTIONS, calls <= CALLS, depth <= DEPTH) == (True, True, True), done.stdout
