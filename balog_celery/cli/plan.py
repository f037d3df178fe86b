"""``balog plan``: how many workers a load needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from celery import Celery

from ..errors import ConfigurationError
from ..planning.quotas import IN_FLIGHT
from ..text import count_of
from . import output
from .group import FiniteRange, balog, command, json_option

if TYPE_CHECKING:
    from ..planning.plan import Plan

#: A price of a million calls, in USD: a standard queue's in us-east-1 in June 2026. Prices change.
_PRICE = 0.40


@command(balog, load=False)
@click.option("--rate", type=FiniteRange(0.001, 1e9), required=True, help="How many events arrive in a second.")
@click.option(
    "--seconds",
    type=FiniteRange(0, 3600),
    default=0.0,
    show_default=True,
    help="How long a call of the function takes.",
)
@click.option(
    "--cpu", type=FiniteRange(0, 3600), default=0.0, show_default=True, help="How much of that is CPU, in seconds."
)
@click.option("--random", "is_random", is_flag=True, help="The function waits for random times with that mean.")
@click.option(
    "--distance",
    type=FiniteRange(0, 10_000),
    default=1.0,
    show_default=True,
    help="The round trip to SQS, in milliseconds.",
)
@click.option("-c", "--concurrency", type=click.IntRange(1, 10_000), help="The workers' -c; default: what suits.")
@click.option("--pollers", type=click.IntRange(1, 64), help="balog_pollers; default: what suits.")
@click.option("--cores", type=click.IntRange(1, 1024), help="How many cores a worker has; default: what it needs.")
@click.option(
    "--share",
    type=FiniteRange(0.01, 0.99),
    default=0.8,
    show_default=True,
    help="How much of what it can do a worker shall do.",
)
@click.option(
    "--price",
    type=FiniteRange(0, 1e6),
    default=_PRICE,
    show_default=True,
    help="What a million calls to SQS cost, in USD; the default is that of us-east-1 in June 2026.",
)
@json_option
def plan(app: Celery, price: float, as_json: bool, **options: Any) -> None:
    """Say how many workers a rate of events needs.

    It simulates a worker with its engine by the costs that this package's benchmarks have measured, and says what
    limits it, how long events take, how many calls to SQS all workers make, and what to change first. It asks neither
    SQS nor workers. Needs balog_celery[plan].

    \b
    Example:
        celery -A proj balog plan --rate 100000 --seconds 0.01 --distance 10
        celery -A proj balog plan --rate 500 --seconds 2 --cpu 0.1 -c 8
    """
    if options["cpu"] > options["seconds"]:
        raise click.UsageError(f"--cpu {options['cpu']:g} is part of --seconds {options['seconds']:g}, so not more")
    try:
        from ..planning.plan import Question, make_plan
        from ..planning.sizes import Wish
        from ..planning.worker import Function
    except ImportError as error:
        raise ConfigurationError("the plan needs simpy: pip install 'balog_celery[plan]'") from error
    question = Question(
        options["rate"],
        Function(options["seconds"], options["cpu"], options["is_random"]),
        options["distance"] / 1000,
        options["share"],
        Wish(options["concurrency"], options["pollers"], options["cores"]),
    )
    found = make_plan(question)
    if as_json:
        output.document(_as_json(found, price))
    else:
        _print(found, question.rate, price)


def _as_json(found: Plan, price: float) -> dict[str, Any]:
    document = asdict(found)
    document["latencies"] = dict(zip(("p50", "p95", "p99"), found.latencies, strict=True))
    document["calls"] |= {"per_month": found.calls.per_month, "usd_per_month": found.calls.per_month / 1e6 * price}
    return {**document, "queues": found.queues, "advice": found.advice}


def _print(found: Plan, rate: float, price: float) -> None:
    size, calls = found.size, found.calls
    click.echo(
        f"{rate:,g} events/s: {count_of(found.workers, 'worker')} with -c {size.concurrency}, balog_pollers = "
        f"{size.pollers} and {count_of(size.cores, 'core')} each; {found.workers * size.concurrency:,} children "
        f"and {count_of(found.workers * size.cores, 'core')} in all."
    )
    click.echo(f"A worker can do {found.capacity:,.4g} events/s. Its limit: {found.bound}. First, {found.advice}.\n")
    parts = [[part, f"{found.full[part]:.0%}", f"{found.busy[part]:.0%}"] for part in found.full]
    output.table(("BUSY", "AT ITS LIMIT", "AT THIS RATE"), parts)
    half, most, nearly_all = map(_time, found.latencies)
    click.echo(f"\nFrom SQS to the end of the function: p50 {half}, p95 {most}, p99 {nearly_all}.")
    queues = f"so they need {found.queues:,} queues" if found.queues > 1 else "in a queue"
    click.echo(f"In flight: {found.in_flight:,.0f} messages; SQS allows {IN_FLIGHT:,} {queues}.")
    extensions = f", {calls.extensions:,.0f} extensions" if calls.extensions else ""
    click.echo(f"SQS, each second: {calls.receives:,.1f} receives, {calls.deletes:,.1f} deletes{extensions}.")
    millions = calls.per_month / 1e6
    click.echo(f"SQS, in 30 days: {millions:,.0f} million calls, {millions * price:,.0f} USD at {price:g} a million.")
    if found.workers > 1:
        click.echo(f"Simulated: one worker with {rate / found.workers:,.4g} events/s.")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
