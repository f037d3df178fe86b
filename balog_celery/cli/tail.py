"""``balog tail``: shows events as workers process them."""

from __future__ import annotations

import json

import click
from celery import Celery

from ..errors import BalogError
from ..operations.tail import Tail, TaskEvent
from ..sqs.addresses import queue_name
from ..text import printable
from ..wiring.broker import require_broker
from . import output
from .events import topic_named
from .group import balog, command

_COLOURS = {
    "received": "blue",
    "started": "cyan",
    "succeeded": "green",
    "retried": "yellow",
    "failed": "red",
    "rejected": "red",
    "revoked": "magenta",
}


@command(balog)
@click.argument("topic")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this number of lines; default: at Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for machines.")
def tail(app: Celery, topic: str, count: int | None, as_json: bool) -> None:
    """Show events as workers process them.

    It runs until Ctrl-C. It receives no messages: SQS has no peek, so it shows the events that workers send about the
    tasks of TOPIC's consumers: received, started, succeeded, retried, failed, with the id and cls_type of the event,
    the consumer and the worker. It does not show messages that wait in the queue, that no consumer wants or that cannot
    be decoded, nor tasks that were received before it started.

    It needs a broker that carries Celery's events (Redis and RabbitMQ do, SQS does not), and workers that send them:
    balog_celery turns that on unless worker_send_task_events = False; so does `celery worker -E`.

    \b
    Example:
        celery -A proj balog tail myproj-events-prod
    """
    topic_named(app, topic)
    require_broker(app)
    if "fanout" not in app.connection_for_read().transport.implements.exchange_type:
        raise click.ClickException("the broker carries no events of Celery's: use Redis or RabbitMQ as the broker")
    if not app.conf.worker_send_task_events:
        click.echo("worker_send_task_events is False: only workers started with -E are seen", err=True)
    shown = 0
    failure: Exception | None = None

    def show(event: TaskEvent) -> None:
        nonlocal shown, failure
        try:
            output.echo(json.dumps({**event._asdict(), "time": event.time.isoformat()}) if as_json else _line(event))
        except (BalogError, OSError) as error:  # the follower would take it for one of the broker
            failure = error
            follower.stop()
        shown += 1
        if shown == count:
            follower.stop()

    follower = Tail(app, topic, show)
    follower.run(lambda: click.echo(f"watching {queue_name(topic)}", err=True))
    if failure is not None:
        raise failure


def _line(event: TaskEvent) -> str:
    colour = _COLOURS.get(event.state)
    time = event.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    state = click.style(event.state.ljust(9), fg=colour, bold=True)
    about = f"{printable(event.event or '?', 100)}  {event.cls_type}  {event.consumer}"
    detail = f"  {click.style(event.detail, fg=colour if event.state in ('failed', 'retried') else None)}"
    return f"{time}  {state}  {about}  {click.style(event.worker, dim=True)}{detail if event.detail else ''}"
