"""``balog topics``: what is in the queues; it also creates them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from celery import Celery

from ..operations.provision import create_queues, plan_queues
from ..operations.templates import cloudformation, terraform
from . import output
from .group import FiniteRange, balog, command, json_option
from .topic_rows import HEADINGS, cells, describe_topics
from .topic_watch import watch_topics

#: The time between two questions of --watch, in seconds.
_INTERVAL = 5.0


@command(balog)
@click.option("--create", is_flag=True, help="Create the queues that do not exist.")
@click.option("--terraform", is_flag=True, help="Print the queues and permissions for Terraform.")
@click.option("--cloudformation", is_flag=True, help="Print them for CloudFormation.")
@click.option("--watch", is_flag=True, help="Show the table until Ctrl-C, and renew it.")
@click.option(
    "--interval",
    type=FiniteRange(1, 3600),
    help=f"With --watch: the time between two questions to SQS, in seconds; default: {_INTERVAL:g}.",
)
@click.option("--dry-run", is_flag=True, help="With --create: only print what would be created.")
@json_option
def topics(app: Celery, interval: float | None, dry_run: bool, as_json: bool, **actions: bool) -> None:
    """List how many messages are in the queues.

    For each topic of the consumers: how many messages wait, are in flight or delayed, the age of the oldest in seconds,
    and how many dead letters there are. The numbers are SQS's own, and approximate; the age is CloudWatch's, a minute
    or more late, and "?" if CloudWatch does not have it (cloudwatch:GetMetricStatistics is needed). Exits with 1 if a
    queue cannot be asked.

    --watch keeps the table on the screen and renews it; it needs a terminal and `balog_celery[watch]`.

    --create creates missing queues with their dead-letter queues and redrive policies. --terraform and --cloudformation
    print the same as code, with the IAM policies of workers, producers and operators.

    \b
    Example:
        celery -A proj balog topics
        celery -A proj balog topics --watch
        celery -A proj balog topics --create --dry-run
        celery -A proj balog topics --terraform > queues.tf.json
    """
    action = _only(actions)
    if dry_run and action != "create":
        raise click.UsageError("--dry-run goes with --create")
    if interval is not None and action != "watch":
        raise click.UsageError("--interval goes with --watch")
    if as_json and action in ("terraform", "cloudformation"):
        raise click.UsageError(f"--{action} prints JSON of its own: leave --json out")
    if action == "watch":
        watch_topics(lambda: describe_topics(app), interval or _INTERVAL, as_json=as_json)
    elif action is not None:
        _provision(app, action, dry_run, as_json)
    else:
        _list(describe_topics(app), as_json)


def _only(actions: Mapping[str, bool]) -> str | None:
    """Return the name of the action that was chosen; None: none was.

    :raises click.UsageError: there are several.
    """
    chosen = [name for name, is_chosen in actions.items() if is_chosen]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in chosen)} exclude each other")
    return chosen[0] if chosen else None


def _list(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        output.document(rows)
    else:
        output.table(HEADINGS, [cells(row) for row in rows])
    if any("error" in row for row in rows):
        raise SystemExit(1)


def _provision(app: Celery, action: str, dry_run: bool, as_json: bool) -> None:
    plans = plan_queues(app)
    if action != "create":
        output.document(terraform(plans) if action == "terraform" else cloudformation(plans))
        return
    found = []
    for plan, created in create_queues(app, plans, dry_run=dry_run):
        found.append({"queue": plan.name, "created": created, "attributes": plan.attributes, "dead_letters": plan.dead})
        if not as_json:
            verb = "would create" if dry_run else "created"
            settings = ", ".join(f"{name} {value}" for name, value in plan.attributes.items())
            redrive = f", redrive policy to {plan.dead}" if plan.dead else ""
            buckets = "".join(f", bucket {bucket} if missing" for bucket in app.balog.settings.payload_bucket)
            text = f"{verb} {plan.name}: {settings}{redrive}{buckets}" if created else f"{plan.name} exists"
            output.echo(text, done="" if dry_run else text)
    if as_json:
        names = ", ".join(str(one["queue"]) for one in found if one["created"])
        output.document(found, done=f"created {names}" if names and not dry_run else "")
