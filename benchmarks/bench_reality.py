"""Figure ``reality``: TLS, distance, large messages, many topics, and functions that wait, beside boto3's own cost."""

from __future__ import annotations

import os
from typing import Any

from bench_base import Figure, Options
from reality_calls import calls, worst
from reality_engine import engines
from reality_waits import waits


def reality(options: Options) -> Figure:
    """Measure all of it; the value is the worst ratio of the fast path to boto3 for messages of 1 MiB."""
    tables: list[str] = []
    sides: dict[str, Any] = {}
    for measure in (calls, engines, waits):
        sides[f"load_before_{measure.__name__}"] = round(os.getloadavg()[0], 1)
        part = measure(options)
        tables.append(part.table)
        sides[measure.__name__] = part.sides
    return Figure("reality", worst(sides["calls"]), "<= 1", sides, table="\n\n".join(tables))


FIGURES = {"reality": reality}
