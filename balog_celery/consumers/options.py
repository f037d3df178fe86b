"""The Celery task options that a consumer may have, and their values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeAlias, get_type_hints

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

# pydantic asks for this one before Python 3.12.
from typing_extensions import TypedDict

from ..errors import ConfigurationError
from ..number_rule import LONGEST, wrong_number
from ..text import printable

Seconds: TypeAlias = Annotated[int | float, Field(ge=0)]
Expiry: TypeAlias = Annotated[int | float, Field(ge=0, le=LONGEST)] | Annotated[datetime, Strict()]
Exceptions: TypeAlias = tuple[type[BaseException], ...]


class RetryOptions(TypedDict, total=False):
    """Arguments of Celery's ``Task.retry``."""

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[misc]

    args: Any
    kwargs: Any
    throw: bool
    eta: Annotated[datetime, Strict()] | None
    countdown: Seconds | None
    max_retries: Annotated[int, Field(ge=0)] | None
    compression: str | None
    exchange: Any
    expires: Expiry | None
    headers: dict[str, Any] | None
    ignore_result: bool
    link: Any
    link_error: Any
    priority: Annotated[int, Field(ge=0, le=255)] | None
    queue: Any
    routing_key: str | None
    serializer: str | None
    shadow: str | None
    soft_time_limit: Seconds | None
    task_id: str | None
    time_limit: Seconds | None


class TaskOptions(TypedDict, total=False):
    """Celery's options of a task (userguide/tasks, "List of Options" and "Automatic retry") that make sense for a
    consumer.

    The package sets the task's name, arguments and serializer (JSON). Celery documents what each option does; times
    are in seconds.
    """

    acks_late: bool
    acks_on_failure: bool | None
    acks_on_failure_or_timeout: bool
    acks_on_timeout: bool | None
    autoretry_for: Exceptions
    base: type[Any] | None
    bind: bool
    compression: str | None
    default_retry_delay: Seconds
    dont_autoretry_for: Exceptions
    expires: Expiry | None
    ignore_result: bool
    max_retries: Annotated[int, Field(ge=0)] | None
    priority: Annotated[int, Field(ge=0, le=255)] | None
    queue: Annotated[str, Field(min_length=1)]
    rate_limit: Annotated[str, Field(pattern=r"^\d+(\.\d+)?(/[smh])?$")] | Annotated[int | float, Field(ge=0)] | None
    reject_on_worker_lost: bool | None
    resultrepr_maxsize: Annotated[int, Field(gt=0)]
    retry_backoff: bool | Seconds
    retry_backoff_max: Seconds
    retry_jitter: bool
    retry_kwargs: RetryOptions
    retry_on_worker_lost: bool | None
    send_events: bool
    soft_time_limit: Seconds | None
    store_errors_even_if_ignored: bool
    throws: Exceptions
    time_limit: Seconds | None
    track_started: bool
    trail: bool


#: Their names.
TASK_OPTIONS = frozenset(TaskOptions.__annotations__)

#: Options that say where a task goes. Celery 5.7 deprecates them on the task, so they are applied by routing.
ROUTING_OPTIONS = frozenset({"priority", "queue"})

#: Options that say how the task is made, and are no attributes of it.
MAKING_OPTIONS = frozenset({"base", "bind"})

_adapter = TypeAdapter(TaskOptions)
_types = get_type_hints(TaskOptions, include_extras=True)


def check_task_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check that *options* are task options with values that Celery can use, and return them.

    :param where: whose options they are, for errors.
    :raises ConfigurationError: one is unknown (the error names the nearest), or has a value of the wrong type.
    """
    for name in options:
        if name not in TASK_OPTIONS:
            near = difflib.get_close_matches(name, TASK_OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(TASK_OPTIONS))}"
            raise ConfigurationError(f"unknown Celery task option {name!r} for {where}: {hint}")
        if wrong := wrong_number(options[name], _types[name]):
            raise _bad_value(options[name], name, where, wrong)
    try:
        return {**_adapter.validate_python(options)}
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _bad_value(options[name], name, where, first["msg"]) from None


def _bad_value(value: Any, name: str, where: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"bad value {printable(repr(value))} for Celery task option {name!r} of {where}: {why}")
