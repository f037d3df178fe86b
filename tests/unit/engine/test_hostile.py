"""Hostile bodies: none keeps the engine busy for longer than its size explains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_bodies

#: Seconds of CPU time for a body of 1 MiB, and bytes of memory: several times what any takes.
MOST, MOST_BYTES = 1.0, 100 * 2**20


def test_no_body_takes_longer_than_its_size_accounts_for() -> None:
    """Each hostile body of 1 MiB is processed or becomes a dead letter within a second and 100 MiB."""
    script = Path(hostile_bodies.__file__)
    env = {**os.environ, "PYTHONPATH": str(script.parent)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=590)
    *taken, counts = [json.loads(line) for line in done.stdout.splitlines()] or [{}]
    assert done.returncode == 0, f"after {[one['body'] for one in taken][-1:]}: {done.stderr[-500:]}"
    assert [one["body"] for one in taken] == list(hostile_bodies.BODIES)
    assert {one["body"]: one["seconds"] for one in taken if one["seconds"] > MOST} == {}
    assert {one["body"]: one["bytes"] for one in taken if one["bytes"] > MOST_BYTES} == {}
    assert counts["deleted"] == len(taken)
    assert counts["dead"] == counts["undecodable"]
    assert "faults" not in counts
