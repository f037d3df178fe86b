"""What the hand-off needs of Celery's pools and autoscaler beyond their documentation."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency import get_implementation
from celery.worker.autoscale import Autoscaler, WorkerComponent
from celery.worker.consumer import Consumer

from balog_celery.celery_compat import pool as pool_compat

#: Has a pool execute two tasks, the first of which may not begin, and prints what was executed.
GATED = """
{patch}
import threading
from celery.concurrency import get_implementation
from balog_celery.celery_compat.worker import GreenletExit

pool = get_implementation("{pool}")(2)
pool.start()
ran, done = [], threading.Event()

def refuse(pid, time_accepted):
    raise GreenletExit

pool.apply_async(ran.append, ("refused",), accept_callback=refuse, callback=print)
pool.apply_async(ran.append, ("run",), accept_callback=lambda *_: None, callback=lambda _: done.set())
assert done.wait(30)
pool.stop()
print(*ran)
"""
#: Executes tasks in a pool of two processes, connected twice, as after a lost broker. Prints how many it writes before
#: the loop polls, how many writers the loop has, and whether each task is executed once.
PROCESSES = """
import os, signal, sys, time
from types import SimpleNamespace
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop
from balog_celery.celery_compat import pool as pool_compat

app = Celery("pool", broker="memory://")
hub = set_event_loop(Hub())
pool = TaskPool(
    2, app=app, initargs=(app, "host"), threads=False, putlocks=False, max_restarts=100, forking_enable=True,
    sched_strategy="{strategy}", maxtasksperchild={tasks_per_child},
)
pool.start()
for _ in range(2):
    pool.register_with_event_loop(hub)
    pool_compat.write_jobs_at_once(SimpleNamespace(pool=pool), hub)

def turn_until(is_true):
    deadline, loop = time.monotonic() + 60, hub.create_loop()
    while not is_true():
        assert time.monotonic() < deadline
        loop = hub.create_loop() if next(loop, 1) else loop

turn_until(lambda: len(pool._pool._all_inqueues) == 2)
done = []
for number in range(40):
    pool.apply_async(divmod, (number, 10), callback=done.append, accept_callback=lambda *_: None)
if {kills}:
    os.kill(pool._pool._pool[0].pid, signal.SIGKILL)
for call in list(hub.on_tick):
    call()
written = sum(pool._pool.write_stats.values())
writers = sum(isinstance(call, pool_compat.JobWriter) for call in hub.on_tick)
turn_until(lambda: len(done) == 40)
print(written, writers, sorted(ten * 10 + one for ten, one in done) == list(range(40)), flush=True)
os.killpg(0, signal.SIGKILL)  # its children as well
"""
PATCHES = {
    "threads": "",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("pool", PATCHES)
def test_a_pool_drops_a_task_that_is_not_accepted(pool: str) -> None:
    """The callback for an accepted task comes before its function, and may end it without a trace."""
    code = GATED.format(pool=pool, patch=PATCHES[pool])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "run\n"
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_the_autoscaler_has_its_maximum_and_hears_of_tasks() -> None:
    """Also the maximum that ``control autoscale`` sets; a consumer's callbacks are those of its tasks."""
    app = Celery("autoscale", broker="memory://", set_as_current=False)
    pool = SimpleNamespace(num_processes=1, is_green=False, grow=lambda _: None)
    scaler = Autoscaler(pool, 3, 1, worker=SimpleNamespace(consumer=SimpleNamespace(_update_prefetch_count=int)))
    assert scaler.max_concurrency == 3
    scaler.update(max=5)
    assert scaler.max_concurrency == 5
    source = inspect.getsource(Consumer.__init__)
    assert "self.on_task_message = set()" in source
    assert "self.prefetch_multiplier = prefetch_multiplier" in source
    assert "w.autoscaler = " in inspect.getsource(WorkerComponent.create)
    app.close()


def _executed(strategy: str = "fair", tasks_per_child: int | None = None, *, kills: bool = False) -> str:
    code = PROCESSES.format(strategy=strategy, tasks_per_child=tasks_per_child, kills=kills)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, start_new_session=True
    )
    return done.stdout or done.stderr


def test_a_job_is_written_to_an_idle_child_before_the_loop_polls() -> None:
    """Each idle child gets a job in the same turn of the loop."""
    assert _executed() == "2 1 True\n"


@pytest.mark.parametrize("case", [{"kills": True}, {"tasks_per_child": 3}], ids=str)
def test_a_job_that_was_written_to_a_child_that_ends_is_executed_by_another(case: dict[str, Any]) -> None:
    """A job for a child that is killed meanwhile, or that has executed enough tasks, goes to another child."""
    assert _executed(**case) == "2 1 True\n"


def test_a_pool_that_prefetches_jobs_is_left_alone() -> None:
    """With ``-O fast`` children get jobs before they are idle, as Celery does it."""
    assert _executed("fast") == "0 0 True\n"


def test_a_pools_line_at_debug_has_no_arguments_of_tasks_that_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """It has their names and ids; of a line that looks different, no arguments at all."""
    # Given
    hiding = pool_compat.ArgumentsFilter("hidden".__eq__)
    logger = logging.getLogger(pool_compat.ArgumentsFilter.LOGGER)
    logger.addFilter(hiding)
    caplog.set_level(logging.DEBUG, logger.name)
    pool = get_implementation("solo")(1)
    pool.start()
    # When
    try:
        for arguments in (("hidden", "id", {}, "secret"), ("other", "id", {}, "open"), (["secret"],)):
            pool.apply_async(lambda *_: None, arguments, accept_callback=lambda *_: None, callback=lambda *_: None)
    finally:
        logger.removeFilter(hiding)
    # Then
    lines = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert [line.partition("(args:")[2].partition(" kwargs:")[0] for line in lines] == [
        "('hidden', 'id', ...)",
        "('other', 'id', {}, 'open')",
        "(...)",
    ]
