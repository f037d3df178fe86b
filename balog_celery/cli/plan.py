"""``balog plan``: how many workers a load needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from celery import Celery

from ..consumers.consumer import MAX_BATCH
from ..errors import ConfigurationError
from ..planning.quotas import FIFO_CALLS, IN_FLIGHT
from . import output
from .group import FiniteRange, balog, command, json_option

if TYPE_CHECKING:
    from ..planning.plan import Plan, Question

#: Prices of a million calls, in USD: a standard queue's and a FIFO queue's in us-east-1 in June 2026. Prices change.
_PRICE, _FIFO_PRICE = 0.40, 0.50
_EVENTS = click.IntRange(1, MAX_BATCH)


@command(balog, load=False)
@click.option("--rate", type=FiniteRange(0.001, 1e9), required=True, help="How many events arrive in a second.")
@click.option(
    "--seconds",
    type=FiniteRange(0, 3600),
    default=0.0,
    show_default=True,
    help="How long a call of the function takes; with --batch, of a batch.",
)
@click.option(
    "--cpu", type=FiniteRange(0, 3600), default=0.0, show_default=True, help="How much of that is CPU, in seconds."
)
@click.option("--random", "is_random", is_flag=True, help="Calls take exponentially distributed times.")
@click.option(
    "--distance",
    type=FiniteRange(0, 10_000),
    default=1.0,
    show_default=True,
    help="The round trip to SQS, in milliseconds.",
)
@click.option("--batch", type=_EVENTS, help="The consumer's batch=: a call gets up to this many events.")
@click.option("--chunk", type=_EVENTS, help="The consumer's chunk=: up to this many events share a task.")
@click.option(
    "--publish", type=click.Choice(["redis", "rabbitmq"]), help="Tasks are published over this broker, not handed over."
)
@click.option(
    "--fifo", type=click.IntRange(1, 1_000_000), help="The topic is FIFO, and this many message groups have events."
)
@click.option("-c", "--concurrency", type=click.IntRange(1, 1000), help="The workers' -c; default: as the load needs.")
@click.option("--pollers", type=click.IntRange(1, 64), help="balog_pollers; default: as the load needs.")
@click.option("--cores", type=click.IntRange(1, 1024), help="How many cores a worker has; default: what it needs.")
@click.option(
    "--share",
    type=FiniteRange(0.01, 0.99),
    default=0.8,
    show_default=True,
    help="The load to plan for, as a fraction of what a worker can do.",
)
@click.option(
    "--price",
    type=FiniteRange(0, 1e6),
    help=f"What a million calls to SQS cost, in USD; default: {_PRICE:g}, or {_FIFO_PRICE:g} of a FIFO queue, as in "
    "us-east-1 in June 2026.",
)
@json_option
def plan(app: Celery, price: float | None, as_json: bool, **options: Any) -> None:
    """Say how many workers a rate of events needs.

    It simulates a worker with its engine by the costs that this package's benchmarks have measured, and says what
    limits it, how long events take, how many calls to SQS all workers make, and what to change first. It asks neither
    SQS nor workers. Needs balog_celery[plan].

    \b
    Example:
        celery -A proj balog plan --rate 100000 --seconds 0.01 --distance 10
        celery -A proj balog plan --rate 20000 --chunk 100 --seconds 0.001
        celery -A proj balog plan --rate 500 --fifo 200 --seconds 0.05
        celery -A proj balog plan --rate 500 --seconds 2 --cpu 0.1 -c 8
    """
    _check(options)
    try:
        from ..planning.plan import Question, make_plan
        from ..planning.scenario import Function, Way
        from ..planning.sizes import GivenSize
    except ImportError as error:
        raise ConfigurationError("the plan needs simpy: pip install 'balog_celery[plan]'") from error
    question = Question(
        options["rate"],
        Function(options["seconds"], options["cpu"], options["is_random"]),
        options["distance"] / 1000,
        options["share"],
        GivenSize(options["concurrency"], options["pollers"], options["cores"]),
        Way(options["batch"] or 0, options["chunk"] or 0, options["publish"] or "", options["fifo"] or 0),
    )
    found = make_plan(question)
    if price is None:
        price = _FIFO_PRICE if question.way.groups else _PRICE
    if as_json:
        output.document(_as_json(found, price))
    else:
        _print(found, question, price)


def _check(options: Mapping[str, Any]) -> None:
    """Check options that exclude one another, as they do for a consumer.

    :raises click.UsageError: some do.
    """
    if options["cpu"] > options["seconds"]:
        raise click.UsageError(f"--cpu {options['cpu']:g} is part of --seconds {options['seconds']:g}, so not more")
    if options["batch"] and options["chunk"]:
        raise click.UsageError("a consumer has --batch or --chunk: leave one of them out")
    if not options["fifo"]:
        return
    for name in ("batch", "chunk", "publish"):
        if options[name]:
            raise click.UsageError(f"a FIFO topic hands its events over one by one: leave --{name} or --fifo out")
    if (options["pollers"] or 1) > 1:
        raise click.UsageError(f"a FIFO topic has one poller in each worker: leave --pollers {options['pollers']} out")


def _as_json(found: Plan, price: float) -> dict[str, Any]:
    document = asdict(found)
    document["latencies"] = dict(zip(("p50", "p95", "p99"), found.latencies, strict=True))
    document["calls"] |= {"per_month": found.calls.per_month, "usd_per_month": found.calls.per_month / 1e6 * price}
    return {**document, "queues": found.queues}


def _print(found: Plan, question: Question, price: float) -> None:
    size, calls, rate = found.size, found.calls, question.rate
    children = _count(found.workers * size.concurrency, "child", "children")
    output.echo(
        f"{_number(rate)} events/s: {_count(found.workers, 'worker')} with -c {size.concurrency}, balog_pollers = "
        f"{size.pollers} and {_count(size.cores, 'core')} each; {children} and "
        f"{_count(found.workers * size.cores, 'core')} in all."
    )
    does = _number(found.capacity)
    output.echo(f"A worker can do {does} events/s. Its limit: {found.bound}. First, {found.advice}.\n")
    parts = [[part, f"{found.full[part]:.0%}", f"{found.busy[part]:.0%}"] for part in found.full]
    output.table(("BUSY", "AT ITS LIMIT", "AT THIS RATE"), parts)
    half, most, nearly_all = map(_time, found.latencies)
    output.echo(f"\nFrom SQS to the end of the function: p50 {half}, p95 {most}, p99 {nearly_all}.")
    queues = f"so they need {found.queues:,} queues" if found.queues > 1 else "in a queue"
    output.echo(f"In flight: {found.in_flight:,.0f} messages; SQS allows {IN_FLIGHT:,} {queues}.")
    if question.way.broker == "redis":
        output.echo(f"Tasks: they need {_count(found.broker_cores, 'Redis server')} with a core each.")
    elif question.way.broker:
        output.echo(f"Tasks: RabbitMQ needs {_count(found.broker_cores, 'core')} for them.")
    extensions = f", {calls.extensions:,.0f} extensions" if calls.extensions else ""
    output.echo(f"SQS, each second: {calls.receives:,.1f} receives, {calls.deletes:,.1f} deletes{extensions}.")
    if question.way.groups and (kind := max(calls.receives, calls.deletes)) > FIFO_CALLS:
        output.echo(f"{kind:,.0f} of a kind exceed a FIFO queue's {FIFO_CALLS}: set it to high throughput.")
    millions = calls.per_month / 1e6
    output.echo(f"SQS, in 30 days: {millions:,.0f} million calls, {millions * price:,.0f} USD at {price:g} a million.")
    if found.workers > 1:
        output.echo(f"Simulated: one worker with {_number(found.simulated)} events/s.")


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
