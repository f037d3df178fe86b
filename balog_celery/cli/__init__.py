"""``celery -A app balog ...``: the commands that this package adds to Celery's, one file each."""

from . import (
    check,
    consumers,
    dead,
    drop,
    engine,
    explain,
    health,
    outbox,
    plan,
    replay,
    schema,
    send,
    tail,
    topics,
    up,
    web,
)
from .group import balog

__all__ = [
    "balog",
    "check",
    "consumers",
    "dead",
    "drop",
    "engine",
    "explain",
    "health",
    "outbox",
    "plan",
    "replay",
    "schema",
    "send",
    "tail",
    "topics",
    "up",
    "web",
]
