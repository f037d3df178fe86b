"""The settings of this package in a Celery configuration, and the defaults that it gives to Celery's own."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.utils.imports import cwd_in_path
from kombu.exceptions import SerializerNotInstalled
from pydantic import SecretStr

from ..celery_compat.configuration import accepts_json, hides_password, is_set
from ..consumers.operator import ConsumerOperator, check_operator
from ..dev import local_stack
from ..dev.transport import TRANSPORT_OPTIONS
from ..engine.config import TopicOptions
from ..errors import ConfigurationError
from ..events.decoders import Decoder, find_decoder
from ..outbox.store import Store
from ..settings import PREFIX, SECRETS, Settings, is_unset, plain_setting
from ..signatures import why_not
from ..text import printable
from .imports import IMPORT_FAILURES, created, import_error, import_setting, main_module

#: Defaults for Celery's own settings. Accepting JSON only is Celery's own default.
CELERY_DEFAULTS = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": True,
}

logger = logging.getLogger(__name__)

#: How long a poll of the local SQS waits, in seconds. A stop waits for it.
_LOCAL_WAIT_TIME = 2


#: Values of ``result_backend`` with which no result is stored.
_NO_BACKEND = (None, "disabled", "disabled://")


def read_settings(app: Celery, given: Mapping[str, Any]) -> Settings:
    """Return the ``balog_*`` settings of *app*.

    :param given: settings without their prefix; those in the app's configuration win.
    :raises ConfigurationError: one is unknown, or has a value of a wrong type.
    """
    conf = app.conf
    # Like Celery's own: behind the app's namespace if it has one (CELERY_BALOG_REGION), and in capitals as well.
    namespace = f"{app.namespace}_" if app.namespace else ""
    configured: dict[str, Any] = {}
    for key in sorted(key for key in conf if isinstance(key, str)):  # lower case, as set in code, sorts last and wins
        name = key.removeprefix(namespace).lower()
        is_ours = key.startswith(PREFIX) or (key.startswith(namespace) and name.startswith(PREFIX))
        if is_ours and not is_unset(name.removeprefix(PREFIX), conf[key]):
            configured[name] = conf[key]
    return Settings.from_conf({**{PREFIX + key: value for key, value in given.items()}, **configured})


def warn_of_unread(app: Celery) -> None:
    """Warn of settings of this package that lack the namespace with which *app* reads its configuration."""
    for key in sorted(key for key in app.conf if app.namespace and isinstance(key, str) and key.isupper()):
        prefix, is_ours, name = key.partition(PREFIX.rstrip("_").upper())
        name = name.strip("_").lower()
        right = f"{app.namespace}_{PREFIX}{name}".upper()
        if is_ours and prefix in ("", f"{app.namespace}_") and name in Settings.model_fields and key != right:
            logger.warning("%s is not read: this app's settings begin with %s_, so write %s", key, app.namespace, right)


def is_local(app: Celery, settings: Settings, *, may_be_local: bool) -> bool:
    """Return True if the local stack serves *app*.

    :param may_be_local: whether it does where neither a broker nor an endpoint is configured.
    """
    if settings.local is not None:
        return settings.local
    elsewhere = (
        settings.endpoint_url
        or os.environ.get("AWS_ENDPOINT_URL_SQS")
        or os.environ.get("AWS_ENDPOINT_URL")
        or settings.event_broker_url
    )
    brokers = (None, local_stack.broker_url(settings.state_dir))
    return may_be_local and app.conf.broker_url in brokers and not elsewhere


def fill_in(conf: Any, local_broker: Callable[[], str | None]) -> set[str]:
    """Set Celery's settings that *conf* leaves open, and hide this package's secrets.

    :param conf: the app's configuration.
    :param local_broker: returns the URL of the local broker, or None if the app has another. Errors in this package's
        settings are raised later: Celery swallows those that are raised here.
    :returns: those of :data:`CELERY_DEFAULTS` that it left open.
    """
    open_settings = {key for key in CELERY_DEFAULTS if not is_set(conf, key)}
    for key in open_settings:
        conf[key] = CELERY_DEFAULTS[key]
    if conf.result_backend in _NO_BACKEND and not is_set(conf, "result_backend_thread_safe"):
        # What stores nothing is safe. Celery makes one for each thread otherwise, which is one for each task where they
        # are greenlets.
        conf.result_backend_thread_safe = True
    hide_secrets(conf)
    url = None
    with suppress(ConfigurationError):
        url = local_broker()
    if url is not None and conf.broker_url is None:
        conf.broker_url = url
        conf.broker_transport_options = {**TRANSPORT_OPTIONS, **conf.broker_transport_options}
    return open_settings


def hide_secrets(conf: Any) -> None:
    """Hide this package's secrets, in every spelling of a setting, from ``celery report`` and ``inspect conf``.

    These recognize a secret by its name only. The user, password and query of a queue's URL or an endpoint, which
    nothing uses, are left out.
    """
    for key in list(conf):
        # Also a spelling that is no setting of this app, such as one without its namespace.
        _, is_ours, name = key.lower().partition(PREFIX) if isinstance(key, str) else ("", "", "")
        if not is_ours:
            continue
        value = conf[key]
        if PREFIX + name not in SECRETS:
            hidden = plain_setting(name, value)
        else:
            hidden = SecretStr(value) if isinstance(value, str) and not hides_password(key) else value
        if hidden is not value:
            conf[key] = hidden


def require_json(conf: Any) -> None:
    """Check that the app's workers accept JSON.

    :raises ConfigurationError: they do not, or kombu does not know what they accept.
    """
    accepted = conf.accept_content
    try:
        is_accepted = accepted is None or accepts_json(accepted)
    except SerializerNotInstalled as error:
        raise ConfigurationError(
            f"accept_content = {accepted!r}: {printable(error)}: install or register it (kombu.serialization), or "
            "leave it out"
        ) from None
    if not is_accepted:
        raise ConfigurationError(
            f"accept_content = {accepted!r} refuses JSON, in which events are sent to tasks: add 'json' to it"
        )


def load_outbox(settings: Settings, name: str | None) -> Store:
    """Return the outbox that *name*, or else ``balog_outbox``, names.

    :raises ConfigurationError: there is none, or it cannot be imported.
    """
    found = import_setting("outbox", name or settings.outbox)
    if not isinstance(found, Store):
        raise ConfigurationError(
            f"balog_outbox = {found!r} is not an outbox: name a DjangoStore or an SQLAlchemyStore, such as "
            "'balog_celery.outbox.django:store'"
        )
    return found


def load_operator(settings: Settings) -> Any:
    """Return the consumer operator that *settings* name.

    :raises ConfigurationError: it cannot be imported or created, or lacks a method.
    """
    found = import_setting("operator", settings.operator) or ConsumerOperator
    found = created("operator", found, "proj.events:operator")
    try:
        check_operator(found)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"balog_operator = {settings.operator!r}: {error}: name an object with get_topic(consumer) and "
            "process_event(consumer, event), such as 'proj.events:operator'"
        ) from error
    return found


def load_event_handler(settings: Settings) -> Callable[..., Any] | None:
    """Return the default event handler that *settings* name; None: there is none.

    :raises ConfigurationError: it cannot be imported or called.
    """
    found = import_setting("default_event_handler", settings.default_event_handler)
    if found is not None and (wrong := why_not(found, "event")):
        raise ConfigurationError(
            f"{PREFIX}default_event_handler = {settings.default_event_handler!r}: {wrong}: name a function that takes "
            "an event, such as 'proj.events:unmatched'"
        )
    return found  # type: ignore[no-any-return]


def load_middleware(settings: Settings) -> list[Callable[..., Any]]:
    """Return the middleware that *settings* name.

    :raises ConfigurationError: one cannot be imported, created or called.
    """
    found = []
    for given in settings.middleware:
        made = created("middleware", import_setting("middleware", given), "proj.mw:tenant")
        if wrong := why_not(made, "call", "consumer", "event", "message", may_await=True):
            raise ConfigurationError(
                f"{PREFIX}middleware: {printable(repr(made))}: {wrong}: name a function such as "
                "def tenant(call, consumer, event, message): return call()"
            )
        found.append(made)
    return found


def load_decoders(settings: Settings) -> dict[str, Decoder]:
    """Return the decoders of ``balog_decoders``, by topic.

    :raises ConfigurationError: there is no such decoder.
    """
    found = {}
    for topic, decoder in settings.decoders.items():
        try:
            with cwd_in_path():
                found[topic] = find_decoder(decoder)
        except ConfigurationError as error:
            raise ConfigurationError(f"{PREFIX}decoders[{topic!r}] = {decoder!r}: {error}") from error
        except IMPORT_FAILURES as error:
            raise import_error(f"{PREFIX}decoders[{topic!r}] = {decoder!r}", error) from error
    return found


def app_identity(app: Celery, settings: Settings) -> str:
    """Return what distinguishes *app*'s engines from those of other projects: its last part does from other brokers.

    Two copies of a project on one machine may differ in their brokers only. Hashed, as a URL may hold a password.
    """
    # Celery(__name__) in the script that starts the worker; its engine imports that script by its name.
    name = main_module() if app.main == "__main__" else app.main
    return f"{name}-{_digest(f'{name}|{settings.region}|{sorted(settings.packages)}')}-{_digest(app.conf.broker_url)}"


def _digest(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:12]


def topic_options(settings: Settings, local: bool) -> TopicOptions:
    """Return the engine's options that may differ from topic to topic.

    :param local: whether the topics are in the local SQS.
    """
    is_short = local and "wait_time" not in settings.model_fields_set
    return TopicOptions(
        wait_time=_LOCAL_WAIT_TIME if is_short else settings.wait_time,
        pollers=settings.pollers if settings.event_broker_url is None else 1,
        visibility_timeout=settings.visibility_timeout,
        dead_letter=settings.dead_letter,
        max_in_flight=settings.max_in_flight,
    )
