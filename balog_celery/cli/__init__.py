"""``celery -A app balog ...``: the commands that this package adds to Celery's, one file each."""

from . import check, consumers, dead, engine, explain, health, replay, send, tail, topics, up
from .group import balog

__all__ = [
    "balog",
    "check",
    "consumers",
    "dead",
    "engine",
    "explain",
    "health",
    "replay",
    "send",
    "tail",
    "topics",
    "up",
]
