"""How the consumers are operated: which queue a topic is, and how a function is called."""

import os
from typing import Any

from balog_celery.consumers import Consumer, ConsumerOperator


class MetricsOperator(ConsumerOperator):
    """Fills in ``{env}``, and gives the settings to each function."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def get_topic(self, consumer: Consumer) -> str:
        return consumer.topic.format(env=self.settings["env"])

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        return consumer.func(self.settings, event)


operator = MetricsOperator({"env": os.environ.get("MYPROJ_ENV", "develop")})
