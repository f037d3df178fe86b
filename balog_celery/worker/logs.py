"""The log of a worker and of its engine: which event a line is about, where lines are shipped, and what none shows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from celery import signals

from ..celery_compat.pool import ArgumentsFilter
from ..errors import ConfigurationError
from ..producer.handlers import SQSHandler
from ..producer.lineage import CauseFilter
from ..sqs.protocols import Connect
from ..tasks.base import EventTask


class WorkerLogs:
    """Adds to the handlers that Celery sets up, in a worker and in an engine.

    :param ship_to: gives the topic to ship log records to; None: none.
    :param connect: makes the queue of a topic, when the first record is sent.
    """

    def __init__(self, ship_to: Callable[[], str | None], connect: Connect) -> None:
        self._ship_to = ship_to
        self._connect = connect
        self._shipper: SQSHandler | None = None

    def begin(self) -> None:
        """Wait for Celery to set up logging: the root logger, and its tasks' logger, which has handlers of its own."""
        signals.worker_init.connect(_hide_events, weak=False)
        # Neither is sent if the application sets up logging itself, by the signal setup_logging.
        signals.after_setup_logger.connect(self._add, weak=False)
        signals.after_setup_task_logger.connect(self._add, weak=False)

    def _add(self, logger: logging.Logger, **_: Any) -> None:
        topic = None
        with contextlib.suppress(ConfigurationError):  # reported when the app is loaded
            topic = self._ship_to()
        if topic is not None:
            if self._shipper is None:
                self._shipper = SQSHandler(topic, queue=lambda: self._connect(topic))
            if self._shipper not in logger.handlers:
                logger.addHandler(self._shipper)
        for handler in logger.handlers:
            if not any(isinstance(known, CauseFilter) for known in handler.filters):
                handler.addFilter(CauseFilter())


def _hide_events(sender: Any, **_: Any) -> None:
    """Keep the content of events out of what libraries log at DEBUG in the worker *sender*."""
    app = sender.app

    def hides(name: str) -> bool:
        return isinstance(app.tasks.get(name), EventTask)

    logging.getLogger(ArgumentsFilter.LOGGER).addFilter(ArgumentsFilter(hides))
    botocore = logging.getLogger("botocore")
    if botocore.level == logging.NOTSET:
        botocore.setLevel(logging.INFO)
