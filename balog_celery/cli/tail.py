"""``balog tail``: shows events as workers process them."""

from __future__ import annotations

import contextlib
import json

import click
from celery import Celery

from ..settings import queue_name
from ..tail import Sight, Tail
from ..text import printable
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
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many lines; default: at Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for machines.")
def tail(app: Celery, topic: str, count: int | None, as_json: bool) -> None:
    """Show events as workers process them.

    Until Ctrl-C. Nothing is taken from anybody: SQS has no peek, so this shows what workers say of the tasks of
    TOPIC's consumers: received, started, succeeded, retried, failed, with the event's id and cls_type, the consumer
    and the worker. It does not show events that wait in the queue, that nobody wants or that cannot be decoded, nor
    tasks that were received before it started.

    It needs a broker that carries Celery's events (Redis and RabbitMQ do, SQS does not), and workers that send them:
    balog_celery turns that on unless worker_send_task_events = False; `celery worker -E` does as well.

    \b
    Example:
        celery -A proj balog tail myproj-events-prod
    """
    known = {queue_name(one): one for one in app.balog.topics()}
    if queue_name(topic) not in known:
        raise click.UsageError(f"no consumer listens to {printable(topic)}: say one of {', '.join(sorted(known))}")
    if "fanout" not in app.connection_for_read().transport.implements.exchange_type:
        raise click.ClickException(
            "the broker carries no events of Celery's (Redis and RabbitMQ do): nothing can be shown"
        )
    if not app.conf.worker_send_task_events:
        click.echo("worker_send_task_events is False: only workers started with -E are seen", err=True)
    shown = 0

    def show(sight: Sight) -> None:
        nonlocal shown
        click.echo(json.dumps({**sight._asdict(), "time": sight.time.isoformat()}) if as_json else _line(sight))
        shown += 1
        if shown == count:
            watch.stop()

    watch = Tail(app, topic, show)
    with contextlib.suppress(KeyboardInterrupt):  # how one ends it
        watch.run(lambda: click.echo(f"watching {queue_name(topic)}", err=True))


def _line(sight: Sight) -> str:
    colour = _COLOURS.get(sight.state)
    time = sight.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    state = click.style(sight.state.ljust(9), fg=colour, bold=True)
    about = f"{sight.event or '?'}  {sight.cls_type}  {sight.consumer}"
    detail = f"  {click.style(sight.detail, fg=colour if sight.state in ('failed', 'retried') else None)}"
    return f"{time}  {state}  {about}  {click.style(sight.worker, dim=True)}{detail if sight.detail else ''}"
