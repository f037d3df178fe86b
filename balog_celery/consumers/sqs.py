"""The public place of :class:`SQSEngine`."""

from ..engine.sqs_engine import SQSEngine

__all__ = ["SQSEngine"]
