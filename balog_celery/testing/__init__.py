"""Test producers and consumers without AWS, a broker or a worker.

* :func:`capture_records` collects what producers log.
* :class:`ConsumerHarness` feeds events to consumers, and reports what they did.
* :func:`make_event` makes an event from a payload.
* :mod:`balog_celery.pytest_plugin` has pytest fixtures for tests that want a real broker and a local SQS.
"""

from .harness import ConsumerHarness
from .producers import Records, capture_records, make_event
from .report import DeadLetter, Report, Run

__all__ = ["ConsumerHarness", "DeadLetter", "Records", "Report", "Run", "capture_records", "make_event"]
