"""The queues and permissions of an app as code: Terraform and CloudFormation, both in their JSON syntax."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .provision import PERMISSIONS, QueuePlan, statements

_POLICY_VERSION = "2012-10-17"
#: Terraform's names of the attributes, and the types of their values.
_TERRAFORM: dict[str, tuple[str, Callable[[str], Any]]] = {
    "MessageRetentionPeriod": ("message_retention_seconds", int),
    "VisibilityTimeout": ("visibility_timeout_seconds", int),
    "FifoQueue": ("fifo_queue", bool),
    "ContentBasedDeduplication": ("content_based_deduplication", bool),
}


def terraform(plans: list[QueuePlan]) -> dict[str, Any]:
    """Return the content of a ``.tf.json`` file."""
    names = _unique({plan.name: re.sub(r"\W", "_", plan.name) for plan in plans}, "q_")
    arns = {name: f"${{aws_sqs_queue.{local}.arn}}" for name, local in names.items()}
    queues = {}
    for plan in plans:
        queue: dict[str, Any] = {"name": plan.name}
        for attribute, value in plan.attributes.items():
            name, convert = _TERRAFORM[attribute]
            queue[name] = convert(value)
        if plan.dead:
            queue["redrive_policy"] = json.dumps(plan.redrive_policy(arns[plan.dead]))
        queues[names[plan.name]] = queue
    policies = {
        f"balog_{role}": {
            "name_prefix": f"balog-{role}-",
            "policy": json.dumps({"Version": _POLICY_VERSION, "Statement": statements(role, plans, arns)}),
        }
        for role in PERMISSIONS
    }
    return {"resource": {"aws_sqs_queue": queues, "aws_iam_policy": policies}}


def cloudformation(plans: list[QueuePlan]) -> dict[str, Any]:
    """Return a CloudFormation template."""
    wanted = {plan.name: re.sub(r"[^A-Za-z0-9]", "", plan.name.title()) for plan in plans}
    # A role is no name of a queue: it holds a space.
    names = _unique({**wanted, **{f"policy {role}": f"{role.title()}Policy" for role in PERMISSIONS}}, "Queue")
    policies = {role: names.pop(f"policy {role}") for role in PERMISSIONS}
    arns: dict[str, Any] = {name: {"Fn::GetAtt": [logical, "Arn"]} for name, logical in names.items()}
    resources: dict[str, Any] = {}
    for plan in plans:
        properties: dict[str, Any] = {"QueueName": plan.name}
        for attribute, value in plan.attributes.items():
            properties[attribute] = _TERRAFORM[attribute][1](value)
        if plan.dead:
            properties["RedrivePolicy"] = plan.redrive_policy(arns[plan.dead])
        resources[names[plan.name]] = {"Type": "AWS::SQS::Queue", "Properties": properties}
    for role in PERMISSIONS:
        document = {"Version": _POLICY_VERSION, "Statement": statements(role, plans, arns)}
        resources[policies[role]] = {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {"Description": f"balog_celery: {role}", "PolicyDocument": document},
        }
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}


def _unique(wanted: dict[str, str], prefix: str) -> dict[str, str]:
    """Return a different identifier for each queue: those that are equal are numbered."""
    found: dict[str, str] = {}
    for name, identifier in wanted.items():
        base = identifier if identifier[:1].isalpha() else prefix + identifier
        number, candidate = 1, base
        while candidate.lower() in {one.lower() for one in found.values()}:
            number += 1
            candidate = f"{base}{number}"
        found[name] = candidate
    return found
