"""The public place of :class:`SQSHandler`."""

from .producer.handlers import SQSHandler

__all__ = ["SQSHandler"]
