"""What consumes the events: plain functions that say what they want."""

import logging
from typing import Any

from balog_celery.consumers import consumer_config

logger = logging.getLogger(__name__)


@consumer_config(topic="myproj-events-{env}", cls_type="metrics", version="<1.0", max_retries=5, rate_limit="100/s")
def process_metrics(settings: dict[str, Any], event: dict[str, Any]) -> int:
    """Log each value of a metrics event, and return their number."""
    for metric in event["payload"]["values"]:
        logger.info("%s: %s = %s", settings["env"], metric["name"], metric["value"])
    return len(event["payload"]["values"])
