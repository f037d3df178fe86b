"""How consumers are operated: which queue a topic is, and how a function is called."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from .consumer import Consumer


class ConsumerOperator:
    """Operates consumers: topics are taken as written, functions are called with the event alone.

    Subclass it, or give any object that has both methods, to fill in topics and to pass more arguments.
    """

    def get_topic(self, consumer: Consumer) -> str:
        """The name or URL of the queue that *consumer* listens to."""
        return consumer.topic

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        """Call the function of *consumer* with *event*; what it returns is the result of the task."""
        return consumer.func(event)


def resolve_topic(operator: Any, consumer: Consumer) -> str:
    """Ask *operator* for the topic of *consumer*, and check that it is one.

    :raises ConfigurationError: the operator failed, or left a placeholder in the name.
    """
    try:
        topic = operator.get_topic(consumer)
    except Exception as error:
        raise ConfigurationError(
            f"{type(operator).__name__}.get_topic failed for {consumer.task_name} (topic {consumer.topic!r}): {error!r}"
        ) from error
    if not isinstance(topic, str) or not topic or "{" in topic:
        raise ConfigurationError(
            f"the topic of {consumer.task_name} is {topic!r}, which is no queue's name or URL: "
            "give a consumer operator whose get_topic fills in the placeholders"
        )
    return topic


def check_operator(operator: Any) -> None:
    """Check that *operator* has the two methods of a consumer operator.

    :raises ConfigurationError: it has not.
    """
    for method in ("get_topic", "process_event"):
        if not callable(getattr(operator, method, None)):
            raise ConfigurationError(f"the consumer operator {operator!r} has no method {method}")
