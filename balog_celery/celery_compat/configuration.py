"""Undocumented parts of Celery for reading and changing an app's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from celery import Celery, Task
from celery.app.utils import Settings, filter_hidden_settings
from kombu.serialization import prepare_accept_content, registry


def is_set(conf: Any, key: str) -> bool:
    """Return whether *conf* has a value for *key* that is no default of Celery's.

    ``conf.value_set_for`` finds settings with a namespace (``CELERY_TIMEZONE``) or an old name only since Celery 5.7.
    """
    return key in Settings({}, conf.maps[:-1], conf._keys, conf.prefix)


def hides_password(key: str) -> bool:
    """Return whether ``celery report`` masks the password of a URL in setting *key*.

    Before 5.7, Celery takes each setting with ``broker_url`` in its name for a broker's. The value must be a ``str``.
    """
    url = "memory://:password@host"
    return bool(filter_hidden_settings({key: url})[key] != url)


def accepts_json(accept_content: Any) -> bool:
    """Return whether workers with this ``accept_content`` read JSON, by whichever of its names it lists it."""
    return "application/json" in prepare_accept_content(accept_content)  # type: ignore[no-untyped-call]


def accepts(accept_content: Any, serializer: str) -> bool:
    """Return whether workers with this ``accept_content`` read what *serializer* writes; KeyError: there is none."""
    content_type = registry.name_to_type[serializer]
    return content_type in prepare_accept_content(accept_content)  # type: ignore[no-untyped-call]


def task_headers(app: Celery) -> Set[str]:
    """Return the names of the headers by which workers of *app* read the message of a task."""
    return app.amqp.as_task_v2("id", "name").headers.keys()  # type: ignore[no-any-return]


def missing_options(names: Iterable[str]) -> list[str]:
    """Return those of the task options *names* that the installed Celery would ignore.

    ``acks_on_failure`` and ``acks_on_timeout`` are new in 5.7. ``retry_on_worker_lost`` is too, but the requests of
    consumers' tasks have it with each version.
    """
    return [name for name in names if name in ("acks_on_failure", "acks_on_timeout") and not hasattr(Task, name)]
