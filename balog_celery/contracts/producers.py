"""Which functions send which events: what :func:`produces` declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import ConfigurationError
from ..signatures import name_of

if TYPE_CHECKING:
    from ..events.payloads import Payload

F = TypeVar("F", bound=Callable[..., object])


class Producer(NamedTuple):
    """A function that sends events.

    :param name: its module and qualified name.
    :param topic: the queue's name or URL, as written: the consumer operator may fill in placeholders.
    :param cls_types: the types of the payloads that it sends.
    :param summary: the first line of its docstring.
    """

    name: str
    topic: str
    cls_types: tuple[str, ...]
    summary: str


#: By name and topic, so that a module that is imported again declares nothing twice.
_declared: dict[tuple[str, str], Producer] = {}


def produces(topic: str, *models: type[Payload]) -> Callable[[F], F]:
    """Declare that a function sends events to *topic*, for ``balog schema``. The function stays as it is.

    :param topic: the queue's name or URL; the consumer operator fills in placeholders, as for consumers.
    :param models: what is sent: subclasses of :class:`~balog_celery.Payload` with a literal ``cls_type``.
    :raises ConfigurationError: the topic or a model is not one.
    """
    from ..events.payloads import registered_payloads

    if not isinstance(topic, str) or not topic.strip():
        raise ConfigurationError(f"bad topic {topic!r}: give the name or the URL of the queue that events are sent to")
    if not models:
        raise ConfigurationError(f"a producer for {topic!r} names no model: give the payloads that it sends")
    registered = registered_payloads()
    cls_types: list[str] = []
    for model in models:
        found = [cls_type for cls_type, known in registered.items() if known is model]
        if not found:
            raise ConfigurationError(
                f"{model!r}, which a producer for {topic!r} names, is no payload with a type of its own: give "
                "subclasses of balog_celery.Payload that declare a literal cls_type"
            )
        cls_types += found

    def declare(func: F) -> F:
        name = name_of(func)
        summary = (func.__doc__ or "").strip().partition("\n")[0]
        _declared[name, topic] = Producer(name, topic, tuple(cls_types), summary)
        return func

    return declare


def producers() -> list[Producer]:
    """Return the producers of the modules that this process has imported, sorted by name."""
    return sorted(_declared.values())
