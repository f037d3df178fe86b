"""The public place of :class:`SQSQueue` and of the messages that it sends."""

from .sqs.messages import OutgoingMessage
from .sqs.queues import SQSQueue

__all__ = ["OutgoingMessage", "SQSQueue"]
