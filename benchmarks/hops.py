"""Count the package's functions, calls and depth on the way of one event through the engine, by hand-off.

``python benchmarks/hops.py`` hands the events of an in-memory queue over to a stand-in for the worker, and counts the
calls of the package's functions between the receive and the delete of the second one: the first fills caches. It counts
all threads but the one that supervises the engine. With ``-v`` it prints the functions. The worker, ``SQSQueue`` in a
receive or a delete, and comprehensions, which Python 3.12 inlines, are not counted.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery

import balog_celery

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Done, Open, Task
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.engine import Engine
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

ROOT = str(Path(balog_celery.__file__).parent) + "/"
#: What the scripted SQS uses of the package is no hop.
DOUBLES = str(Path(__file__).parents[1] / "tests" / "scripted_sqs") + "/"


class Hops:
    """The calls of the package's functions while :attr:`counting`."""

    def __init__(self) -> None:
        self.counting = False
        self.calls = 0
        self.depth = 0
        #: The thread that called each function first, by file and function.
        self.functions: dict[tuple[str, str], str] = {}

    def profile(self, frame: FrameType, event: str, _arg: Any) -> None:
        """Count a call, as a profile function."""
        if event != "call" or not self.counting or not _counts(frame):
            return
        thread = threading.current_thread().name
        if thread == "supervisor":
            return
        depth, outer = 0, frame
        while outer is not None:
            if outer.f_code.co_filename.startswith(DOUBLES):
                return
            depth += _counts(outer)
            outer = outer.f_back  # type: ignore[assignment]
        self.calls += 1
        file = frame.f_code.co_filename[len(ROOT) :]
        self.functions.setdefault((file, getattr(frame.f_code, "co_qualname", frame.f_code.co_name)), thread)
        self.depth = max(self.depth, depth)


def _counts(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(ROOT) and code.co_name not in (
        "<listcomp>",
        "<dictcomp>",
        "<setcomp>",
        "<genexpr>",
    )


class TwoMessages(ObservedQueue):
    """A queue that has the second message once the first is deleted."""

    def __init__(self, hops: Hops) -> None:
        super().__init__("topic", [event_text("first")])
        self.ended = threading.Event()
        self._hops = hops

    def receive(self, limit: int, wait: float, visibility: int) -> list[Any]:
        if not self.calls_of("receive"):
            return super().receive(limit, wait, visibility)
        if self._hops.functions:
            self.ended.wait(60)
            return []
        self.wait_for(lambda: bool(self.deleted))
        self.put(event_text("second"))
        messages = super().receive(limit, wait, visibility)
        self._hops.counting = True
        return messages


def count() -> Hops:
    """Count the hops of one event."""
    hops = Hops()
    queue = TwoMessages(hops)
    queues = {"topic": queue, "topic-dead": ObservedQueue("topic-dead")}
    consumer = Consumer(lambda event: None, "topic", name="f", module="project")
    hub = ConsumerHub()
    hub.add_consumer(consumer)
    app = Celery("hops", broker="memory://", set_as_current=False)
    register(app, consumer, ConsumerOperator(), "topic", DeadLetters(queues.__getitem__, "{topic}-dead"), None)
    ours, theirs = socket.socketpair()
    worker = Channel(theirs)

    def work() -> None:
        worker.send(Open(20, ["celery"]))
        while (tasks := worker.receive()) is not None:
            worker.send(*[Done(task.number) for task in tasks if isinstance(task, Task)])

    threading.Thread(target=work, name="worker", daemon=True).start()
    threading.setprofile(hops.profile)
    dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1, 10_000))
    engine = Engine(hub, queues.__getitem__, dispatcher=dispatcher)
    supervisor = threading.Thread(target=engine.run, name="supervisor")
    supervisor.start()
    try:
        queue.wait_for(lambda: len(queue.deleted) == 2)
    finally:
        hops.counting = False
        threading.setprofile(None)
        queue.ended.set()
        engine.stop()
        supervisor.join(60)
    return hops


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    counted = count()
    files = {file for file, _ in counted.functions}
    print(f"{len(counted.functions)} functions in {len(files)} files, {counted.calls} calls, depth {counted.depth}")
    if "-v" in sys.argv:
        for (file, function), thread in counted.functions.items():
            print(f"    {file} {function} [{thread}]")
