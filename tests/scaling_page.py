"""The answer, the table and the plot on the page on scaling, made from the simulation.

To write them after a change: ``python tests/scaling_page.py``. It takes a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from celery import Celery
from click.testing import CliRunner

from balog_celery import install
from balog_celery.cli import balog
from balog_celery.planning.costs import HAND_OFF
from balog_celery.planning.plan import Plan, Question, make_plan
from balog_celery.planning.scenario import SINGLE, Function, Scenario, Way
from balog_celery.planning.simulation import simulate

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PLOT = DOCS / "scaling.md", DOCS / "images" / "scaling.svg"
HEAD = "| function | SQS | workers | `-c` | pollers | cores | limit | p50, p95, p99 | calls/s | in flight |"

COMMAND = "    celery -A proj balog plan --rate 100000 --seconds 0.01 --distance 10"

#: The rate of the table, in events per second; its functions' and its distances' seconds.
RATE, SECONDS, DISTANCES = 100_000.0, (0.001, 0.01, 0.1), (0.001, 0.01, 0.05)
#: Events per second, how they get to the function, and for how many seconds a call waits, in the second table; and the
#: distance of its SQS.
WAYS = (
    (RATE, SINGLE, 0.001),
    (RATE, Way(chunk=100), 0.001),
    (RATE, Way(batch=100), 0.1),
    (RATE, Way(broker="redis"), 0.001),
    (RATE, Way(broker="rabbitmq"), 0.001),
    (1000.0, Way(groups=100), 0.01),
    (1000.0, Way(groups=1000), 0.01),
)
WAYS_HEAD = "| events/s | how | a call | workers | `-c` | pollers | cores | limit | p50, p95, p99 | calls/s | broker |"
WAYS_DISTANCE = 0.01
#: The sizes of the pool, and the parts of what a worker can do, at which curves have a point.
SIZES, SHARES = (2, 4, 8, 16, 32, 64), (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RATES = (10, 100, 1000, 10_000)
#: The worker whose latencies are shown.
WORKER = Scenario(Function(0.01), HAND_OFF, concurrency=59, pollers=6, cores=4, distance=0.01)
#: How many events a simulation has.
EVENTS = 8000

WIDTH, HEIGHT, LEFT, TOP = 330, 210, 70, 50
COLOURS = ("#1b5e20", "#0d47a1", "#b71c1c")


def answer() -> str:
    """Return what the command on the page prints, indented as there."""
    app = Celery("planned", broker="memory://", set_as_current=False)
    install(app)
    obj = SimpleNamespace(app=app, no_color=False)
    printed = CliRunner().invoke(balog, COMMAND.split()[4:], obj=obj, catch_exceptions=False).stdout
    app.close()
    return "".join(f"    {line}\n" if line else "\n" for line in printed.splitlines())


def milliseconds(seconds: float) -> str:
    """Return a time as the table has it."""
    return f"{seconds * 1000:,.0f} ms"


def row(seconds: float, distance: float) -> str:
    """Return the table's row for functions of *seconds* and an SQS at *distance* seconds."""
    found = make_plan(Question(RATE, Function(seconds), distance), events=EVENTS)
    in_flight = f"{round(found.in_flight, -2):,.0f}"
    return f"| {milliseconds(seconds)} | {milliseconds(distance)} | {' | '.join(cells(found))} | {in_flight} |"


def cells(found: Plan) -> tuple[str, ...]:
    """Return what both tables have of a plan."""
    size, latencies = found.size, found.latencies
    return (
        f"{found.workers}",
        f"{size.concurrency}",
        f"{size.pollers}",
        f"{found.workers * size.cores}",
        found.bound,
        f"{', '.join(f'{latency * 1000:,.0f}' for latency in latencies)} ms",
        f"{round(found.calls.per_second, -2):,.0f}",
    )


def way_row(rate: float, way: Way, seconds: float) -> str:
    """Return the second table's row for *rate* events per second that get to the function by *way*."""
    found = make_plan(Question(rate, Function(seconds), WAYS_DISTANCE, way=way), events=EVENTS)
    parts = {"batch": f"`batch={way.batch}`", "chunk": f"`chunk={way.chunk}`", "broker": f"publish, {way.broker}"}
    parts |= {"groups": f"FIFO, {way.groups:,} groups"}
    how = next((part for name, part in parts.items() if getattr(way, name)), "hand-off")
    brokers = str(found.broker_cores) if way.broker else ""
    return f"| {rate:,.0f} | {how} | {milliseconds(seconds)} | {' | '.join(cells(found))} | {brokers} |"


def page_with_results(page: str) -> str:
    """Return the text of the *page* with a new answer and table."""
    before, _, rest = page.partition(f"{COMMAND}\n\n")
    _, _, after = rest.partition("\n\n[")
    page = f"{before}{COMMAND}\n\n{answer()}\n[{after}"
    page = with_table(page, HEAD, [row(seconds, distance) for seconds in SECONDS for distance in DISTANCES])
    return with_table(page, WAYS_HEAD, [way_row(*way) for way in WAYS])


def with_table(page: str, head: str, rows: Sequence[str]) -> str:
    """Return the text of the *page* with new *rows* below the *head* of a table."""
    before, _, rest = page.partition(head)
    assert rest, f"the page has no table with the head {head}"
    _, _, after = rest.partition("\n\n")
    return "\n".join([before + head, "| --- " * head.count(" | ") + "| --- |", *rows]) + "\n\n" + after


def throughput(seconds: float, sizes: Sequence[int] = SIZES) -> list[tuple[float, float]]:
    """Return what a worker can do with each size of its pool, if its function waits *seconds*."""
    scenario = Scenario(Function(seconds), HAND_OFF, pollers=8, cores=8, distance=0.001)
    return [(size, simulate(replace(scenario, concurrency=size), events=EVENTS).throughput) for size in sizes]


def latencies() -> dict[str, list[tuple[float, float]]]:
    """Return the latencies of a worker in milliseconds, by its load in percent."""
    most = simulate(WORKER, events=EVENTS).throughput
    found = {share: simulate(replace(WORKER, rate=share * most), events=EVENTS) for share in SHARES}
    return {
        f"p{percent}": [(share * 100, outcome.percentile(percent) * 1000) for share, outcome in found.items()]
        for percent in (50, 95, 99)
    }


def points(values: Sequence[tuple[float, float]], at: Callable[[float, float], tuple[float, float]], unit: str) -> str:
    """Return the points of a curve, each with its numbers as its title."""
    return "".join(
        f'<circle cx="{at(x, y)[0]:.1f}" cy="{at(x, y)[1]:.1f}" r="3"><title>{x:g}: {y:,.0f} {unit}</title></circle>'
        for x, y in values
    )


def panel(
    left: float,
    title: str,
    curves: dict[str, list[tuple[float, float]]],
    ticks: tuple[Sequence[float], Sequence[float]],
    unit: str,
    scale: Callable[[float], float],
) -> str:
    """Return one part of the plot: axes, ticks and curves.

    :param ticks: the values that have a line, of x and y, from the lowest to the highest.
    :param scale: makes the distances between values.
    """
    xs, ys = ticks

    def at(x: float, y: float) -> tuple[float, float]:
        across = (scale(x) - scale(xs[0])) / (scale(xs[-1]) - scale(xs[0]))
        up = (scale(y) - scale(ys[0])) / (scale(ys[-1]) - scale(ys[0]))
        return left + across * WIDTH, TOP + HEIGHT - up * HEIGHT

    parts = [f'<text x="{left}" y="28" font-weight="bold" fill="#222">{title}</text>']
    for x in xs:
        across = at(x, ys[0])[0]
        parts.append(f'<path d="M{across:.1f} {TOP}v{HEIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{across:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle" fill="#222">{x:g}</text>')
    for y in ys:
        up = at(xs[0], y)[1]
        parts.append(f'<path d="M{left} {up:.1f}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{up + 5:.1f}" text-anchor="end" fill="#222">{y:,g}</text>')
    coloured = zip(curves.items(), COLOURS, strict=True)
    lowest = 0.0
    for (name, values), colour in sorted(coloured, key=lambda curve: -curve[0][1][-1][1]):
        line = " ".join(f"{at(x, y)[0]:.1f},{at(x, y)[1]:.1f}" for x, y in values)
        across, up = at(*values[-1])
        lowest = max(up + 5, lowest + 15)  # names do not overlap
        parts.append(f'<g fill="{colour}"><polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(points(values, at, unit))
        parts.append(f'<text x="{across + 8:.1f}" y="{lowest:.1f}">{name}</text></g>')
    return "\n".join(parts)


def plot() -> str:
    """Return the plot, as SVG."""
    title = "What a worker can do by the size of its pool, and how long events take by its load"
    does = {f"{seconds * 1000:g} ms": throughput(seconds) for seconds in SECONDS}
    right = 2 * LEFT + WIDTH + 70
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + WIDTH + 60} {TOP + HEIGHT + 40}" '
            'font-family="sans-serif" font-size="13" role="img" aria-labelledby="title">',
            f'<title id="title">{title}</title>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            panel(LEFT, "events/s by -c, for functions that wait", does, (SIZES, RATES), "events/s", math.log),
            panel(
                right,
                "ms from SQS to the end, by load in percent",
                latencies(),
                ((0, 20, 40, 60, 80, 100), (0, 10, 20, 30)),
                "ms",
                float,
            ),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page_with_results(PAGE.read_text()))
    PLOT.write_text(plot())
