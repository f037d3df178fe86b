"""Consume events: declare consumers, find them, route events to them, and run an engine."""

from ..errors import BatchFailure
from .consumer import Consumer, consumer_config
from .hub import ConsumerHub
from .operator import ConsumerOperator

__all__ = ["BatchFailure", "Consumer", "ConsumerHub", "ConsumerOperator", "consumer_config"]
