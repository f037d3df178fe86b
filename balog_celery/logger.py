"""The public place of the logger that producers use."""

from .producer.configuration import configure
from .producer.formatter import SchemaFormatter
from .producer.logger import get_logger
from .producer.state import stats

__all__ = ["SchemaFormatter", "configure", "get_logger", "stats"]
