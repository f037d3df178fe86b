"""Joins a Celery app to its consumers: settings, hub, tasks, and the engine."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.utils.imports import cwd_in_path, symbol_by_name
from kombu.serialization import prepare_accept_content
from pydantic import SecretStr

from . import local
from .consumers.consumer import Consumer
from .consumers.dispatcher import Dispatcher
from .consumers.engine import Engine
from .consumers.hub import ConsumerHub
from .consumers.kombu import KombuQueue
from .consumers.operator import ConsumerOperator, check_operator, resolve_topic
from .consumers.status import StatusFile, engine_statuses, status_folder
from .dead_letters import DeadLetters
from .decoders import Decoder, Reader, decoder_for, find_decoder, reader_of
from .dispatch import HandOffDispatcher, PublishDispatcher
from .errors import ConfigurationError
from .hand_off import HandOffStep
from .limits import limit_doubts
from .link import Link
from .once import Marks
from .queues import Queue, SQSQueue
from .settings import PREFIX, SECRETS, Settings, queue_name
from .task_events import TaskEventsStep
from .tasks import Routes, register, register_bury
from .telemetry import Telemetry, find
from .watch import TaskWatch
from .worker import EngineStep, LocalStep, no_engine_option

logger = logging.getLogger(__name__)

#: What this package would have in a configuration that does not say otherwise. JSON only is Celery's own default.
CELERY_DEFAULTS = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": True,
}

#: How long a poll of the local SQS waits, in seconds: a stop waits for it.
_LOCAL_WAIT_TIME = 2


class Integration:
    """What this package knows of one Celery app: its attribute ``balog``, made by :func:`install`."""

    def __init__(self, app: Celery, given: dict[str, Any], *, may_be_local: bool) -> None:
        self._app = app
        self._given = given
        self._may_be_local = may_be_local
        self._routes = Routes()
        self._loaded = False
        self.hub = ConsumerHub()

    @cached_property
    def settings(self) -> Settings:
        """The app's ``balog_*`` settings; one in the configuration wins over one given to :func:`install`.

        :raises ConfigurationError: one is unknown, or of a wrong type.
        """
        conf = self._app.conf
        # As Celery's own: behind the app's namespace if it has one (CELERY_BALOG_REGION), and in capitals as well.
        namespace = f"{self._app.namespace}_" if self._app.namespace else ""
        configured: dict[str, Any] = {}
        for key in sorted(key for key in conf if isinstance(key, str)):  # what was set in the code, in lower case, wins
            name = key.removeprefix(namespace).lower()
            if key.startswith(PREFIX) or (key.startswith(namespace) and name.startswith(PREFIX)):
                configured[name] = conf[key]
        return Settings.from_conf({**{PREFIX + key: value for key, value in self._given.items()}, **configured})

    @cached_property
    def operator(self) -> Any:
        """The consumer operator that the settings name.

        :raises ConfigurationError: it cannot be imported or made, or lacks a method.
        """
        found = _imported("operator", self.settings.operator) or ConsumerOperator
        if isinstance(found, type):
            try:
                found = found()
            except TypeError as error:
                raise ConfigurationError(
                    f"balog_operator: {found.__qualname__}() cannot be made without arguments ({error}): "
                    "name an object, such as 'proj.events:operator'"
                ) from error
        check_operator(found)
        return found

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """Where events go that failed for good."""
        return DeadLetters(self.connect, self.settings.dead_letter, lambda *said: self.telemetry.dead(*said))

    @property
    def telemetry(self) -> Telemetry:
        """Who else is told of events on their way. Not kept: each process sets OpenTelemetry up when it likes.

        :raises ConfigurationError: it is required, and not installed.
        """
        return find(self.settings.telemetry)

    @cached_property
    def local(self) -> bool:
        """Whether the embedded broker and SQS serve this app."""
        if self.settings.local is not None:
            return self.settings.local
        elsewhere = self._endpoint or self.settings.event_broker_url
        return self._may_be_local and self._app.conf.broker_url in (None, self._local_broker) and not elsewhere

    @property
    def dispatch(self) -> str:
        """Whether an engine beside a worker hands tasks over (``"hand-off"``) or publishes them (``"publish"``)."""
        return self.settings.dispatch or ("publish" if self.local else "hand-off")

    @property
    def state_dir(self) -> Path:
        """The folder of the embedded broker and SQS."""
        return Path(self.settings.state_dir)

    def connect(self, topic: str) -> Queue:
        """The queue of *topic*, with the app's credentials.

        :raises ConfigurationError: it is an embedded one, and does not run; or kombu cannot use the broker's URL.
        """
        settings = self.settings
        if settings.event_broker_url is not None:
            return KombuQueue(
                topic,
                settings.event_broker_url.get_secret_value(),
                visibility_timeout=settings.visibility_timeout,
                transport_options=settings.event_broker_transport_options,
            )
        connection: dict[str, Any] = {"region": settings.region, "endpoint_url": settings.endpoint_url}
        for secret in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
            value = getattr(settings, secret)
            connection[secret] = value.get_secret_value() if value else None
        if self.local:
            stack = local.find(self.state_dir)
            if stack is None:
                raise ConfigurationError(
                    f"the embedded SQS of {self.state_dir} does not run: start a worker in this folder, "
                    "or configure a broker and an endpoint"
                )
            dummies = dict(local.DUMMY_CREDENTIALS)
            connection = {"region": dummies.pop("region_name"), **dummies, "endpoint_url": stack.endpoint_url}
            connection["s3_endpoint_url"] = stack.endpoint_url
        return SQSQueue(
            topic,
            visibility_timeout=settings.visibility_timeout,
            payload_buckets=settings.payload_bucket,
            max_body_bytes=settings.max_body_bytes,
            message_attributes=self.telemetry.attributes,
            **connection,
        )

    def configure(self, conf: Any) -> None:
        """Fill in what *conf* leaves open. Errors in our settings are not raised here, where Celery swallows them."""
        for key, value in CELERY_DEFAULTS.items():
            if not conf.value_set_for(key):
                conf[key] = value
        for key in SECRETS:
            # `celery report` and `inspect conf` know only by its name what is secret.
            if isinstance(value := conf.get(key), str):
                conf[key] = SecretStr(value)
        self._add_routes(conf)
        try:
            is_local = self.local
        except ConfigurationError:
            return
        if is_local and conf.broker_url is None:
            conf.broker_url = self._local_broker
            conf.broker_transport_options = {**local.TRANSPORT_OPTIONS, **conf.broker_transport_options}

    def _add_routes(self, conf: Any) -> None:
        """Route consumers' tasks where the user's own routes say nothing."""
        routes = conf.task_routes or ()
        routes = routes if isinstance(routes, (list, tuple)) else (routes,)
        if self._routes not in routes:
            conf.update(task_routes=(*routes, self._routes))  # which a router that was made before heeds

    def load(self) -> None:
        """Find the consumers and register a task for each; does nothing the second time.

        :raises ConfigurationError: a setting, a consumer or a topic is wrong.
        :raises ImportError: a module cannot be imported.
        """
        if self._loaded:
            return
        accepted = self._app.conf.accept_content
        if accepted is not None and "application/json" not in prepare_accept_content(accepted):  # type: ignore[no-untyped-call]
            raise ConfigurationError(
                f"accept_content = {accepted!r} refuses JSON, as which events travel, and a worker would discard them: "
                "add 'json' to it"
            )
        with cwd_in_path():
            for package in self.settings.packages:
                self.hub.scan(importlib.import_module(package), ignore=self.settings.ignore)
            operator = self.operator
        # The app may have set its own routes since it was configured.
        self._add_routes(self._app.conf)
        register_bury(self._app, self.dead_letters)
        for consumer in self.hub:
            topic = resolve_topic(operator, consumer)
            marks = self.marks if consumer.once else None
            # Other brokers know no groups.
            is_fifo = topic.rstrip("/").endswith(".fifo") and self.settings.event_broker_url is None
            fifo = self.settings.fifo_on_failure if is_fifo else ""
            register(self._app, consumer, operator, topic, self.dead_letters, marks, fifo)
            self._routes.add(consumer)
        self._loaded = True

    def topics(self) -> dict[str, list[Consumer]]:
        """The consumers of each topic, once they are loaded."""
        topics: dict[str, list[Consumer]] = {}
        for consumer in self.hub:
            topics.setdefault(self._app.tasks[consumer.task_name].topic, []).append(consumer)
        return topics

    def reader(self, topic: str) -> Reader:
        """What reads the bodies of *topic*, once consumers are loaded: the decoder set for it, else ``auto``.

        :raises ConfigurationError: there is no such decoder.
        """
        names = [
            name
            for known, consumers in self.topics().items()
            if queue_name(known) == queue_name(topic)
            for name in (known, *(consumer.topic for consumer in consumers))
        ]
        return reader_of(decoder_for(names, self._decoders))

    @property
    def pollers(self) -> int:
        """How many receives of a topic may be under way; FIFO topics have one all the same."""
        return self.settings.pollers if self.settings.event_broker_url is None else 1

    def engine(self, link: Link | None = None, dispatcher: Dispatcher | None = None) -> Engine:
        """The engine of this app: it puts tasks on the app's broker, or hands them to a worker.

        :param link: the socket to the worker beside which it runs, if that takes tasks.
        :param dispatcher: what serves the consumers instead.
        :raises ConfigurationError: a setting, a consumer or a topic is wrong.
        """
        self.load()
        settings = self.settings
        wait_time = settings.wait_time
        if self.local and "wait_time" not in settings.model_fields_set:
            wait_time = _LOCAL_WAIT_TIME
        return Engine(
            self.hub,
            self.connect,
            consumer_operator=self.operator,
            dispatcher=dispatcher or self._dispatcher(link),
            default_event_handler=_imported("default_event_handler", settings.default_event_handler),
            wait_time=wait_time,
            pollers=self.pollers,
            visibility_timeout=settings.visibility_timeout,
            drain=settings.drain,
            dead_letter=settings.dead_letter,
            create_queues=self.local,
            decoders=self._decoders,
            max_body_bytes=settings.max_body_bytes,
            max_depth=settings.max_depth,
            status_file=StatusFile(self.status_dir, self._identity),
            telemetry=self.telemetry,
        )

    def _dispatcher(self, link: Link | None) -> Dispatcher:
        settings = self.settings
        publish = PublishDispatcher(self._app, settings.publish_timeout, settings.high_water, self.telemetry)
        for doubt in limit_doubts(self._app, self.hub, "publish" if link is None else "hand-off"):
            logger.warning("%s", doubt)
        return publish if link is None else HandOffDispatcher(self._app, link, publish)

    @cached_property
    def _decoders(self) -> dict[str, Decoder]:
        with cwd_in_path():
            return {topic: find_decoder(decoder) for topic, decoder in self.settings.decoders.items()}

    @property
    def _identity(self) -> str:
        """Tells this app's engines from those of this user's other projects; hashed, for a URL may hold a password."""
        settings = self.settings
        said = f"{self._app.main}|{self._app.conf.broker_url}|{settings.region}|{sorted(settings.packages)}"
        return f"{self._app.main}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    @property
    def status_dir(self) -> Path:
        """Where this app's engines keep their status.

        :raises ConfigurationError: it cannot be used.
        """
        try:
            return status_folder(self.settings.status_dir)
        except OSError as error:
            raise ConfigurationError(f"set balog_status_dir to a folder of this user's: {error}") from error

    def statuses(self) -> list[dict[str, Any]]:
        """The status of each of this app's engines that run on this machine."""
        return list(engine_statuses(self.status_dir, self._identity))

    @cached_property
    def marks(self) -> Marks:
        """Where it is remembered which events are done, for consumers with ``once``.

        :raises ConfigurationError: there is no Redis for it.
        """
        url = self.settings.once_url.get_secret_value() if self.settings.once_url else ""
        if not url and self.local:
            url = self._local_broker
        if url:
            return Marks(partial(_redis, url))
        if str(self._app.conf.result_backend or "").startswith(("redis", "rediss", "sentinel", "valkey")):
            # The backend makes a client for each process and thread that asks.
            return Marks(lambda: self._app.backend.client)
        raise ConfigurationError(
            "a consumer has once=, which needs Redis: set balog_once_url, or a Redis result backend"
        )

    @property
    def _endpoint(self) -> str | None:
        return (
            self.settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_SQS") or os.environ.get("AWS_ENDPOINT_URL")
        )

    @property
    def _local_broker(self) -> str:
        return local.broker_url(self.state_dir)


def install(app: Celery, packages: Iterable[str] = (), **settings: Any) -> Celery:
    """Let *app* consume events: its workers run an engine, and each consumer is one of its tasks.

    Call it where the app is made; it imports nothing yet. The app keeps its own tasks and settings.

    :param app: a Celery app.
    :param packages: the packages to scan for consumers, by dotted name.
    :param settings: any of the package's settings, without their prefix: ``region="eu-west-1"``. The same setting in
        the app's configuration, with the prefix ``balog_``, wins.
    :returns: the app.
    :raises ConfigurationError: a setting is unknown, or of a wrong type, or this was called for the app before.
    """
    given = {"packages": (packages,) if isinstance(packages, str) else tuple(packages), **settings}
    Settings.from_conf({PREFIX + key: value for key, value in given.items()})  # told where it is written
    return _install(app, given, may_be_local=False)


def install_default(app: Celery) -> Celery:
    """As :func:`install`, for the app of ``celery -A balog_celery``: without broker and endpoint, it brings its own."""
    return _install(app, {}, may_be_local=True)


def _install(app: Celery, given: dict[str, Any], *, may_be_local: bool) -> Celery:
    if hasattr(app, "balog"):
        raise ConfigurationError(f"balog_celery is installed in {app!r} already: name all packages in one call")
    # An attribute of the app, so that it is found wherever the app is: in a step, in a command.
    app.balog = integration = Integration(app, given, may_be_local=may_be_local)
    app.user_options["worker"].add(no_engine_option())
    app.steps["worker"].add(LocalStep)
    app.steps["worker"].add(EngineStep)
    app.steps["consumer"].add(HandOffStep)
    app.steps["consumer"].add(TaskEventsStep)

    def configured(source: Any, **_: Any) -> None:
        integration.configure(source)

    def import_modules(**_: Any) -> None:
        integration.load()

    if app.configured:
        configured(app.conf)
    else:
        app.on_after_configure.connect(configured, weak=False)
    # Sent when a worker, an engine or a report loads the app's modules; what is raised there reaches the user.
    signals.import_modules.connect(import_modules, sender=app, weak=False)
    TaskWatch(app, lambda: integration.telemetry).begin()
    return app


@lru_cache
def _redis(url: str) -> Any:
    import redis

    # redis-py itself knows a unix socket by another name than kombu does, and sees to forks.
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://"), socket_timeout=10, socket_connect_timeout=5)


def _imported(setting: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        with cwd_in_path():
            return symbol_by_name(value)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{PREFIX}{setting} = {value!r} cannot be imported: {error}") from error
