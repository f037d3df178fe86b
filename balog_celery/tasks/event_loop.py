"""The event loop of ``async def`` consumers: one for each process, or for each thread of a pool of threads.

It lives as long as its thread, so a client or a connection pool that was made for one event serves the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from celery import signals
from celery.exceptions import SoftTimeLimitExceeded

from ..celery_compat.soft_limits import calling_at_soft_limit

T = TypeVar("T")

#: How long a coroutine that was cancelled may take to end, in seconds.
_CANCEL_TIMEOUT = 5.0

_local = threading.local()
_loops: list[asyncio.AbstractEventLoop] = []


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* on the loop of this thread, in the caller's context, and return its result.

    A soft time limit cancels it.

    :raises SoftTimeLimitExceeded: it was cancelled by that.
    :raises RuntimeError: a loop runs in this thread already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = _loop()
    else:
        coroutine.close()
        raise RuntimeError("an async def consumer cannot run inside a running event loop: use asyncio.to_thread")
    task = loop.create_task(coroutine)
    is_over = False

    def cancel() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # ends the loop's wait for input

    try:
        with calling_at_soft_limit(cancel):
            return loop.run_until_complete(task)
    except asyncio.CancelledError:
        if is_over:
            raise SoftTimeLimitExceeded from None
        raise
    except BaseException:
        # The pool ends this process by a SystemExit, which leaves the loop while coroutines run in it.
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait({task}, timeout=_CANCEL_TIMEOUT))
        raise


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = getattr(_local, "loop", None)
    if loop is None or loop.is_closed():
        _local.loop = loop = asyncio.new_event_loop()
        _loops.append(loop)
    return loop


def close(**_: Any) -> None:
    """Close the loops of this process, once its tasks have ended: cancel what still runs on them."""
    while _loops:
        loop = _loops.pop()
        if loop.is_running() or loop.is_closed():
            continue
        if rest := asyncio.all_tasks(loop):
            for task in rest:
                task.cancel()
            loop.run_until_complete(asyncio.wait(rest, timeout=_CANCEL_TIMEOUT))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# At the end of a pool's child, and of a worker whose pool runs tasks in its own process.
signals.worker_process_shutdown.connect(close)
signals.worker_shutdown.connect(close)
