"""What SQS calls a queue: a name that no queue can have is an error before the first call."""

from __future__ import annotations

import re

from ..arguments import is_blank, shown
from ..errors import ConfigurationError
from ..text import plain_topic, printable
from .addresses import is_arn, is_url

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|(?=.{6,80}\Z)[A-Za-z0-9_-]+\.fifo")


def checked_topic(topic: object) -> str:
    """Return *topic*, a queue's name or URL, without the secrets of a URL.

    :raises ConfigurationError: it is none.
    """
    if not isinstance(topic, str) or is_blank(topic):
        raise ConfigurationError(f"bad topic{shown(topic)}: give the name or the URL of a queue")
    return plain_topic(topic)


def check_queue(topic: str, *, what: str = "topic") -> None:
    """Check that SQS can have a queue with the name *topic*. A URL is taken as it is.

    :param what: what names the queue, for the error.
    :raises ConfigurationError: it cannot.
    """
    if "{" in topic:
        raise ConfigurationError(
            f"bad {what} {printable(topic)!r}: nothing fills in a placeholder here; give the queue's name or URL"
        )
    if is_arn(topic):
        raise ConfigurationError(f"bad {what} {printable(topic)!r}: that is an ARN; give the queue's name or URL")
    if not is_url(topic) and not _NAME.fullmatch(topic):
        raise ConfigurationError(
            f"bad {what} {printable(topic)!r}: the name of a queue has 1 to 80 letters, digits, hyphens and "
            "underscores, and may end in '.fifo'"
        )
