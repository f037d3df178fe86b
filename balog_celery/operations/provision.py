"""The queues that the topics of an app need, and the permissions on them: planned, and created on SQS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from celery import Celery

from ..errors import BalogError
from ..sqs.addresses import queue_name
from ..sqs.queues import SQSQueue

#: The longest that SQS keeps a message, in seconds: 14 days.
RETENTION = 1_209_600
#: The visibility timeout of a topic, unless balog_visibility_timeout sets one, in seconds.
VISIBILITY = 60
#: How often SQS may deliver a message before its redrive policy moves it. A stop of a worker counts as well.
MAX_RECEIVES = 20

_URL, _ATTRIBUTES, _SEND = "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"
_CONSUME = [_URL, _ATTRIBUTES, "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
#: For `balog dead replay --native`.
_MOVE = ["sqs:ListDeadLetterSourceQueues", "sqs:ListMessageMoveTasks", "sqs:StartMessageMoveTask"]
_MOVE += ["sqs:CancelMessageMoveTask"]
#: What each role needs: on topics, and on dead-letter queues.
PERMISSIONS: dict[str, tuple[list[str], list[str]]] = {
    "worker": (_CONSUME, [_URL, _ATTRIBUTES, _SEND]),
    "producer": ([_URL, _ATTRIBUTES, _SEND], []),
    "operator": ([_URL, _ATTRIBUTES, _SEND], [*_CONSUME, *_MOVE]),
}


class QueuePlan(NamedTuple):
    """A queue that an app needs.

    :param name: its name.
    :param attributes: its attributes as SQS has them, without the redrive policy.
    :param dead: the name of the queue to which its redrive policy moves messages; "": it is a dead-letter queue, or has
        none.
    :param is_dead: whether it is a dead-letter queue.
    """

    name: str
    attributes: dict[str, str]
    dead: str = ""
    is_dead: bool = False

    def redrive_policy(self, arn: Any) -> dict[str, Any]:
        """Return its redrive policy, for the ARN of its dead-letter queue."""
        return {"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES}


def plan_queues(app: Celery) -> list[QueuePlan]:
    """Return the queues of the topics of *app*, whose consumers are loaded; dead-letter queues come first.

    :raises BalogError: its topics are not on SQS, or one is a URL, which may be in another account.
    """
    balog = app.balog
    if balog.settings.event_broker_url is not None:
        raise BalogError("balog_event_broker_url is set, so the topics are not on SQS: the broker creates its queues")
    dead: dict[str, QueuePlan] = {}
    topics = []
    for topic in sorted(balog.topics()):
        if queue_name(topic) != topic:
            raise BalogError(f"topic {topic} is a URL: create that queue in its own account and region")
        target = balog.dead_letters.name(topic) or ""
        if target:
            dead[target] = QueuePlan(target, {"MessageRetentionPeriod": str(RETENTION), **_fifo(target)}, is_dead=True)
        visibility = str(balog.settings_of(topic).visibility_timeout or VISIBILITY)
        attributes = {"MessageRetentionPeriod": str(RETENTION), "VisibilityTimeout": visibility, **_fifo(topic)}
        topics.append(QueuePlan(topic, attributes, target))
    return [*dead.values(), *topics]


def _fifo(name: str) -> dict[str, str]:
    return {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if name.endswith(".fifo") else {}


def create_queues(app: Celery, plans: list[QueuePlan], *, dry_run: bool) -> Iterator[tuple[QueuePlan, bool]]:
    """Create the queues that do not exist. Existing ones are not changed.

    :param dry_run: create none.
    :returns: each plan, and whether the queue was, or would be, created.
    :raises QueueError: SQS refused.
    """
    for plan in plans:
        queue: SQSQueue = app.balog.connect(plan.name)
        missing = not queue.exists()
        if missing and not dry_run:
            attributes = dict(plan.attributes)
            if plan.dead:
                arn = app.balog.connect(plan.dead).attributes()["QueueArn"]
                attributes["RedrivePolicy"] = json.dumps(plan.redrive_policy(arn))
            queue.create(attributes)
        yield plan, missing


def statements(role: str, plans: list[QueuePlan], arns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of the IAM policy of *role*.

    :param role: one of :data:`PERMISSIONS`.
    :param arns: the ARN of each queue, by name.
    """
    on_topics, on_dead = PERMISSIONS[role]
    found = []
    for sid, actions, is_dead in (("Topics", on_topics, False), ("DeadLetters", on_dead, True)):
        resources = [arns[plan.name] for plan in plans if plan.is_dead is is_dead]
        if actions and resources:
            found.append({"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources})
    if role == "operator":  # for the age of the oldest message in `balog topics`; CloudWatch knows no resources
        found.append({"Sid": "Age", "Effect": "Allow", "Action": ["cloudwatch:GetMetricStatistics"], "Resource": "*"})
    return found
