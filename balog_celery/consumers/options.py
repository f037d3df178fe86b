"""Which of a decorator's keyword arguments are Celery task options."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..errors import ConfigurationError

#: What Celery documents as options of a task (userguide/tasks, "List of Options" and "Automatic retry"), as far as they
#: make sense for a task that a consumer is: its name, its binding and its arguments are ours.
TASK_OPTIONS = frozenset(
    {
        "acks_late",
        "acks_on_failure",
        "acks_on_failure_or_timeout",
        "acks_on_timeout",
        "autoretry_for",
        "compression",
        "default_retry_delay",
        "dont_autoretry_for",
        "expires",
        "ignore_result",
        "max_retries",
        "priority",
        "queue",
        "rate_limit",
        "reject_on_worker_lost",
        "resultrepr_maxsize",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
        "retry_on_worker_lost",
        "send_events",
        "soft_time_limit",
        "store_errors_even_if_ignored",
        "throws",
        "time_limit",
        "track_started",
        "trail",
    }
)

#: Options that say where a task goes. Celery 5.7 deprecates them on the task, so they are applied by routing.
ROUTING_OPTIONS = frozenset({"priority", "queue"})


def check_task_options(names: Iterable[str], where: str) -> None:
    """Check that *names* are task options.

    :param where: whose options they are, for the error's text.
    :raises ConfigurationError: one is not; the nearest one is named.
    """
    for name in names:
        if name not in TASK_OPTIONS:
            near = difflib.get_close_matches(name, TASK_OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(TASK_OPTIONS))}"
            raise ConfigurationError(f"unknown Celery task option {name!r} for {where}: {hint}")
