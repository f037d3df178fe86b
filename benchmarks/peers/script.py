"""This package in a plain script, without Celery: ``SQSEngine.run()``."""

from __future__ import annotations

import sys
from typing import Any

from function import QUEUE, note

from balog_celery.consumers import ConsumerHub, consumer_config
from balog_celery.consumers.sqs import SQSEngine


@consumer_config(topic=QUEUE, cls_type="metrics")
def consume(event: Any) -> None:
    """The consumer."""
    note(event)


if __name__ == "__main__":
    hub = ConsumerHub()
    hub.scan(sys.modules[__name__])
    SQSEngine(hub).run()
