"""Joins the parts that serve one Celery app: settings, consumers, tasks, queues, engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery
from celery.utils.imports import cwd_in_path

from ..consumers.consumer import Consumer
from ..consumers.hub import ConsumerHub
from ..consumers.time_limits import time_limit_warnings
from ..dead_letters.writer import DeadLetters
from ..dev import local_stack
from ..dispatch.channel import Channel
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.hand_off_engine import HandOffDispatcher
from ..dispatch.publish import PublishDispatcher
from ..engine.engine import Engine
from ..engine.pauses import PauseFiles, Pauses
from ..engine.status import StatusFile, read_statuses, status_folders
from ..events.decoders import Decoder, Reader, decoder_for, reader_of
from ..outbox.store import Store
from ..settings import Settings
from ..sqs.addresses import queue_name
from ..sqs.protocols import Queue
from ..tasks.idempotency import IdempotencyStore
from ..tasks.routes import Routes, register_dead_letter_task
from ..telemetry import Telemetry, find
from . import configuration, connections, loading
from .status_dir import check_status_dir, status_dirs
from .topic_settings import settings_by_topic

logger = logging.getLogger(__name__)


class Integration:
    """The wiring of one Celery app: its attribute ``balog``, set by :func:`install`."""

    def __init__(self, app: Celery, given: dict[str, Any], *, may_be_local: bool) -> None:
        self._app = app
        self._given = given
        self._may_be_local = may_be_local
        self._routes = Routes()
        self._loaded = False
        #: The settings of each topic that has some of its own.
        self._topic_settings: dict[str, Settings] = {}
        #: Celery's settings that the app left open.
        self._filled_in: set[str] = set()
        self.hub = ConsumerHub()

    @cached_property
    def settings(self) -> Settings:
        """The app's ``balog_*`` settings; one in the configuration wins over one given to :func:`install`.

        :raises ConfigurationError: one is unknown, or has a value of a wrong type.
        """
        return configuration.read_settings(self._app, self._given)

    def settings_of(self, topic: str) -> Settings:
        """Return the settings of *topic*, as it is resolved, once consumers are loaded; of another queue the app's."""
        return self._topic_settings.get(topic, self.settings)

    @cached_property
    def operator(self) -> Any:
        """The consumer operator that the settings name.

        :raises ConfigurationError: it cannot be imported or created, or lacks a method.
        """
        return configuration.load_operator(self.settings)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """The writer of dead letters."""
        return DeadLetters(
            self.connect,
            lambda topic: self.settings_of(topic).dead_letter,
            lambda *letter: self.telemetry.dead(*letter),
        )

    def outbox(self, name: str | None = None) -> Store:
        """Return the outbox that *name*, or else ``balog_outbox``, names.

        :raises ConfigurationError: there is none, or it cannot be imported.
        """
        return configuration.load_outbox(self.settings, name)

    @property
    def telemetry(self) -> Telemetry:
        """Traces and metrics. Looked up each time: a process may set OpenTelemetry up at any time.

        :raises ConfigurationError: it is required, and not installed.
        """
        return find(self.settings.telemetry)

    @cached_property
    def local(self) -> bool:
        """True if the local stack serves this app."""
        return configuration.is_local(self._app, self.settings, may_be_local=self._may_be_local)

    @property
    def dispatch(self) -> str:
        """How an engine beside a worker dispatches tasks: ``"hand-off"`` or ``"publish"``."""
        return self.settings.dispatch or ("publish" if self.local else "hand-off")

    @property
    def state_dir(self) -> Path:
        """The folder of the local stack."""
        return Path(self.settings.state_dir)

    def connect(self, topic: str) -> Queue:
        """Return the queue of *topic*, with the app's credentials.

        :raises BalogError: the local stack does not run, or kombu cannot use the broker's URL.
        """
        local_dir = self.state_dir if self.local else None
        return connections.connect_queue(topic, self.settings_of(topic), local_dir)

    def configure(self, conf: Any) -> None:
        """Set what *conf* leaves open."""
        self._filled_in |= configuration.fill_in(conf, self._local_broker)
        self._add_routes(conf)
        self._read_again()

    def _read_again(self) -> None:
        # The app may change its configuration until it is loaded.
        for name in ("settings", "local"):
            vars(self).pop(name, None)

    @property
    def limits_prefetch(self) -> bool:
        """Whether the app sets ``worker_prefetch_multiplier`` itself."""
        return "worker_prefetch_multiplier" not in self._filled_in

    def _add_routes(self, conf: Any) -> None:
        """Route consumers' tasks, after the app's own routes."""
        routes = conf.task_routes or ()
        routes = routes if isinstance(routes, (list, tuple)) else (routes,)
        if self._routes not in routes:
            conf.update(task_routes=(*routes, self._routes))  # a router that exists already follows this

    def load(self) -> None:
        """Find the consumers and register a task for each. Does nothing the second time.

        :raises ConfigurationError: a setting, a consumer or a topic is wrong.
        """
        if self._loaded:
            return
        configuration.require_json(self._app.conf)
        configuration.warn_of_unread(self._app)
        self._read_again()
        with cwd_in_path():
            loading.scan_packages(self.hub, self.settings)
            operator = self.operator
            middleware = configuration.load_middleware(self.settings)
            for consumer in loading.routed_consumers(self._app, self.settings.routes):
                self.hub.add_consumer(consumer)
        # The app may have set its own routes, or secrets, since it was configured.
        self._add_routes(self._app.conf)
        configuration.hide_secrets(self._app.conf)
        register_dead_letter_task(self._app, self.dead_letters)
        loading.register_consumers(
            self._app, self.hub, operator, self.settings, self.dead_letters, lambda: self.marks, middleware
        )
        for consumer in self.hub:
            self._routes.add(consumer, self._app.tasks[consumer.task_name])
            if (limit := consumer.limit) is not None and limit.in_cluster:
                self.redis(f"concurrency={(limit.limit, 'cluster')!r}")
        self._topic_settings = settings_by_topic(self.settings, self.topics(), operator)
        self._loaded = True

    def topics(self) -> dict[str, list[Consumer]]:
        """Return the consumers of each topic, once they are loaded."""
        topics: dict[str, list[Consumer]] = {}
        for consumer in self.hub:
            topics.setdefault(self._app.tasks[consumer.task_name].topic, []).append(consumer)
        return topics

    def reader(self, topic: str) -> Reader:
        """Return the reader of the bodies of *topic*, once consumers are loaded: its own decoder, else ``auto``.

        :raises ConfigurationError: there is no such decoder.
        """
        return reader_of(self._decoder_of(topic), queue_name(topic))

    def decoder_name(self, topic: str) -> str:
        """Return the decoder of *topic* as ``balog_decoders`` names it, else ``auto``."""
        given = self.settings.decoders
        return str(next((given[name] for name in loading.topic_names(self.topics(), topic) if name in given), "auto"))

    def _decoder_of(self, topic: str) -> Decoder:
        return decoder_for(loading.topic_names(self.topics(), topic), self._decoders)

    @property
    def pollers(self) -> int:
        """How many receives of a topic may run at a time, of the topic with the most. FIFO topics always have one."""
        if self.settings.event_broker_url is not None:
            return 1
        return max((self.settings_of(topic).pollers for topic in self.topics()), default=self.settings.pollers)

    def engine(
        self, channel: Channel | None = None, dispatcher: Dispatcher | None = None, pauses: Pauses | None = None
    ) -> Engine:
        """Return an engine for this app.

        :param channel: the channel to its worker; None: publish all tasks.
        :param dispatcher: used instead of both.
        :param pauses: what its worker has paused.
        :raises ConfigurationError: a setting, a consumer or a topic is wrong.
        """
        self.load()
        settings = self.settings
        check_status_dir(settings.status_dir)
        return Engine(
            self.hub,
            self.connect,
            consumer_operator=self.operator,
            dispatcher=dispatcher or self._dispatcher(channel),
            default_event_handler=configuration.load_event_handler(settings),
            **configuration.topic_options(settings, self.local),
            topics={topic: configuration.topic_options(own, self.local) for topic, own in self._topic_settings.items()},
            drain=settings.drain,
            create_queues=self.local,
            decoders=self._decoders,
            max_body_bytes=settings.max_body_bytes,
            max_depth=settings.max_depth,
            status_file=self.status_file("engine"),
            telemetry=self.telemetry,
            pauses=pauses or Pauses(),
        )

    def check_engine(self) -> None:
        """Run the checks of the engine's start that need no queue.

        :raises ConfigurationError: a setting, a consumer or a topic is wrong.
        """
        publish = PublishDispatcher(self._app, self.settings.publish_timeout, self.settings.high_water)
        self.engine(dispatcher=publish).check_configuration()

    def _dispatcher(self, channel: Channel | None) -> Dispatcher:
        settings = self.settings
        waters = {topic: own.high_water for topic, own in self._topic_settings.items()}
        publish = PublishDispatcher(self._app, settings.publish_timeout, settings.high_water, self.telemetry, waters)
        for warning in time_limit_warnings(self._app, self.hub, "publish" if channel is None else "hand-off"):
            logger.warning("%s", warning)
        return publish if channel is None else HandOffDispatcher(self._app, channel, publish)

    @cached_property
    def _decoders(self) -> dict[str, Decoder]:
        return configuration.load_decoders(self.settings)

    @property
    def status_dir(self) -> Path:
        """The folder of the statuses of this app's engines; ConfigurationError: it cannot be used."""
        return status_dirs(self.settings.status_dir)[0]

    def status_file(self, kind: str) -> StatusFile:
        """Return where this process writes the status of its engine, or of its relay.

        :param kind: ``"engine"`` or ``"relay"``.
        """
        return StatusFile(lambda: status_folders(self.settings.status_dir)[0], self._identity, kind)

    @property
    def _identity(self) -> str:
        return configuration.app_identity(self._app, self.settings)

    @property
    def pause_files(self) -> PauseFiles:
        """Where this app's workers on this machine keep what is paused.

        :raises ConfigurationError: the folder cannot be used.
        """
        return PauseFiles(self.status_dir, self._identity)

    def statuses(self, kind: str = "engine") -> list[dict[str, Any]]:
        """Return the status of each engine, or of each relay, of this app that runs on this machine."""
        return list(read_statuses(status_dirs(self.settings.status_dir), self._identity, kind))

    @cached_property
    def marks(self) -> IdempotencyStore:
        """The store of the events that consumers with ``once`` have finished.

        :raises ConfigurationError: there is no Redis for it.
        """
        return IdempotencyStore(self.redis("once="))

    def redis(self, option: str) -> Callable[[], Any]:
        """Return what returns the client of the Redis that consumers with *option* need.

        :raises ConfigurationError: there is none.
        """
        return connections.redis_client(self._app, self.settings, self._local_broker(), option)

    def _local_broker(self) -> str | None:
        return local_stack.broker_url(self.state_dir) if self.local else None
