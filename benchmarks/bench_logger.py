"""Figure 7: the cost of a record against structlog with hand-made header and JSON, and of a disabled level."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

from bench_base import Figure, Options, base_env, median, ratios

Call = Callable[[Any], Any]

PAYLOAD = {"cls_type": "metrics", "values": [{"name": "seconds", "value": 1.5}, {"name": "rows", "value": 1200.0}]}
CONTEXT = {"fqdn": "worker-17.eu-west-1.example.com", "application": "billing", "application_version": "4.2.1"}


def header_by_hand(logger: Any, name: str, event_dict: Any) -> dict[str, Any]:
    """A structlog processor that makes the record by hand, as without a package for it. It validates nothing."""
    header = {
        "id": f"LG{uuid.uuid4().hex[:22]}",
        "channel": f"bench.{event_dict['event']}",
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "context": CONTEXT,
    }
    return {"schema": "0.0.1", "header": header, "payload": event_dict["payload"]}


def json_by_hand(logger: Any, name: str, record: Any) -> str:
    """The last processor: one line of JSON."""
    return json.dumps(record)


def by_hand_to_logging(name: str) -> Any:
    """structlog over the standard library's logging."""
    import structlog

    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[header_by_hand, json_by_hand],
        wrapper_class=structlog.stdlib.BoundLogger,
    ).bind()


def by_hand_to_stream(stream: TextIO) -> Any:
    """structlog that writes by itself and filters by level: the fastest set-up in its documentation."""
    import structlog

    return structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[header_by_hand, json_by_hand],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind()


def ours(name: str) -> Any:
    """This package's logger."""
    from balog_celery import get_logger

    return get_logger(name)


def handle_all(stream: TextIO) -> None:
    """Set up logging as an application does, for both sides alike."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _write(logger: Any) -> None:
    logger.info("done", payload=PAYLOAD)


def _suppress(logger: Any) -> None:
    logger.debug("done", payload=PAYLOAD)


def _time(call: Call, logger: Any, count: int) -> float:
    """Return the CPU of one call, in us."""
    began = time.process_time()
    for _ in range(count):
        call(logger)
    return (time.process_time() - began) / count * 1e6


def interleaved(loggers: dict[str, Any], call: Call, rounds: int, count: int) -> dict[str, list[float]]:
    """Return each logger's time in each round; the loggers take turns."""
    times: dict[str, list[float]] = {name: [] for name in loggers}
    for logger in loggers.values():
        _time(call, logger, count // 10)
    for _ in range(rounds):
        for name, logger in loggers.items():
            times[name].append(_time(call, logger, count))
    return times


def _child(what: str, rounds: int, count: int) -> dict[str, list[float]]:
    """Measure in a separate process, because the logging set-up is global."""
    env = {key: value for key, value in {**os.environ, **base_env()}.items() if value is not None}
    argv = [sys.executable, __file__, what, str(rounds), str(count)]
    done = subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE, text=True)
    times: dict[str, list[float]] = json.loads(done.stdout)
    return times


def logger_record(options: Options) -> Figure:
    """Measure one metrics record, through logging and without; the value is the worse of the two."""
    rounds, count = options.pick(15, 5), options.pick(20_000, 5_000)
    logged = _child("record-logging", rounds, count)
    printed = _child("record-stream", rounds, count)
    through_logging = median(ratios(logged["ours"], logged["by_hand"]))
    by_itself = median(ratios(printed["ours"], printed["by_hand"]))
    sides = {
        "through_logging_ratio": through_logging,
        "without_logging_ratio": by_itself,
        "through_logging_ours_us": median(logged["ours"]),
        "through_logging_by_hand_us": median(logged["by_hand"]),
        "without_logging_ours_us": median(printed["ours"]),
        "without_logging_by_hand_us": median(printed["by_hand"]),
    }
    return Figure("logger-record", max(through_logging, by_itself), "<= 1.3", sides)


def logger_disabled(options: Options) -> Figure:
    """Compare a call at a disabled level to structlog's filtering bound logger, whose method does nothing."""
    rounds, count = options.pick(15, 5), options.pick(500_000, 100_000)
    times = _child("disabled", rounds, count)
    sides: dict[str, Any] = {f"{name}_us": median(values) for name, values in times.items()}
    ours_times = [own - empty for own, empty in zip(times["ours"], times["an_empty_call"], strict=True)]
    sides["ratio_without_the_loop_and_the_call_around"] = median(
        ratios(ours_times, [a - b for a, b in zip(times["structlog_filtering"], times["an_empty_call"], strict=True)])
    )
    sides["ratio_to_structlog_over_logging"] = median(ratios(times["ours"], times["structlog_stdlib_filter_by_level"]))
    return Figure("logger-disabled", median(ratios(times["ours"], times["structlog_filtering"])), "<= 2", sides)


class _Nothing:
    def debug(self, event: str, payload: object) -> None:
        """Do nothing: the least cost of a method call with these arguments."""


def main(what: str, rounds: int, count: int) -> None:
    """Measure one logger, and write the times."""
    import structlog

    with open(os.devnull, "w") as sink:
        results, sys.stdout = sys.stdout, sink
        if what == "record-logging":
            handle_all(sink)
            loggers = {"by_hand": by_hand_to_logging("bench"), "ours": ours("bench")}
        elif what == "record-stream":
            loggers = {"by_hand": by_hand_to_stream(sink), "ours": ours("bench")}
        else:
            handle_all(sink)
            filtering = by_hand_to_logging("bench.b")
            filtering._processors.insert(0, structlog.stdlib.filter_by_level)
            loggers = {
                "an_empty_call": _Nothing(),
                "structlog_filtering": by_hand_to_stream(sink),
                "structlog_stdlib_filter_by_level": filtering,
                "ours": ours("bench"),
            }
        call = _suppress if what == "disabled" else _write
        times = interleaved(loggers, call, rounds, count)
        sys.stdout = results
    print(json.dumps(times))


FIGURES = {"logger-record": logger_record, "logger-disabled": logger_disabled}

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
