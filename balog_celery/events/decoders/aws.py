"""Events that AWS services send to SQS and SNS by themselves, one document for each event."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..message import join_id
from .documents import Event, Kind, text_at, text_or, value_at

#: Messages with which a service tests its permission to send: they hold no event.
_TESTS = {
    "Event": ("s3:TestEvent", "autoscaling:TEST_NOTIFICATION"),
    "notificationType": ("AmazonSnsSubscriptionSucceeded",),
}
#: Where the time stands of each type of SES's event publishing; of any other it is the mail's.
_SES_TIMES = ("bounce", "complaint", "delivery", "open", "click", "receipt", "deliveryDelay", "subscription")


def _has(*keys: str) -> Callable[[dict[str, Any]], bool]:
    return lambda document: all(key in document for key in keys)


def is_test(document: Mapping[str, Any]) -> bool:
    """Return whether *document* is a service's test of its permission to send."""
    return any(document.get(key) in values for key, values in _TESTS.items() if isinstance(document.get(key), str))


def eventbridge_event(event: dict[str, Any]) -> Iterable[Event]:
    """Return the event of Amazon EventBridge, without an input transformer, or of EventBridge Scheduler."""
    source = text_at(event, "source")
    yield Event(
        event,
        cls_type=f"aws.events.{source}.{text_at(event, 'detail-type')}",
        id=text_at(event, "id"),
        channel=source,
        timestamp=text_at(event, "time"),
        schema=event.get("version", "0"),
    )


def _is_ses(document: dict[str, Any]) -> bool:
    mail = document.get("mail")
    named = document.get("notificationType") or document.get("eventType")
    return isinstance(mail, dict) and "messageId" in mail and isinstance(named, str)


def ses_event(document: dict[str, Any]) -> Event:
    """Return the event of an SES notification: receipt, bounce, complaint, delivery, or its event publishing."""
    name = text_or(document, "notificationType") or text_or(document, "eventType", "Received")
    cls_type = f"aws.ses.{name}"
    times = (text_or(document, f"{section}.timestamp") for section in _SES_TIMES)
    # All events of a mail share its messageId; only bounces and complaints have ids of their own.
    feedback = text_or(document, "bounce.feedbackId") or text_or(document, "complaint.feedbackId")
    return Event(
        document,
        cls_type,
        channel=text_or(document, "mail.sourceArn", "aws.ses"),
        id=join_id(cls_type, feedback) if feedback else "",
        timestamp=next(filter(None, times), None) or text_or(document, "mail.timestamp") or None,
    )


def _alarm(document: dict[str, Any]) -> Iterable[Event]:
    yield Event(
        document,
        cls_type=f"aws.cloudwatch.alarm.{text_at(document, 'NewStateValue')}",
        channel=text_at(document, "AlarmName"),
        timestamp=text_or(document, "StateChangeTime") or None,
    )


def _is_auto_scaling(document: dict[str, Any]) -> bool:
    return "AutoScalingGroupName" in document and ("LifecycleTransition" in document or "Event" in document)


def _auto_scaling(document: dict[str, Any]) -> Iterable[Event]:
    name = text_or(document, "LifecycleTransition") or text_at(document, "Event")
    yield Event(
        document,
        cls_type=f"aws.autoscaling.{name.removeprefix('autoscaling:')}",
        channel=text_at(document, "AutoScalingGroupName"),
        id=text_or(document, "LifecycleActionToken"),
        timestamp=text_or(document, "Time") or None,
    )


def _is_config(document: dict[str, Any]) -> bool:
    return "messageType" in document and ("recordVersion" in document or "notificationCreationTime" in document)


def _config(document: dict[str, Any]) -> Iterable[Event]:
    yield Event(
        document,
        cls_type=f"aws.config.{text_at(document, 'messageType')}",
        channel="aws.config",
        timestamp=text_or(document, "notificationCreationTime") or None,
        schema=text_or(document, "recordVersion", "1"),
    )


def _cloudtrail(document: dict[str, Any]) -> Iterable[Event]:
    yield Event(document, "aws.cloudtrail.LogDelivery", channel=text_at(document, "s3Bucket"))


def _is_lambda_destination(document: dict[str, Any]) -> bool:
    context = document.get("requestContext")
    return isinstance(context, dict) and "functionArn" in context and "condition" in context


def _lambda_destination(document: dict[str, Any]) -> Iterable[Event]:
    cls_type = f"aws.lambda.destination.{text_at(document, 'requestContext.condition')}"
    function = text_at(document, "requestContext.functionArn")
    yield Event(
        document,
        cls_type,
        channel=function,
        id=join_id(cls_type, function, text_at(document, "requestContext.requestId")),
        timestamp=text_or(document, "timestamp") or None,
        schema=text_or(document, "version", "1"),
    )


def _sp_api(document: dict[str, Any]) -> Iterable[Event]:
    upper = "NotificationType" in document

    def key(name: str) -> str:
        return ".".join(part if upper else part[0].lower() + part[1:] for part in name.split("."))

    yield Event(
        document,
        cls_type=f"amazon.sp-api.{text_at(document, key('NotificationType'))}",
        channel="amazon.sp-api",
        id=text_at(document, key("NotificationMetadata.NotificationId")),
        timestamp=text_or(document, key("EventTime")) or None,
        schema=text_or(document, key("PayloadVersion"), "1"),
    )


def _is_sp_api(document: dict[str, Any]) -> bool:
    return (
        value_at(document, ("NotificationMetadata", "NotificationId")) is not None
        or value_at(document, ("notificationMetadata", "notificationId")) is not None
    )


def _task_token(document: dict[str, Any]) -> Iterable[Event]:
    yield Event(document, "aws.states.TaskToken", channel="aws.states")


EVENTBRIDGE = Kind("eventbridge", _has("detail-type", "detail"), eventbridge_event)

#: Each is recognised by keys that only it has; the first match counts.
KINDS = (
    EVENTBRIDGE,
    Kind("ses", _is_ses, lambda document: [ses_event(document)]),
    Kind("cloudwatch", _has("AlarmName", "NewStateValue"), _alarm),
    Kind("autoscaling", _is_auto_scaling, _auto_scaling),
    Kind("config", _is_config, _config),
    Kind("cloudtrail", lambda document: document.keys() == {"s3Bucket", "s3ObjectKey"}, _cloudtrail),
    Kind("lambda", _is_lambda_destination, _lambda_destination),
    Kind("sp-api", _is_sp_api, _sp_api),
    Kind("stepfunctions", lambda document: isinstance(document.get("TaskToken"), str), _task_token),
)

_STACK_LINE = re.compile(r"^([A-Za-z]+)='(.*)'\s*$", re.MULTILINE)


def text_event(envelope: dict[str, Any]) -> Event | None:
    """Return the event in a text that Budgets or CloudFormation sends by SNS; None for any other text.

    :param envelope: SNS's, which is the payload.
    """
    text = envelope["Message"]
    if text.startswith("AWS Budget Notification"):
        return Event(envelope, "aws.budgets.Notification", channel=text_at(envelope, "TopicArn"))
    if not text.startswith("StackId='"):
        return None
    # Of equal names the first counts: what a user may have written, such as the reason, comes last.
    lines = dict(reversed(_STACK_LINE.findall(text)))
    if not all(lines.get(name) for name in ("EventId", "ResourceStatus", "StackId", "StackName")):
        return None
    return Event(
        envelope,
        cls_type=f"aws.cloudformation.{lines['ResourceStatus']}",
        channel=lines["StackName"],
        id=join_id(lines["StackId"], lines["EventId"]),
        timestamp=lines.get("Timestamp"),
    )
