"""What the app does with events: a consumer may call the app's own tasks."""

import logging
from typing import Literal

from balog_celery import Payload
from balog_celery.consumers import consumer_config

logger = logging.getLogger(__name__)


class OrderPlaced(Payload):
    """The payload of an order; other keys are kept as well."""

    cls_type: Literal["order-placed"] = "order-placed"
    order_id: int
    total: float


@consumer_config("shop-orders", cls_type="order-placed", autoretry_for=(OSError,), retry_backoff=True, max_retries=5)
def book_order(order: OrderPlaced) -> float:
    """Log the order, and return its total."""
    logger.info("order %s: %.2f", order.order_id, order.total)
    return order.total
