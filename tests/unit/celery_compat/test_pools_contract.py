"""What the hand-off needs of Celery's pools and autoscaler beyond their documentation."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.autoscale import Autoscaler, WorkerComponent
from celery.worker.consumer import Consumer

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
