"""The hook for tasks that succeed, in the request classes that Celery derives for each task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.worker.request import create_request_cls

from balog_celery.celery_compat.worker import HookedRequest


class Noting(HookedRequest):
    """Notes the run times of tasks that succeeded."""

    noted: list[float]

    def succeeded(self, runtime: float) -> None:
        self.noted.append(runtime)

    def on_failure(self, *args: Any, **kwargs: Any) -> None: ...


def test_a_success_is_noted_once_and_a_failure_is_not() -> None:
    """The derived class has an ``on_success`` of its own, which does not call the one above it."""
    app = Celery("hook", broker="memory://", set_as_current=False)

    @app.task(name="t", acks_late=False)
    def task() -> None: ...

    derived = create_request_cls(Noting, task, SimpleNamespace(apply_async=None), "h", None)
    assert "on_success" in vars(derived)
    assert "on_success" not in vars(HookedRequest)
    request = derived.__new__(derived)
    request.id, request.noted, request._task = "id", [], task
    request.on_success((0, "result", 1.5))
    assert request.noted == [1.5]
    request.on_success((1, SimpleNamespace(exception=ValueError()), 2.0))
    assert request.noted == [1.5]
    app.close()
