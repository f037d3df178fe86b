"""How a consumer's function is called: with its task, with the message, and by the names of its parameters."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MethodType
from typing import Any

from ..errors import ConfigurationError
from ..signatures import signature_of
from .consumer import Consumer
from .context import message_of
from .fitting import misfit
from .operator import ConsumerOperator

logger = logging.getLogger(__name__)


def prepare(consumer: Consumer, task: Any, operator: Any, current: Any = None) -> None:
    """Have the function of *consumer* get what it asks for beside the event: *task* first, the message by its name.

    :param task: what has the ``request`` of the current event.
    :param current: what has the ``request`` with the event's message; default: the task.
    :param operator: the consumer operator; the default one passes the event alone, so the call can be checked.
    :raises ConfigurationError: the function cannot be called so.
    """
    func = MethodType(consumer.function, task) if consumer.options.get("bind") else consumer.function
    named = dict.fromkeys([consumer.message_parameter] if consumer.message_parameter else [])
    if type(operator).process_event is ConsumerOperator.process_event:
        _check(consumer, func, named)
    if isinstance(consumer.arguments, Mapping):
        func = _by_names(func)
    if consumer.message_parameter:
        func = _with_message(func, consumer.message_parameter, task if current is None else current)
    consumer.func = func


def _check(consumer: Consumer, func: Callable[..., Any], named: Mapping[str, Any]) -> None:
    try:
        signature = signature_of(func)
    except (TypeError, ValueError):  # a builtin may have none
        return
    arguments = consumer.arguments
    given = "the event alone" if isinstance(arguments, str) else f"the parameters {', '.join(arguments)}"
    shown, remedy = signature, "change its parameters"
    if consumer.options.get("bind"):
        given = f"its task, for bind=True, and then {given}"
        shown, remedy = signature_of(consumer.function), "give it a first parameter for the task, leave bind out"

    def bind(signature: inspect.Signature) -> None:
        if isinstance(arguments, str):
            signature.bind(None, **named)
        else:
            signature.bind(**arguments, **named)

    try:
        bind(signature)
        if isinstance(arguments, str) and (problem := misfit(consumer, func, signature)):
            logger.warning("%s", problem)
    except TypeError as error:
        with suppress(TypeError):
            bind(outer := inspect.signature(func, follow_wrapped=False))
            if outer != signature:  # a decorator may pass more
                logger.warning(
                    "%s%s is called with %s: its decorator must pass the rest", consumer.task_name, signature, given
                )
                return
        raise ConfigurationError(
            f"{consumer.task_name}{shown} is called with {given}, and does not accept that ({error}): {remedy}, or set "
            "arguments= or a consumer operator that passes more"
        ) from None


def _by_names(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def call(arguments: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return func(*args, **arguments, **kwargs)

    return call


def _with_message(func: Callable[..., Any], name: str, task: Any) -> Callable[..., Any]:
    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **{name: message_of(task.request), **kwargs})

    return call
