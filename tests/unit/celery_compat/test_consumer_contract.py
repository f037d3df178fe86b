"""What limits on concurrency need of Celery's consumer beyond its documentation."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

from celery.worker import WorkController, components, state, strategy
from celery.worker.consumer import Consumer
from celery.worker.consumer import consumer as consumer_module

from balog_celery.celery_compat import worker as worker_compat


def test_every_task_goes_through_one_attribute_of_the_consumer() -> None:
    """Tasks as received, with an ETA and with a rate limit; the places of the pool are counted behind it."""
    assert "handle = consumer.on_task_request" in inspect.getsource(strategy.default)
    for method in (Consumer.apply_eta_task, Consumer._limit_move_to_pool):
        assert "self.on_task_request(" in inspect.getsource(method)
    assert "w.process_task" in inspect.getsource(components.Consumer.create)
    assert "_quick_acquire" in inspect.getsource(WorkController._process_task_sem)


def test_a_request_is_reserved_before_it_is_executed_and_forgotten_at_its_end() -> None:
    """Also what had an ETA or a rate limit; a lost connection forgets what is not executed."""
    received = inspect.getsource(strategy.default)
    assert received.rindex("task_reserved(req)") < received.rindex("handle(req)")
    for method in (Consumer.apply_eta_task, Consumer._limit_move_to_pool):
        source = inspect.getsource(method)
        assert source.index("task_reserved(") < source.index("self.on_task_request(")
    assert "reserved_requests.clear()" in inspect.getsource(Consumer.on_close)

    class Request:
        id = "r"

    request = Request()
    assert not worker_compat.is_known(request)
    state.reserved_requests.add(request)
    assert worker_compat.is_known(request)
    state.active_requests.add(request)
    state.task_ready(request)
    assert not worker_compat.is_known(request)


def test_the_prefetch_count_changes_as_for_an_eta() -> None:
    """It goes up and down by one; a transport without one has none."""
    calls = list[str]()
    qos = SimpleNamespace(
        increment_eventually=lambda: calls.append("up"), decrement_eventually=lambda: calls.append("down")
    )
    for by in (1, -1):
        worker_compat.change_prefetch(SimpleNamespace(qos=qos), by)
    worker_compat.change_prefetch(SimpleNamespace(qos=None), 1)
    assert calls == ["up", "down"]
    for name in ("increment_eventually", "decrement_eventually"):
        assert f"qos.{name}" in inspect.getsource(consumer_module) + inspect.getsource(strategy)
