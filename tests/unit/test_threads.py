"""Supervised threads, and a stop flag that a signal handler may set."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

import servers
from balog_celery.threads import StopFlag, SupervisedThread

#: An engine that is sent SIGTERM in the middle of each call that its main thread makes while it waits: at the first
#: run in the first, and so on. Python runs signal handlers there. A handler that takes a lock that the interrupted
#: code holds never returns.
INTERRUPTED = """
import faulthandler, signal, sys
sys.path.insert(0, "tests")
faulthandler.dump_traceback_later(50, exit=True)
from engines import Queues, Recorder, hub_of
from balog_celery.engine.engine import Engine
from scripted_sqs.observed import ObservedQueue

def run(number):
    queue = ObservedQueue()
    engine = Engine(hub_of(Recorder().process), Queues(topic=queue).__getitem__)
    left = [number]
    def interrupt(frame, event, argument):
        if not any(name == "receive" for name, _ in queue.calls):
            return
        if event in ("call", "c_call"):
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGTERM)
    def ready():
        sys.setprofile(interrupt)
    engine.run(ready)
    sys.setprofile(None)
    return left[0] <= 0

numbers = range(1, 25)
print(sum(run(number) for number in numbers), "of", len(numbers))
"""


def test_a_signal_at_any_moment_stops_the_engine() -> None:
    """A signal stops the engine at any moment, also just before or after the main thread begins to wait."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "24 of 24\n"


def test_a_flag_that_is_set_while_it_is_waited_for_ends_the_wait() -> None:
    """A flag that is set from any thread, even repeatedly, ends the wait at once."""
    flag = StopFlag()
    assert not flag.wait(0.01)
    timer = threading.Timer(0.05, lambda: [flag.set(), flag.set()])
    begin = time.monotonic()
    timer.start()
    assert flag.wait(60)
    assert time.monotonic() - begin < 30
    timer.join(60)
    flag.set()
    assert flag.wait(60)
    assert flag.wait(0)


def test_a_flag_may_be_set_by_a_handler_that_interrupts_its_wait() -> None:
    """A handler that interrupts the wait may set the flag, and the wait ends."""
    flag = StopFlag()
    before = signal.signal(signal.SIGALRM, lambda *_: flag.set())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert flag.wait(60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_is_replaced_if_it_died_and_not_if_it_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    """A thread is replaced if it died of an exception, and not if it returned."""
    ends = [SystemExit(3), ValueError("a bug"), None]

    def run() -> None:
        if (error := ends.pop(0)) is not None:
            raise error

    thread = SupervisedThread("the poller of\ntopic", "poller", run)
    assert thread.join(0)
    thread.start()
    for left in (1, 0):
        servers.wait_until(lambda: not thread.is_alive(), what="its death")
        assert thread.ensure_alive()
        servers.wait_until(lambda: len(ends) == left, what="the new one")  # noqa: B023
    assert thread.join(time.monotonic() + 60)
    assert not thread.ensure_alive()
    assert caplog.text.count(r"the poller of\ntopic died: starting a new one") == 2
