"""The engine: consumes every topic of a hub's consumers until it is stopped."""

from __future__ import annotations

import difflib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from ..arguments import shown
from ..consumers.consumer import Consumer
from ..consumers.context import EventContext
from ..consumers.delivery import Job
from ..consumers.hub import ConsumerHub
from ..consumers.lint import lint
from ..consumers.operator import ConsumerOperator, check_operator, resolve_topic
from ..dead_letters.writer import DeadLetters
from ..dispatch.dispatcher import InlineDispatcher
from ..errors import ConfigurationError
from ..events.decoders import Decoder, decoder_for, find_decoder, reader_of
from ..producer.lineage import consumes
from ..sqs.addresses import queue_name, topics_named
from ..sqs.messages import Message
from ..sqs.protocols import Connect, Queue
from ..telemetry import OFF, find
from ..text import count_of, plain_topic, printable
from ..threads import StopFlag
from .config import FLUSH, EngineConfig, EngineOptions
from .queue_checks import check_dead_letters, check_queues
from .room import InFlightRoom
from .stats import Lag, Stats
from .status import together
from .termination import stopping_on_sigterm
from .topic import Topic
from .topic_runner import TopicRunner
from .visibility import VisibilityExtender
from .visibility_timeout import VisibilityTimeout

logger = logging.getLogger(__name__)


class Engine:
    """Receives the messages of each topic, and has a dispatcher run its consumers.

    :param hub: the consumers.
    :param connect: returns the queue of a topic.
    :param consumer_operator: resolves topics and calls functions. Default: :class:`ConsumerOperator`.
    :param default_event_handler: called with each event that matches no consumer. Default: count, log and delete it.
    :param options: the other fields of :class:`~balog_celery.engine.config.EngineConfig`.
    :raises ConfigurationError: the operator lacks a method, a decoder does not exist, or an option is wrong.
    """

    def __init__(
        self,
        hub: ConsumerHub,
        connect: Connect,
        *,
        consumer_operator: Any = None,
        default_event_handler: Callable[[Any], Any] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        if not isinstance(hub, ConsumerHub):
            raise ConfigurationError(f"bad hub{shown(hub)}: give a ConsumerHub() that has scanned your packages")
        self.hub = hub
        self.config = EngineConfig(default_event_handler=default_event_handler, **options)
        self.stats = Stats()
        self.telemetry = find() if self.config.telemetry is None else self.config.telemetry
        self._operator = ConsumerOperator() if consumer_operator is None else consumer_operator
        check_operator(self._operator)
        self._connect = connect
        self._dead_letters = DeadLetters(connect, lambda topic: self.config.of(topic).dead_letter, self.telemetry.dead)
        self._dispatcher = self.config.dispatcher or InlineDispatcher(
            self._operator, self._dead_letter, lambda consumer: self._topic_of[consumer].name, self.telemetry
        )
        self._decoders = {
            plain_topic(topic): find_decoder(decoder) for topic, decoder in (self.config.decoders or {}).items()
        }
        self._stop = StopFlag()
        self._runners: list[TopicRunner] = []
        self._topic_of: dict[Consumer, Topic] = {}

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Consume until :meth:`stop`, Ctrl-C or SIGTERM; then finish what is in flight, within the drain limit.

        :param ready: called when all queues have been checked, before the first receive.
        :raises ConfigurationError: there are no consumers, a topic cannot be resolved, a queue is missing, the
            dispatcher cannot keep the order of a FIFO topic, or no client of SQS can be made: there is no region, or
            the endpoint is not a URL.
        :raises AccessDenied: the credentials are missing, wrong, or lack a permission.
        """
        with stopping_on_sigterm(self.stop):
            self._prepare()
            ready()
            try:
                self._start()
                while not self._stop.wait(1.0):
                    self.config.pauses.update()
                    for runner in self._runners:
                        runner.ensure_alive()
                    self._write_status()
            except KeyboardInterrupt:
                logger.info("interrupted: stopping")
            finally:
                self._shut_down()

    def stop(self) -> None:
        """Ask :meth:`run` to stop. May be called from any thread and from a signal handler."""
        self._stop.set()

    def take(self, topic: str, message: Message) -> None:
        """Process *message* of *topic* in this thread, in an engine that does not run: for tests.

        The message is neither deleted nor released.

        :raises ConfigurationError: as :meth:`run`; or *topic* has no consumer.
        """
        if not self._runners:
            self._prepare()
        sources = {runner.source: runner for runner in self._runners}
        topic = plain_topic(topic)
        found = topics_named(topic, sources) or topics_named(queue_name(topic), sources)
        if not found:
            topics = ", ".join(map(repr, sources))
            raise ConfigurationError(f"no consumer listens to {topic!r}: the topics are {topics}")
        sources[found[0]].process([message])

    def flush(self) -> None:
        """Dispatch incomplete batches in this thread, in an engine that does not run: for tests."""
        for runner in self._runners:
            runner.flush()

    def topics(self) -> dict[str, list[Consumer]]:
        """The consumers of each topic, as the operator's ``get_topic`` resolves it.

        :raises ConfigurationError: a topic cannot be resolved.
        """
        topics: dict[str, list[Consumer]] = {}
        for consumer in self.hub:
            topics.setdefault(resolve_topic(self._operator, consumer), []).append(consumer)
        return topics

    def status(self) -> dict[str, Any]:
        """The status of the engine, by topic."""
        topics = {
            printable(runner.name): together(runner.poller_statuses(), runner.extender_status(), runner.wait_time)
            for runner in self._runners
        }
        return {"wait_time": self.config.longest_wait, "topics": topics}

    def check_configuration(self) -> None:
        """Run the checks of a start that need no queue.

        :raises ConfigurationError: a topic cannot be resolved or is its own dead-letter queue, or a decoder is set for
            a topic that no consumer has.
        """
        self._decoders_of(topics := self.topics())
        check_dead_letters(topics, self._dead_letters)

    def _prepare(self) -> None:
        """Check consumers and queues, and make what serves each topic.

        :raises ConfigurationError: as :meth:`run`.
        :raises AccessDenied: as :meth:`run`.
        """
        topics = self.topics()
        for topic in topics:
            consumes(topic)
        if not topics:
            raise ConfigurationError("there are no consumers: scan a package in which functions have @consumer_config")
        queues = {topic: self._connect(topic) for topic in topics}
        decoders = self._decoders_of(topics)
        for warning in lint(topics):
            logger.warning("%s", warning)
        for topic, queue in queues.items():
            if queue.is_fifo:
                self._dispatcher.check_order(topics[topic])
        visibilities = check_queues(queues, self.config, self._dead_letters, self._connect, self._stop)
        names = Counter(queue.name for queue in queues.values())
        self._runners = []
        for source, consumers in topics.items():
            queue = queues[source]
            name = queue.name if names[queue.name] == 1 else source
            served = self._topic(source, name, queue, consumers, decoders[source], visibilities[source])
            self._topic_of.update(dict.fromkeys(consumers, served))
            self._runners.append(TopicRunner(served))

    def _topic(
        self,
        source: str,
        name: str,
        queue: Queue,
        consumers: Sequence[Consumer],
        decoder: Decoder,
        visibility: VisibilityTimeout,
    ) -> Topic:
        stats, config = self.stats.topic(name), self.config.of(source)
        extender = VisibilityExtender(queue, visibility, stats)
        return Topic(
            source=source,
            name=name,
            queue=queue,
            consumers=consumers,
            reader=reader_of(decoder, queue.name),
            extender=extender,
            dispatcher=self._dispatcher,
            task_queues=self._dispatcher.queues_of(consumers),
            dead_letters=self._dead_letters,
            config=config,
            stats=stats,
            lag=Lag(),
            room=None if config.max_in_flight is None else InFlightRoom(extender, config.max_in_flight),
            telemetry=None if self.telemetry is OFF else self.telemetry,
        )

    def _decoders_of(self, topics: Mapping[str, Sequence[Consumer]]) -> dict[str, Decoder]:
        """The decoder of each topic.

        :raises ConfigurationError: a decoder was given for a topic without consumers; its name may be misspelt.
        """
        names = {topic: [topic, *(consumer.topic for consumer in consumers)] for topic, consumers in topics.items()}
        everything = {name for known in names.values() for name in known}
        for name in self._decoders.keys() - everything:
            near = difflib.get_close_matches(name, everything, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the topics are {', '.join(sorted(topics))}"
            raise ConfigurationError(f"there is a decoder for {name!r}, which is no consumer's topic: {hint}")
        return {topic: decoder_for(known, self._decoders) for topic, known in names.items()}

    def _start(self) -> None:
        for runner in self._runners:
            runner.start()
        self._write_status(now=True)
        topics = count_of(len(self._runners), "topic")
        logger.info("engine started: %s, %s", topics, count_of(len(self.hub), "consumer"))

    def _write_status(self, *, now: bool = False) -> None:
        if self.config.status_file is not None:
            self.config.status_file.write(self.status(), now=now)

    def _shut_down(self) -> None:
        """Stop receiving, wait for running tasks, release the rest, and make the pending calls."""
        if self.config.status_file is not None:
            self.config.status_file.remove()  # it is not written from now on, and would look like that of a hung engine
        deadline = time.monotonic() + self.config.drain
        for runner in self._runners:
            runner.stop()
        for runner in self._runners:
            runner.drain(deadline)
        for runner in self._runners:
            runner.join()
        deadline = max(deadline, time.monotonic() + FLUSH)
        pending = sum(runner.close(deadline) for runner in self._runners)
        self._dispatcher.close()
        if pending:
            logger.warning("%s neither deleted nor released: to be received again", count_of(pending, "message"))
        for topic, counts in self.stats.all().items():
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            logger.info("topic %s: %s", printable(topic), told)
        logger.info("engine stopped")

    def _dead_letter(self, job: Job, error: str) -> bool:
        """Make a dead letter of an event that failed inline."""
        topic, message = self._topic_of[job.consumer], job.delivery.message
        topic.stats.add("failed")
        is_dead = self._dead_letters.send_received(
            message,
            job.text,
            topic.source,
            "failed",
            consumer=job.consumer.task_name,
            error=error,
            event_id=job.event.header.id,
            original=EventContext.from_headers(job.headers).original,
        )
        if is_dead:
            topic.stats.add("dead")
        return bool(is_dead)
