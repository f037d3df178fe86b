"""Measures what this package costs compared to boto3, kombu, Celery and structlog.

    python benchmarks/run.py                        # all of it: the better part of an hour
    python benchmarks/run.py --quick                # fewer rounds and events
    python benchmarks/run.py --only engine-hand-off --only logger-record
    python benchmarks/run.py --json figures.json

Both sides of a figure take turns in one run, and CPU time is that of the process concerned. It never fails because of a
figure that does not hold: machines differ, and so do their neighbours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.pop("PYTHONPATH", None)

from bench_base import Figure, Options, Skipped

_MODULES = (
    "bench_engine",
    "bench_routing",
    "bench_logger",
    "bench_send",
    "bench_outbox",
    "bench_start",
    "bench_worker",
    "bench_memory",
    "bench_peers",
    "bench_reality",
    "bench_plan",
)


def all_figures() -> dict[str, Callable[[Options], Figure]]:
    """Return the function that measures each figure, by its name."""
    found: dict[str, Callable[[Options], Figure]] = {}
    for module in _MODULES:
        found.update(importlib.import_module(module).FIGURES)
    return found


#: What each figure is, and what of its sides the table shows.
ROWS = {
    "engine-hand-off": (
        "engine CPU / (receive 10 + delete 10)",
        "{engine_hand_off_us:.0f} / {floor_us:.0f} us per event",
    ),
    "engine-publish": (
        "engine CPU / (the same + ten prebuilt messages published)",
        "{engine_publish_us:.0f} / {floor_publish_bytes_us:.0f} us per event",
    ),
    "naive-vs-hand-off": (
        "the loop with `delay()` and single deletes / engine",
        "{naive_us:,.0f} / {engine_hand_off_us:.0f} us per event",
    ),
    "naive-vs-publish": (
        "the same / engine that publishes",
        "{naive_us:,.0f} / {engine_publish_us:.0f} us per event",
    ),
    "routing": (
        "among 10,000 / among 10, kinds of event that came before",
        "{among_10000_4000_kinds_us:.1f} / {among_10_4000_kinds_us:.1f} us per event, 4,000 kinds",
    ),
    "logger-record": (
        "a metrics record / structlog and the record by hand",
        "through logging {through_logging_ours_us:.0f} / {through_logging_by_hand_us:.0f} us, "
        "without {without_logging_ours_us:.0f} / {without_logging_by_hand_us:.0f} us",
    ),
    "logger-disabled": (
        "a disabled level / structlog's filtering bound logger",
        "{ours_us:.3f} / {structlog_filtering_us:.3f} us, loop included",
    ),
    "send-latency": ("`send` / boto3's `send_message`, until SQS has the event", "{ours_us:.0f} / {boto3_us:.0f} us"),
    "send-many-cpu": (
        "CPU of boto3's `send_message_batch` / of `send_many`, with the records",
        "{boto3_us:.0f} / {ours_us:.0f} us per event",
    ),
    "outbox-fifo": (
        "rows/s of an outbox relay, FIFO topic of 100 groups / of one group, SQS 10 ms away",
        "{fifo_100_groups_per_s:,} / {fifo_1_group_per_s:,}, standard topic {standard_per_s:,}; CPU "
        "{fifo_100_groups_cpu_us:,} / {fifo_1_group_cpu_us:,} / {standard_cpu_us:,} us per row",
    ),
    "import": (
        "`from balog_celery import get_logger` / `import structlog, pydantic`",
        "{ours_ms:.0f} / {structlog_and_pydantic_ms:.0f} ms; with the models {ours_and_the_models_ms:.0f}, "
        "structlog and one model {structlog_and_a_pydantic_model_ms:.0f}",
    ),
    "scan": (
        "seconds to scan 1,000 consumers",
        "with a task registered for each {scan_and_register_tasks_s:.2f} s",
    ),
    "end-to-end-publish": (
        "tasks/s from SQS / draining what lay ready; the worse of 1 and 2 consumers",
        "{publish_1_consumers_tasks_per_s:.0f} / {drained_1_consumers_tasks_per_s:.0f}, "
        "{publish_2_consumers_tasks_per_s:.0f} / {drained_2_consumers_tasks_per_s:.0f}",
    ),
    "end-to-end-hand-off": (
        "the same with hand-off",
        "{hand-off_1_consumers_tasks_per_s:.0f} / {drained_1_consumers_tasks_per_s:.0f}, "
        "{hand-off_2_consumers_tasks_per_s:.0f} / {drained_2_consumers_tasks_per_s:.0f}",
    ),
    "memory": ("MiB that the engine grows", "over {events:,} events"),
    "memory-workers": (
        "MiB that engine, worker and two children grow together, the most of hand-off, chunks and batches",
        "over {events:,} events each: {single_mib}, {chunk_mib}, {batch_mib}",
    ),
    "idle": (
        "percent of a core, worker, pool and engine",
        "{hand-off_receives_per_minute:.1f} receives a minute; a worker without engine {without_engine_percent:.3f} %",
    ),
    "scale": (
        "events/s of four workers / one, functions that wait 10 ms",
        "1, 2, 4 workers: {waiting_1_workers_events_per_s:.0f}, {waiting_2_workers_events_per_s:.0f}, "
        "{waiting_4_workers_events_per_s:.0f}; no-op: {no_op_1_workers_events_per_s:.0f}, "
        "{no_op_2_workers_events_per_s:.0f}, {no_op_4_workers_events_per_s:.0f}; ran twice: {repeated}",
    ),
    "batch-throughput": (
        "events/s of a consumer that gets 100 at once / one by one; the worse of hand-off and publish",
        "hand-off {hand-off_batches_events_per_s:,.0f} / {hand-off_single_events_per_s:,.0f}, "
        "publish {publish_batches_events_per_s:,.0f} / {publish_single_events_per_s:,.0f}",
    ),
    "chunk-throughput": (
        "events/s with `chunk=100` / one by one, by hand-off",
        "{chunk_events_per_s:,.0f} / {single_events_per_s:,.0f}, batches {batch_events_per_s:,.0f}; CPU of all "
        "processes {chunk_us:.0f} / {single_us:.0f} / {batch_us:.0f} us per event",
    ),
    "pollers": (
        "events/s of `balog_pollers = 4` / 1, where SQS is 10 ms away",
        "{4_pollers_events_per_s:,.0f} / {1_pollers_events_per_s:,.0f}",
    ),
    "pools": (
        "events/s of functions that wait 100 ms with `-c 100` / 1,000, the slowest pool",
        "gevent {gevent_events_per_s:,.0f}, eventlet {eventlet_events_per_s:,.0f}, threads {threads_events_per_s:,.0f} "
        "with a CPU of the worker {gevent_us:.0f}, {eventlet_us:.0f}, {threads_us:.0f} us per event",
    ),
    "plan": (
        "the largest difference between real and simulated workers",
        "1, 2, 4 workers whose functions wait 10 ms: {10_ms_c_2_1_workers_events_per_s:,.0f}, "
        "{10_ms_c_2_2_workers_events_per_s:,.0f}, {10_ms_c_2_4_workers_events_per_s:,.0f} events/s",
    ),
    "plan-costs": (
        "the largest difference between real and simulated CPU of an event, by the way that it takes",
        "a table of its own",
    ),
    "reality": (
        "CPU of the fast path / boto3 for ten messages of 1 MiB, the worst of all kinds",
        "TLS, distance, topics and functions that wait: tables of its own",
    ),
    "peers": ("the worst ratio to a peer / its goal", "{goals}"),
}


def table(figures: list[Figure]) -> str:
    """Return the figures as the table of README.md."""
    lines = ["| figure | what | value | goal | holds | sides |", "| --- | --- | --- | --- | --- | --- |"]
    for figure in figures:
        what, sides = ROWS[figure.name]
        holds = "yes" if figure.holds else "**no**"
        shown = sides.format_map(figure.sides)
        lines.append(f"| `{figure.name}` | {what} | {figure.value:.2f} | {figure.goal} | {holds} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, and write the figures; return 1 if one could not be measured."""
    known = all_figures()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(known), help="this figure; may be given several times")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events")
    parser.add_argument("--events", type=int, metavar="N", help="how many events `memory` and `memory-workers` take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into FILE")
    given = parser.parse_args()
    options = Options(given.quick, given.events)
    figures: list[Figure] = []
    failed = 0
    for name in given.only or known:
        began = time.monotonic()
        try:
            figure = known[name](options)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}", flush=True)
            continue
        except Exception:
            traceback.print_exc()
            failed = 1
            continue
        figures.append(figure)
        print(
            f"{figure.name}: {figure.value:.3f} (goal {figure.goal}{'' if figure.holds else ', MISSED'}; "
            f"{time.monotonic() - began:.0f} s)",
            flush=True,
        )
        for side, value in figure.sides.items():
            print(f"    {side}: {value}", flush=True)
        if figure.table:
            print(figure.table, flush=True)
        if given.json:
            given.json.write_text(json.dumps({"figures": [figure.as_json() for figure in figures]}, indent=1) + "\n")
    print(table(figures))
    return failed


if __name__ == "__main__":
    sys.exit(main())
