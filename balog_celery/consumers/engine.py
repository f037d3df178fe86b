"""The engine: listens to every topic that a hub's consumers name, until it is stopped."""

from __future__ import annotations

import difflib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypedDict

from ..dead_letters import DeadLetters
from ..decoders import Decoder, decoder_for, find_decoder, reader_of
from ..errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from ..queues import MAX_BODY_BYTES, MISCONFIGURED, Connect, Message, Queue
from ..telemetry import Telemetry, find
from ..text import printable
from .batches import Batches
from .consumer import Consumer
from .delivery import Job
from .dispatcher import Dispatcher, InlineDispatcher
from .doubts import doubts
from .hub import ConsumerHub
from .keeper import Keeper
from .listener import Listener
from .operator import ConsumerOperator, check_operator, resolve_topic
from .stats import Lag, Stats
from .status import StatusFile, together

logger = logging.getLogger(__name__)

#: SQS's default visibility timeout, used where a queue's own could not be asked for.
DEFAULT_VISIBILITY = 30


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Engine` that every engine takes as they are."""

    dispatcher: Dispatcher | None
    wait_time: int
    pollers: int
    visibility_timeout: int | None
    drain: float
    dead_letter: str | None
    create_queues: bool
    decoders: Mapping[str, Any]
    max_body_bytes: int
    max_depth: int
    status_file: StatusFile | None
    telemetry: Telemetry | None


class Engine:
    """Receives from each topic, and has its consumers served by a dispatcher; knows neither SQS nor Celery.

    :param hub: the consumers.
    :param connect: gives the queue of a topic.
    :param consumer_operator: says which queue a topic is and how functions are called; default:
        :class:`ConsumerOperator`.
    :param dispatcher: serves the consumers; default: inline, in the polling threads.
    :param default_event_handler: called with each event that no consumer wants; default: such an event is counted,
        logged and deleted.
    :param wait_time: how long one poll waits for a first message: seconds, at most 20.
    :param pollers: how many receives of a topic may be under way at a time, each with deletes of its own; a FIFO topic
        has one.
    :param visibility_timeout: what was asked of the queues, in seconds; default: each queue's own setting.
    :param drain: how long a stop waits for what is in flight, in seconds.
    :param dead_letter: the name of a topic's dead-letter queue, ``{topic}`` standing for the topic; None: none.
    :param create_queues: whether to create the queues at start: for development.
    :param decoders: what reads the bodies of a topic, by the topic's name as a consumer has it or as it is resolved:
        one of :data:`~balog_celery.decoders.DECODERS` by its name, a dotted name, or a decoder; default: ``auto``.
    :param max_body_bytes: the largest body that is decoded, in bytes; a larger one is a dead letter.
    :param max_depth: how deep a body may be nested; a deeper one is a dead letter.
    :param status_file: where to keep the engine's status for other processes.
    :param telemetry: who else is told of events on their way; default: OpenTelemetry, if the process has set it up.
    :raises ConfigurationError: the operator has not both methods, or there is no such decoder.
    """

    def __init__(
        self,
        hub: ConsumerHub,
        connect: Connect,
        *,
        consumer_operator: Any = None,
        dispatcher: Dispatcher | None = None,
        default_event_handler: Callable[[Any], Any] | None = None,
        wait_time: int = 20,
        pollers: int = 1,
        visibility_timeout: int | None = None,
        drain: float = 20.0,
        dead_letter: str | None = "{topic}-dead",
        create_queues: bool = False,
        decoders: Mapping[str, Any] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_depth: int = 100,
        status_file: StatusFile | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.hub = hub
        self.stats = Stats()
        self.telemetry = find() if telemetry is None else telemetry
        self._operator = ConsumerOperator() if consumer_operator is None else consumer_operator
        check_operator(self._operator)
        self._connect = connect
        self._dead_letters = DeadLetters(connect, dead_letter, self.telemetry.dead)
        self._dispatcher = dispatcher or InlineDispatcher(
            self._operator, self._bury, lambda consumer: self._topic_of[consumer], self.telemetry
        )
        self._default_event_handler = default_event_handler
        self._wait_time = wait_time
        self._pollers = pollers
        self._visibility_timeout = visibility_timeout
        self._drain = drain
        self._create_queues = create_queues
        self._decoders = {topic: find_decoder(decoder) for topic, decoder in (decoders or {}).items()}
        self._max_body_bytes = max_body_bytes
        self._max_depth = max_depth
        self._status_file = status_file
        self._status_failing = False
        self._stop = threading.Event()
        self._listeners: list[Listener] = []
        self._batches: list[Batches] = []
        self._topic_of: dict[Consumer, str] = {}

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until :meth:`stop`, Ctrl-C or SIGTERM; then finish what is in flight, within the drain limit.

        :param ready: called when every queue has been looked at, before anything is received.
        :raises ConfigurationError: there are no consumers, a topic cannot be resolved, a queue is missing, the
            dispatcher cannot keep the order of a FIFO topic, or no client of SQS can be made: there is no region, or
            the endpoint is no URL.
        :raises AccessDenied: the credentials are missing, wrong, or lack a permission.
        """
        with self._terminable():
            self._prepare()
            ready()
            self._start()
            try:
                while not self._stop.wait(1.0):
                    for listener in self._listeners:
                        listener.ensure_alive()
                        listener.keeper.ensure_alive()
                    for batches in self._batches:
                        batches.ensure_alive()
                    self._write_status()
            except KeyboardInterrupt:
                logger.info("interrupted: stopping")
            finally:
                self._shut_down()

    def stop(self) -> None:
        """Ask :meth:`run` to stop; may be called from any thread and from a signal handler."""
        self._stop.set()

    def take(self, topic: str, message: Message) -> None:
        """Do with *message* of *topic* what is done with one that was received, in this thread, in an engine that does
        not run: for tests. It is neither deleted nor given back.

        :raises ConfigurationError: as :meth:`run`; or no consumer listens to *topic*.
        """
        if not self._listeners:
            self._prepare()
        name = self._connect(topic).name
        for listener in self._listeners:
            if listener.topic == name:
                listener.take([message])
                return
        raise ConfigurationError(f"no consumer listens to {topic!r}: {', '.join(map(repr, self.topics()))} are known")

    def flush(self) -> None:
        """Serve in this thread what batch consumers wait to have more of, in an engine that does not run: for tests."""
        for batches in self._batches:
            batches.flush()

    def topics(self) -> dict[str, list[Consumer]]:
        """The consumers of each topic, after the operator's ``get_topic``.

        :raises ConfigurationError: a topic cannot be resolved.
        """
        topics: dict[str, list[Consumer]] = {}
        for consumer in self.hub:
            topics.setdefault(resolve_topic(self._operator, consumer), []).append(consumer)
        return topics

    @contextmanager
    def _terminable(self) -> Iterator[None]:
        """Let SIGTERM stop the engine where nobody else has said what it should do."""

        def on_term(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        ours = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if ours:
            signal.signal(signal.SIGTERM, on_term)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _start(self) -> None:
        for batches in self._batches:
            batches.start()
        for listener in self._listeners:
            listener.keeper.start()
            listener.start()
        self._write_status(now=True)
        topics = {listener.topic for listener in self._listeners}
        logger.info("engine started: %d topics, %d consumers", len(topics), len(self.hub))

    def _prepare(self) -> None:
        topics = self.topics()
        if not topics:
            raise ConfigurationError("there are no consumers: scan a package in which functions have @consumer_config")
        queues = {topic: self._connect(topic) for topic in topics}
        self._topic_of = {consumer: queues[topic].name for topic in topics for consumer in topics[topic]}
        readers = {topic: reader_of(decoder) for topic, decoder in self._decoders_of(topics).items()}
        for doubt in doubts(topics):
            logger.warning("%s", doubt)
        for topic, queue in queues.items():
            if queue.is_fifo:
                self._dispatcher.check_order(topics[topic])
        visibilities = self._check(queues)
        for topic, consumers in topics.items():
            queue = queues[topic]
            dispatcher, lag = self._dispatcher_of(queue.name, consumers), Lag()
            self._listeners += [
                Listener(
                    queue,
                    consumers,
                    reader=readers[topic],
                    keeper=Keeper(queue, visibilities[topic], self.stats),
                    dispatcher=dispatcher,
                    dead_letters=self._dead_letters,
                    default_event_handler=self._default_event_handler,
                    wait_time=self._wait_time,
                    max_body_bytes=self._max_body_bytes,
                    max_depth=self._max_depth,
                    stats=self.stats,
                    lag=lag,
                    telemetry=self.telemetry,
                )
                for _ in range(1 if queue.is_fifo else self._pollers)
            ]

    def _dispatcher_of(self, topic: str, consumers: Sequence[Consumer]) -> Dispatcher:
        """What serves *consumers*: the dispatcher, by way of what gathers batches if one of them takes any."""
        if all(consumer.batch is None for consumer in consumers):
            return self._dispatcher
        self._batches.append(Batches(topic, self._dispatcher))
        return self._batches[-1]

    def _decoders_of(self, topics: Mapping[str, Sequence[Consumer]]) -> dict[str, Decoder]:
        """The decoder of each topic.

        :raises ConfigurationError: one was given for a topic that has no consumer, so that its name may be misspelt.
        """
        names = {topic: [topic, *(consumer.topic for consumer in consumers)] for topic, consumers in topics.items()}
        everything = {name for known in names.values() for name in known}
        for name in self._decoders.keys() - everything:
            near = difflib.get_close_matches(name, everything, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the topics are {', '.join(sorted(topics))}"
            raise ConfigurationError(f"there is a decoder for {name!r}, which is no consumer's topic: {hint}")
        return {topic: decoder_for(known, self._decoders) for topic, known in names.items()}

    def status(self) -> dict[str, Any]:
        """What the engine is doing, by topic."""
        states: dict[str, list[dict[str, Any]]] = {}
        for listener in self._listeners:
            states.setdefault(printable(listener.topic), []).append(listener.status())
        return {"wait_time": self._wait_time, "topics": {topic: together(state) for topic, state in states.items()}}

    def _write_status(self, *, now: bool = False) -> None:
        if self._status_file is not None:
            try:
                self._status_file.write(self.status(), now=now)
            except OSError as error:
                # Said once; a disk that is full may have room again.
                if not self._status_failing:
                    logger.warning("the engine's status cannot be written, so `balog health` will fail: %s", error)
                self._status_failing = True
            else:
                self._status_failing = False

    def _check(self, queues: dict[str, Queue]) -> dict[str, int]:
        """Look at every queue before anything is received; return how long each keeps a message invisible."""
        visibilities: dict[str, int] = {}
        missing: list[str] = []
        for topic, queue in queues.items():
            try:
                if self._create_queues:
                    self._create(topic, queue)
                attributes = queue.attributes()
            except QueueNotFound as error:
                missing.append(str(error))
                continue
            except AccessDenied:
                raise
            except QueueError as error:
                if error.code in MISCONFIGURED:
                    raise ConfigurationError(str(error)) from error
                logger.warning("queue %s cannot be looked at yet: %s", printable(topic), error)
                attributes = {}
            own = int(attributes.get("VisibilityTimeout", DEFAULT_VISIBILITY))
            visibilities[topic] = self._visibility_timeout or own
            self._say_fates(topic, attributes)
        if missing:
            raise ConfigurationError("; ".join(missing))
        return visibilities

    def _create(self, topic: str, queue: Queue) -> None:
        queue.create()
        dead = self._dead_letters.name(topic)
        if dead is not None:
            self._connect(dead).create()

    def _say_fates(self, topic: str, attributes: Any) -> None:
        """Say once what becomes of events that cannot be decoded, that fail for good, and that nobody wants."""
        try:
            dead = self._dead_letters.name(topic) if self._dead_letters.exists(topic) else None
        except QueueError as error:
            logger.warning("the dead-letter queue of %s cannot be looked at yet: %s", printable(topic), error)
            return
        unwanted = "deleted" if self._default_event_handler is None else "given to the default event handler"
        if dead is not None:
            logger.info(
                "topic %s: bodies that cannot be decoded and events that failed for good go to %s; "
                "events that nobody wants are %s",
                printable(topic),
                printable(dead),
                unwanted,
            )
            return
        redrive = attributes.get("RedrivePolicy")
        logger.warning(
            "topic %s has no dead-letter queue%s: bodies that cannot be decoded stay in it%s; events that failed for "
            "good are logged whole as ERROR records; events that nobody wants are %s",
            printable(topic),
            f" {name!r}" if (name := self._dead_letters.name(topic)) else "",
            f" until its redrive policy {printable(redrive)} moves them" if redrive else " until they expire",
            unwanted,
        )

    def _shut_down(self) -> None:
        """Stop polling first, let finish what runs, give back the rest, and carry out every delete that is owed."""
        self._stop.set()
        deadline = time.monotonic() + self._drain
        for listener in self._listeners:
            listener.stop()
        for batches in self._batches:
            batches.stop()
        for listener in self._listeners:
            if not listener.join(deadline):
                logger.warning("a poll of %s is still under way: what it gets comes again", printable(listener.topic))
        for batches in self._batches:
            batches.join(deadline)
        for listener in self._listeners:
            listener.keeper.drain(deadline)
        # Whatever drain is, what is owed is worth a few seconds more.
        deadline = max(deadline, time.monotonic() + 5.0)
        left = sum(listener.keeper.close(deadline) for listener in self._listeners)
        self._dispatcher.close()
        if left:
            logger.warning("%d messages could not be deleted or given back: they come again", left)
        for topic, counts in self.stats.all().items():
            logger.info(
                "topic %s: %s", printable(topic), ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        if self._status_file is not None:
            self._status_file.remove()
        logger.info("engine stopped")

    def _bury(self, job: Job, error: str) -> bool:
        """Make a dead letter of an event that failed inline."""
        topic, message = self._topic_of[job.consumer], job.delivery.message
        self.stats.add(topic, "failed")
        kept = self._dead_letters.bury(message, job.text, topic, "failed", consumer=job.consumer.task_name, error=error)
        if kept:
            self.stats.add(topic, "dead")
        return bool(kept)
