"""Feeds an engine bodies that a sender might write to keep it busy, and prints how much CPU time each took.

Run by test_hostile.py as a process of its own, whose CPU time the system limits.
"""

from __future__ import annotations

import json
import logging
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from balog_celery.sqs.payloads import read_pointer
from sample_events import EVENT, event_text
from scripted_sqs.observed import ObservedQueue

#: About how many characters a body has.
SIZE = (1 << 20) - 1024
#: FIFO, for a delete does not wait for others there.
TOPIC, DEAD = "topic.fifo", "topic-dead.fifo"
#: All of the process: what is quadratic would take half an hour for one body.
CPU_SECONDS = 45


def _header(**header: Any) -> str:
    return json.dumps({**EVENT, "header": {**EVENT["header"], **header}})


def _number(text: str) -> str:
    return event_text(values=[{"name": "n", "value": text}])


def _cloudevents(count: int) -> str:
    event = {"specversion": "1.0", "type": "t", "source": "s"}
    return json.dumps([{**event, "id": str(number)} for number in range(count)])


def _sns(message: str) -> str:
    envelope = {"Type": "Notification", "TopicArn": "a", "MessageId": "m", "Timestamp": "2014-10-07"}
    return json.dumps({**envelope, "Message": message})


def _nested_sns(size: int) -> str:
    body = "{}"
    while len(body) < size // 2:
        body = _sns(body)
    return body


_DEEP = "[" * 101
POINTER = '["software.amazon.payloadoffloading.PayloadS3Pointer",'

#: Must be read in time that grows with its size alone. SQS takes neither lone surrogates nor most control characters.
BODIES: dict[str, Callable[[int], str]] = {
    # The depth check
    "a text that is not closed": lambda n: _DEEP + '"' + '\\"' * (n // 2),
    "backslashes that escape themselves": lambda n: _DEEP + '"' + "\\" * n,
    "quotes": lambda n: _DEEP[:51] + "]" * 51 + '"' * n,
    "quotes and backslashes": lambda n: "[]" * 51 + '"\\' * (n // 2),
    "brackets": lambda n: "[" * n,
    "pairs of brackets": lambda n: "[" + "[]," * (n // 3) + "[]]",
    "brackets in texts": lambda n: "[" + '"[{",' * (n // 5) + "{}]",
    # JSON
    "escaped surrogates": lambda n: '"' + "\\ud800" * (n // 6) + '"',
    "pairs of surrogates, and a lone one": lambda n: '"' + "\\ud800\\udc00" * (n // 12) + '\\ud800"',
    "half escapes": lambda n: '"' + "\\u" * (n // 2),
    "one integer": lambda n: "1" * n,
    "long integers": lambda n: "[" + ",".join(["9" * 4300] * (n // 4301)) + "]",
    "control characters": lambda n: '{"a":"' + "\t" * n + '"}',
    "keys": lambda n: "{" + ",".join(f'"{number}":0' for number in range(n // 10)) + "}",
    "one key": lambda n: "{" + '"a":0,' * (n // 6) + '"a":0}',
    "white space": lambda n: " " * n,
    # A record
    "digits of a version": lambda n: event_text(schema="1" * n),
    "parts of a version": lambda n: event_text(schema="1" + ".0" * (n // 2) + ".1"),
    "what is almost a version": lambda n: event_text(schema="1+" + "a." * (n // 2) + "!"),
    "white space in a version": lambda n: event_text(schema="1" + " " * n + "x"),
    "digits of a second": lambda n: _header(timestamp="2014-10-07T15:06:51." + "1" * n),
    "what is almost a timestamp": lambda n: _header(timestamp="2014-10-07T15:06:51." + "1" * n + "x"),
    "an id": lambda n: event_text("é" * (n // 6)),
    "a type": lambda n: event_text(cls_type="c" * n),
    "a composition": lambda n: _header(composition="False" * (n // 5)),
    "a severity": lambda n: event_text(cls_type="log", message="m", severity="İ" * (n // 6)),
    "digits of a metric": lambda n: _number("1" * n),
    "an exponent of a metric": lambda n: _number("1e-" + "9" * n),
    "what is almost a metric": lambda n: _number(" " * n + "1x"),
    "bad metrics": lambda n: event_text(values=[1] * (n // 3)),
    # Other sources
    "CloudEvents": lambda n: _cloudevents(n // 70),
    "a deep text by SNS": lambda n: _sns(_DEEP + '"' + '\\"' * (n // 4)),
    "envelopes of SNS in one another": lambda n: _nested_sns(n),
    "objects and arrays in one another": lambda n: '{"a":[' * (n // 6),
    "records of SNS": lambda n: json.dumps({"Records": [{"Sns": json.loads(_sns("[]"))}] * (n // 120)}),
    "records of S3": lambda n: json.dumps({"Records": [{"s3": {"bucket": {"name": "b"}}}] * (n // 40)}),
    "lines of CloudFormation": lambda n: _sns("StackId='" + "\na='" * (n // 5)),
    "an event of Debezium": lambda n: json.dumps({"op": "c", "source": {"name": "x" * n}, "ts_ms": 1}),
    "a pointer to S3 that never ends": lambda n: POINTER + "[" * n,
    "a pointer to S3 with a number": lambda n: POINTER + "1" * n + "]",
}


def memory_now(name: str) -> int:
    """The memory of this process, in bytes: ``VmRSS`` now, or ``VmHWM`` at most."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


def start_of_peak() -> int:
    """Forget the peak of this process's memory so far, and return its memory, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_now("VmRSS")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    logging.disable(logging.CRITICAL)
    hub = ConsumerHub()
    for number, version in enumerate((None, "<1.0", "!=2", "==1.*", "!=1.*", "~=1.2")):
        hub.add_consumer(Consumer(lambda event: None, TOPIC, version=version, name=f"c{number}"))
    queues = {name: ObservedQueue(name) for name in (TOPIC, DEAD)}
    engine = Engine(hub, queues.__getitem__)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    queue = queues[TOPIC]
    for name, make in BODIES.items():
        body, seen = make(SIZE), len(queue.deleted)
        memory = start_of_peak()
        before = time.process_time()
        read_pointer(body)  # as SQSQueue does
        queue.put(body)
        queue.wait_for(lambda seen=seen: len(queue.deleted) > seen, 600)  # type: ignore[misc]
        seconds, taken = time.process_time() - before, memory_now("VmHWM") - memory
        print(json.dumps({"body": name, "seconds": seconds, "bytes": taken}), flush=True)
    engine.stop()
    thread.join(60)
    print(json.dumps({"dead": len(queues[DEAD].sent), **engine.stats.of(TOPIC)}), flush=True)


if __name__ == "__main__":
    main()
