"""The SQS process of a run, and the producer of its events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fault_brokers import ScriptedSqs
from fault_project import ORDERED, ORDERED_DEAD, TOPIC, Event
from typing_extensions import Self

from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue

#: One of this many sends goes by this package's own code and the faulty port of SQS.
OURS = 20
#: Seconds for which credentials are given out; those before are taken for as long again.
ROTATION = 3.0


class FaultySqs(ScriptedSqs):
    """The scripted SQS of a run, with random faults, accessed through its clean port.

    :param kinds: the kinds of fault.
    """

    def __init__(self, kinds: Collection[str], seed: int, gap: float) -> None:
        self.topics = (TOPIC, ORDERED) if "fifo" in kinds else (TOPIC,)
        self.rotates = "credentials" in kinds
        rotate = ("--rotate", str(ROTATION)) if self.rotates else ()
        super().__init__(*rotate, "--chance", ",".join(kinds), "--seed", str(seed), "--gap", str(gap))

    @property
    def endpoint_url(self) -> str:
        """The endpoint whose calls may fail: by a name, which may not resolve."""
        return f"http://localhost:{self.port}"

    @property
    def env(self) -> dict[str, str | None]:
        """The variables by which the worker's boto3 finds it, and its credentials."""
        if not self.rotates:
            return super().env
        url = f"http://127.0.0.1:{self.clean_port}/credentials"
        keys = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_CONTAINER_CREDENTIALS_FULL_URI": url}
        return {**super().env, **keys}

    def send(self, events: Sequence[Event]) -> None:
        """Put up to ten events on their topics."""
        for topic in self.topics:
            entries = [
                {"Id": str(number), "MessageBody": event.body}
                | ({"MessageGroupId": event.group, "MessageDeduplicationId": event.id} if event.group else {})
                for number, event in enumerate(events)
                if (topic == ORDERED) == bool(event.group)
            ]
            if entries:
                self.call("SendMessageBatch", QueueUrl=topic, Entries=entries)

    def held(self) -> dict[str, int]:
        """Return how many messages the topics hold, visible and in flight."""
        held = {"visible": 0, "in_flight": 0}
        for topic in self.topics:
            counts = self.call("GetQueueAttributes", QueueUrl=topic, AttributeNames=["All"])["Attributes"]
            held["visible"] += int(counts["ApproximateNumberOfMessages"])
            held["in_flight"] += int(counts["ApproximateNumberOfMessagesNotVisible"])
        return held

    def dead(self) -> list[Any]:
        """Return all dead letters."""
        return [message for queue in self._dead for message in self.get(f"/dump/{queue}")]

    def queued(self) -> list[Any]:
        """Return all messages that the topics hold."""
        return [message for topic in self.topics for message in self.get(f"/dump/{topic}")]

    def deleted(self) -> list[Any]:
        """Return all messages that were deleted from the topics."""
        return [message for topic in self.topics for message in self.get(f"/deleted/{topic}")]

    @property
    def _dead(self) -> tuple[str, ...]:
        return (f"{TOPIC}-dead", ORDERED_DEAD)[: len(self.topics)]

    def start(self) -> Self:
        """Start it, with the topic and its dead-letter queue."""
        super().start()
        for name in (*self.topics, *self._dead):
            self.call("CreateQueue", QueueName=name)
        return self


class Producer:
    """Sends events to the topic: most through the clean port, which is fast, and some as an application does.

    :param ours: whether some go by this package's own code, past the faults of SQS.
    """

    def __init__(self, sqs: FaultySqs, *, ours: bool) -> None:
        self._sqs = sqs
        self._ours = ours
        self._turn = 0
        self._queue = SQSQueue(
            TOPIC,
            region="us-east-1",
            endpoint_url=sqs.endpoint_url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        #: What this package's code has not said to be sent; it is sent again, and so may come twice.
        self.unsent: list[str] = []

    def send(self, events: list[Event]) -> None:
        """Send up to ten events, or at least keep them to be sent by :meth:`send_again`."""
        self._turn += 1
        if self._ours and self._turn % OURS == 0:
            self._sqs.send([event for event in events if event.group])
            self.unsent += [event.body for event in events if not event.group]
        else:
            self._sqs.send(events)

    def send_again(self) -> None:
        """Send the unsent events again."""
        some = self.unsent[:10]
        if not some:
            return
        try:
            failures = self._queue.send([OutgoingMessage(text) for text in some])
            failed = [some[failure.index] for failure in failures]
        except Exception:  # after any error, none of them counts as sent
            failed = some
        self.unsent[:10] = failed
