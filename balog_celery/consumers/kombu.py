"""The public place of :class:`KombuEngine`."""

from ..engine.kombu_engine import KombuEngine

__all__ = ["KombuEngine"]
