"""What this package needs of Celery and kombu beyond their documentation.

A failure here after an upgrade names what to look at in ``celery_compat`` or ``brokers/connections.py``.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

import kombu
import pytest
from billiard import Process, current_process
from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery, Signature, Task, bootsteps, signals
from celery.app import autoretry, routes, trace
from celery.app.task import extract_exec_options
from celery.app.trace import build_tracer
from celery.concurrency import prefork
from celery.concurrency.base import BasePool
from celery.events import EventDispatcher
from celery.exceptions import CDeprecationWarning, Retry, TimeLimitExceeded, WorkerLostError, WorkerShutdown
from celery.utils.imports import cwd_in_path, symbol_by_name
from celery.utils.nodenames import anon_nodename
from celery.worker import components, control, state, strategy
from celery.worker.consumer import Consumer, Events, Tasks
from celery.worker.request import create_request_cls
from kombu import Connection, Exchange, Producer
from kombu import Queue as KombuQueue
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from balog_celery.brokers.kombu_compat import batch
from balog_celery.celery_compat.worker import HookedRequest
from balog_celery.consumers.options import ROUTING_OPTIONS, TASK_OPTIONS
from balog_celery.dispatch.hand_off_message import HandOffMessage
from balog_celery.tasks.context import HandOffContext
from balog_celery.worker.hand_off_step import HandOffStep
from balog_celery.worker.task_events import TaskEventsStep

#: Read by Celery where a task is registered.
AUTORETRY_OPTIONS = {
    "autoretry_for",
    "dont_autoretry_for",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "retry_kwargs",
}

#: Nothing is reported to an engine.
NO_CHANNEL: Any = None
#: Options of Celery 5.7.
NEW_OPTIONS = {"acks_on_failure", "acks_on_timeout", "retry_on_worker_lost"}

#: Celery's request; before 5.7 with what its methods do since then.
Request: Any = HookedRequest.__base__

since_5_7 = pytest.mark.skipif(kombu.VERSION < (5, 7), reason="Celery and kombu have it since 5.7")

TASK_ID = "0b0f5c55-3f0a-5b7c-9a3e-5a5a5a5a5a5a"

#: How a task gets to the default queue.
CELERY_QUEUE = {"exchange": "", "routing_key": "celery", "priority": None}


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, with a task."""
    app = Celery("contract", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"contract-{id(app)}"

    @app.task(name="contract.task", shared=False)
    def task(event: str) -> None:
        pass

    yield app
    app.close()


def message(app: Celery, **more: Any) -> Any:
    """A task message as publish.py has it made."""
    options = {
        "argsrepr": "(<Event>,)",
        "kwargsrepr": "{}",
        "ignore_result": True,
        "time_limit": 5.0,
        "soft_time_limit": 4.0,
        "expires": None,
        "create_sent_event": False,
        "origin": anon_nodename(),
        **more,
    }
    return app.amqp.create_task_message(TASK_ID, "contract.task", ("the text",), {}, **options)


def sent(app: Celery, messages: list[Any], **options: Any) -> list[Any]:
    """Return the messages that a broker delivers for *messages*, sent as by publish.py."""
    route = app.amqp.router.route({"queue": None}, "contract.task", (), {}, app.tasks["contract.task"])
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        with batch(producer):
            for one in messages:
                app.amqp.send_task_message(
                    producer,
                    "contract.task",
                    one,
                    serializer="json",
                    retry=False,
                    declare=None,
                    confirm_timeout=1.0,
                    **{**route, **options},
                )
        queue = route["queue"](connection.default_channel)
        received = []
        while (got := queue.get(accept=["json"], no_ack=True)) is not None:
            received.append(got)
        return received


def test_a_task_message_is_made_of_what_dispatch_gives(app: Celery) -> None:
    """A task message has four parts, with the headers that a worker and Flower read."""
    headers, properties, (args, kwargs, _embed), sent_event = message(app)
    assert (headers["id"], headers["root_id"], headers["task"]) == (TASK_ID, TASK_ID, "contract.task")
    assert headers["lang"] == "py"
    assert headers["argsrepr"] == "(<Event>,)"
    assert headers["kwargsrepr"] == "{}"
    assert headers["timelimit"] == [5.0, 4.0]
    assert headers["retries"] == 0
    assert headers["ignore_result"] is True
    assert headers["expires"] is None
    assert headers["origin"] == anon_nodename()
    assert properties["correlation_id"] == TASK_ID
    assert (args, kwargs) == (("the text",), {})
    assert sent_event is None


def test_an_expiry_in_seconds_becomes_a_moment(app: Celery) -> None:
    """An expiry in seconds becomes a time, as by ``Task.apply_async``."""
    headers, *_ = message(app, expires=60)
    assert headers["expires"] > "2000-01-01"


def test_a_sent_event_is_made_where_it_is_asked_for(app: Celery) -> None:
    """`task-sent` is made if the app asks for it; Flower then shows a task before a worker has it."""
    *_, sent_event = message(app, create_sent_event=True)
    assert sent_event["uuid"] == TASK_ID
    assert sent_event["args"] == "(<Event>,)"


def test_the_functions_take_what_dispatch_gives() -> None:
    """Celery's functions have the parameters, by name, that this package passes."""
    app = Celery("contract", broker="memory://", set_as_current=False)
    create = inspect.signature(app.amqp.create_task_message).parameters
    assert list(create)[:4] == ["task_id", "name", "args", "kwargs"]
    assert {
        "argsrepr",
        "kwargsrepr",
        "ignore_result",
        "time_limit",
        "soft_time_limit",
        "expires",
        "create_sent_event",
        "origin",
    } <= set(create)
    send = inspect.signature(app.amqp.send_task_message).parameters
    assert list(send)[:3] == ["producer", "name", "message"]
    assert {"serializer", "retry", "declare", "confirm_timeout", "queue", "compression"} <= set(send)
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in send.values())  # priority


def test_a_broker_hands_over_what_was_sent(app: Celery) -> None:
    """A broker delivers the body, id and arguments as from ``apply_async``."""
    (received,) = sent(app, [message(app)])
    assert json.loads(received.body)[:2] == [["the text"], {}]
    assert received.headers["id"] == TASK_ID
    assert received.headers["argsrepr"] == "(<Event>,)"
    assert received.content_type == "application/json"
    with app.connection_for_write() as connection:
        app.tasks["contract.task"].apply_async(("the text",), task_id=TASK_ID, connection=connection)
        queue = app.amqp.queues[app.conf.task_default_queue](connection.default_channel)
        usual = queue.get(accept=["json"], no_ack=True)
    assert usual.body == received.body
    assert set(usual.headers) == set(received.headers)
    assert set(usual.properties) == set(received.properties)


def test_a_priority_and_a_compression_travel(app: Celery) -> None:
    """Priority and compression of a route are in the message."""
    (received,) = sent(app, [message(app)], priority=3, compression="gzip")
    assert received.properties["priority"] == 3
    assert received.headers["compression"] == "application/x-gzip"
    assert json.loads(received.body)[0] == ["the text"] or received.body


def test_both_publish_signals_fire(app: Celery) -> None:
    """Publishing fires both signals, whose receivers may add headers."""
    seen: list[tuple[str, str]] = []

    def before(sender: str, headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-1-2-01"
        seen.append(("before", headers["id"]))

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        seen.append(("after", headers["id"]))

    signals.before_task_publish.connect(before, sender="contract.task", weak=False)
    signals.after_task_publish.connect(after, sender="contract.task", weak=False)
    try:
        (received,) = sent(app, [message(app)])
    finally:
        signals.before_task_publish.disconnect(before, sender="contract.task")
        signals.after_task_publish.disconnect(after, sender="contract.task")
    assert seen == [("before", TASK_ID), ("after", TASK_ID)]
    assert received.headers["traceparent"] == "00-1-2-01"


def test_a_batch_ends_with_all_of_it_sent(app: Celery) -> None:
    """A batch's commit sends all messages in order; a transport without transactions sends each at once."""
    messages = [message(app, argsrepr=str(number)) for number in range(12)]
    assert [one.headers["argsrepr"] for one in sent(app, messages)] == [str(number) for number in range(12)]


@since_5_7
def test_a_batch_takes_no_more_than_it_says_and_ten_fit() -> None:
    """A batch has room for a receive's tasks of a few consumers."""
    default = inspect.signature(Producer.batch).parameters["max_size"].default
    assert default >= 100


def test_a_connection_is_dropped_without_waiting(app: Celery) -> None:
    """``collect`` takes a timeout, and ``driver_type`` names the transport."""
    assert "socket_timeout" in inspect.signature(Connection.collect).parameters
    connection = app.connection_for_write(connect_timeout=1.0)
    assert connection.connect_timeout == 1.0
    assert connection.transport.driver_type == "memory"
    connection.collect(1.0)
    assert Connection("redis://").transport_cls
    for url, driver in (("redis://", "redis"), ("amqp://", "amqp")):
        pytest.importorskip({"redis": "redis", "amqp": "amqp"}[driver])
        assert Connection(url).get_transport_cls().driver_type == driver


def test_an_amqp_channel_has_transactions() -> None:
    """An AMQP channel has transactions."""
    from amqp import Channel

    assert callable(Channel.tx_select)
    assert callable(Channel.tx_commit)


def test_a_route_is_a_queue_and_its_options(app: Celery) -> None:
    """Routers are functions of a task's name, and a route has the queue and options."""
    app.conf.task_routes = (lambda name, *_, **__: {"queue": "other", "priority": 7},)
    route = app.amqp.router.route({"queue": None}, "contract.task", (), {}, app.tasks["contract.task"])
    assert route["queue"].name == "other"
    assert route["priority"] == 7
    assert len(routes.prepare([{"a": {"queue": "b"}}, lambda *_, **__: None])) == 2


def test_a_flag_asks_a_worker_for_a_warm_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """``should_stop`` asks a worker's loops for a warm stop; None and False do not."""
    assert state.should_stop is None
    state.maybe_shutdown()
    monkeypatch.setattr(state, "should_stop", 1)
    with pytest.raises(WorkerShutdown):
        state.maybe_shutdown()


def test_a_workers_steps_are_where_they_were() -> None:
    """Celery has the steps that the engine's step requires, and calls it at each kind of stop."""
    assert {components.Pool.name, components.Timer.name} == {
        "celery.worker.components.Pool",
        "celery.worker.components.Timer",
    }
    assert {"start", "stop", "close", "terminate", "create", "include_if"} <= set(dir(bootsteps.StartStopStep))
    app = Celery("contract", broker="memory://", set_as_current=False)
    assert isinstance(app.steps["worker"], set)
    assert isinstance(app.user_options["worker"], set)


def test_the_remaining_names_are_there() -> None:
    """The names that integration.py and celery.py use exist."""
    assert symbol_by_name("json:loads") is json.loads
    with cwd_in_path():
        pass
    assert signals.import_modules.providing_args is not None


@pytest.mark.parametrize("name", sorted(TASK_OPTIONS - ROUTING_OPTIONS - AUTORETRY_OPTIONS - {"base", "compression"}))
def test_a_task_option_is_an_attribute_of_celerys_task(name: str) -> None:
    """Each task option is an attribute of Celery's Task. Some are new in 5.7 (``missing_options``)."""
    assert (name in vars(Task)) == (name not in NEW_OPTIONS or kombu.VERSION >= (5, 7))


def test_no_task_option_of_celerys_is_left_out() -> None:
    """Each of Celery's task options is allowed for consumers, except those that this package sets."""
    ours = {"Request", "Strategy", "abstract", "from_config", "name", "request_stack", "serializer", "typing"}
    attributes = {
        name
        for name, value in vars(Task).items()
        if not name.startswith("_") and not callable(value) and not hasattr(value, "__get__")
    }
    assert attributes - TASK_OPTIONS <= ours


@pytest.mark.parametrize("name", sorted(AUTORETRY_OPTIONS))
def test_a_retry_option_is_looked_at_by_celery(name: str) -> None:
    """Celery reads a retry option from an attribute of the task."""

    class Probe:
        asked: ClassVar[set[str]] = set()

        def __getattr__(self, attribute: str) -> Any:
            self.asked.add(attribute)
            raise AttributeError(attribute)

    autoretry.add_autoretry_behaviour(Probe())
    assert name in Probe.asked


@pytest.mark.parametrize("name", ["compression", "expires", "priority", "queue", "soft_time_limit", "time_limit"])
def test_a_publishing_option_is_read_from_a_task(name: str) -> None:
    """``apply_async`` reads a publishing option from the task, so retries have it as well."""
    assert extract_exec_options(SimpleNamespace(**{name: 1}))[name] == 1


@since_5_7
@pytest.mark.parametrize("name", sorted(ROUTING_OPTIONS))
def test_a_routing_option_on_a_task_is_deprecated(app: Celery, name: str) -> None:
    """A routing option on a task is deprecated, so a router gives it."""
    task = type("Routed", (Task,), {"name": "contract.routed", "run": lambda self: None, name: "1"})()
    with pytest.warns(CDeprecationWarning, match=f"The '{name}' task attribute"):
        app.register_task(task)


def test_a_registered_task_retries_by_itself(app: Celery) -> None:
    """``register_task`` reads the retry options of a class."""

    class Retrying(Task):  # type: ignore[misc]
        name = "contract.retrying"
        autoretry_for = (OSError,)
        max_retries = 2
        default_retry_delay = 0
        calls = 0

        def run(self) -> None:
            type(self).calls += 1
            raise OSError("again")

    app.register_task(Retrying())
    result = app.tasks["contract.retrying"].apply()
    assert Retrying.calls == 3
    assert isinstance(result.result, OSError)


def test_a_task_class_with_a_call_of_its_own_is_called_by_the_worker(app: Celery) -> None:
    """A worker calls a ``__call__`` that is not Celery's own."""
    called: list[str] = []

    class Wrapped(Task):  # type: ignore[misc]
        name = "contract.wrapped"

        def run(self) -> str:
            return "ran"

        def __call__(self) -> Any:
            called.append("called")
            return self.run()

    app.register_task(Wrapped())
    task = app.tasks["contract.wrapped"]
    task.__trace__ = build_tracer(task.name, task, app=app)
    answer = task.__trace__(TASK_ID, (), {}, {"id": TASK_ID, "task": task.name, "is_eager": True})
    assert called == ["called"]
    assert answer.retval == "ran"


@pytest.fixture
def failures(app: Celery) -> Iterator[list[Any]]:
    """The exceptions and arguments that the task_failure signal reported."""
    told: list[Any] = []

    def note(sender: Any, exception: Any, args: Any, **_: Any) -> None:
        told.append((type(exception), tuple(args), threading.current_thread() is threading.main_thread()))

    task = app.tasks["contract.task"]
    signals.task_failure.connect(note, sender=task, weak=False)
    yield told
    signals.task_failure.disconnect(note, sender=task)


def request(app: Celery) -> Request:
    """Return a worker's request for a task that a pool child executes."""
    (received,) = sent(app, [message(app)])
    return Request(
        received,
        app=app,
        task=app.tasks["contract.task"],
        hostname="h",
        eventer=SimpleNamespace(enabled=False, send=lambda *_, **__: None),
        on_ack=lambda *_: None,
        on_reject=lambda *_: None,
        connection_errors=(),
        decoded=False,
    )


def test_a_hard_time_limit_is_told_where_the_request_is(app: Celery, failures: list[Any]) -> None:
    """A hard time limit is reported to the request by task_failure only."""
    request(app).on_timeout(soft=False, timeout=5)
    assert failures == [(TimeLimitExceeded, ("the text",), True)]


def test_a_lost_worker_is_told_where_the_request_is(app: Celery, failures: list[Any]) -> None:
    """A lost child is reported to the request, and the task is not requeued."""
    try:
        raise WorkerLostError("killed")
    except WorkerLostError:
        info = ExceptionInfo()
    request(app).on_failure(info)
    assert failures == [(WorkerLostError, ("the text",), True)]


@pytest.fixture
def retried(app: Celery) -> list[Any]:
    """The signatures with which the task was asked to be retried; none is published."""
    asked: list[Any] = []

    class Silent(Signature):  # type: ignore[misc]
        def apply_async(self, *_: Any, **__: Any) -> None:
            asked.append(self)

    class Retrying(Task):  # type: ignore[misc]
        name = "contract.retried"
        acks_late = True
        retry_on_worker_lost = True
        default_retry_delay = 7
        seen: ClassVar[list[Any]] = []

        def signature_from_request(self, *args: Any, **kwargs: Any) -> Any:
            return Silent(super().signature_from_request(*args, **kwargs))

        def run(self, event: str) -> None:
            self.seen.append(self.request)
            raise self.retry(countdown=5, exc=ValueError("again"))

    app.register_task(Retrying())
    return asked


def handed(app: Celery, acknowledged: list[str]) -> Request:
    """A request of a message that no broker has carried."""
    headers = app.amqp.create_task_message(TASK_ID, "contract.retried", (), {}, argsrepr="(<Event>,)").headers
    message = SimpleNamespace(
        headers=headers,
        properties={"correlation_id": TASK_ID, "reply_to": "", "ours": 1.5},
        delivery_info={"exchange": "", "routing_key": "celery"},
        payload=(("the text",), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
        body="",
        content_type="application/json",
        content_encoding="utf-8",
    )
    task = app.tasks["contract.retried"]
    eventer = SimpleNamespace(enabled=True, send=lambda kind, **_: acknowledged.append(kind))
    return Request(
        message,
        app=app,
        task=task,
        hostname="h",
        eventer=eventer,
        on_ack=lambda *_: acknowledged.append("acknowledged"),
    )


def test_a_retry_is_published_by_the_signature_that_the_task_makes(app: Celery, retried: list[Any]) -> None:
    """A retry is published by the signature that the task makes, and carries it."""
    task = app.tasks["contract.retried"]
    task.__trace__ = build_tracer(task.name, task, app=app)
    request = handed(app, [])
    answer = task.__trace__(TASK_ID, ("the text",), {}, {**request.request_dict, "is_eager": False})
    (signature,) = retried
    assert (signature.options["countdown"], signature.options["retries"]) == (5, 1)
    exception = answer.retval.exception
    retry = exception.exc if isinstance(exception, ExceptionWithTraceback) else exception
    assert isinstance(retry, Retry)
    assert (retry.sig, retry.when, repr(retry.exc)) == (signature, 5, "ValueError('again')")
    (context,) = task.seen
    # What a task is given travels in its properties, and not along when it is retried.
    assert context.properties["ours"] == 1.5
    assert "properties" not in context.as_execution_options()
    # What can_wait_locally() looks at: Celery sets none of it.
    extras = [context.headers, context.chain, context.callbacks, context.errbacks, context.chord]
    assert extras == [None] * 5


def test_a_request_that_is_taken_to_be_acknowledged_is_not_acknowledged(app: Celery, retried: list[Any]) -> None:
    """A request that counts as acknowledged is not acknowledged again by a retry."""
    done: list[str] = []
    first = handed(app, done)
    assert first.message.properties["ours"] == 1.5
    first.acknowledged = True
    try:
        raise Retry(exc=ValueError("again"), when=5)
    except Retry:
        first.on_failure(ExceptionInfo(), return_ok=True)
    assert done == ["task-retried"]
    done.clear()
    lost = handed(app, done)
    lost.acknowledged = True
    try:
        raise WorkerLostError("killed")
    except WorkerLostError:
        assert lost._retry_worker_lost(WorkerLostError("killed"), ExceptionInfo()) is True
    assert done == ["task-retried"]
    assert (retried[-1].options["countdown"], retried[-1].options["retries"]) == (7, 1)
    assert lost._context.retries == 0


def test_a_lost_workers_task_is_retried_by_the_method_that_is_overridden(
    app: Celery, retried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task of a lost child is retried by the overridden method, before any acknowledgement."""
    called: list[Any] = []
    monkeypatch.setattr(Request, "_retry_worker_lost", lambda *arguments: called.append(arguments[1:]) or True)
    done: list[str] = []
    try:
        raise WorkerLostError("killed")
    except WorkerLostError:
        info = ExceptionInfo()
    handed(app, done).on_failure(info)
    ((exc, exc_info),) = called
    assert isinstance(exc, WorkerLostError)
    assert isinstance(exc_info, ExceptionInfo)
    assert done == []


def test_a_request_in_the_timer_is_shown_as_scheduled(app: Celery, retried: list[Any]) -> None:
    """`inspect scheduled` shows a timer entry whose first argument is a request, with its ETA."""
    timer = Timer()  # type: ignore[no-untyped-call]
    request = handed(app, [])
    entry = timer.call_after(30, lambda request: None, (request,))  # type: ignore[no-untyped-call]
    state = SimpleNamespace(consumer=SimpleNamespace(timer=timer))
    (shown,) = control.scheduled(state)
    assert shown["request"]["id"] == TASK_ID
    entry.cancel()
    assert entry.cancelled


def test_any_thread_may_call_soon() -> None:
    """Any thread may use ``call_soon``, which wakes the loop."""
    hub = Hub()
    done: list[int] = []
    # Without being woken it would wait for this.
    hub.call_later(30, done.append, 0)
    loop = hub.create_loop()
    other = threading.Thread(target=hub.call_soon, args=(done.append, 1))
    try:
        other.start()
        for _ in range(10):
            next(loop)
            if done:
                break
        assert done == [1]
    finally:
        other.join(10)
        hub.close()


def test_a_strategy_takes_a_task_that_no_broker_has_seen(app: Celery) -> None:
    """A strategy accepts a task that no broker carried, and its request uses the callbacks."""
    settled: list[tuple[int, bool]] = []
    hand_off: Any = SimpleNamespace(settle=lambda message, released: settled.append((message.number, released)))
    headers = message(app).headers
    given: list[Any] = []
    consumer = SimpleNamespace(
        app=app,
        hostname="w1@contract",
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=None),
        pool=SimpleNamespace(apply_async=None),
        controller=SimpleNamespace(state=state),
        disable_rate_limits=True,
        task_buckets={"contract.task": None},
        apply_eta_task=None,
        _limit_task=None,
        _limit_post_eta=None,
        on_task_request=given.append,
    )
    execute = strategy.default(app.tasks["contract.task"], app, consumer)
    for number, (method, arguments) in enumerate(
        [("acknowledge", {}), ("reject", {"requeue": True}), ("reject", {"requeue": False})]
    ):
        task = HandOffMessage(hand_off, NO_CHANNEL, number, headers, "the text", CELERY_QUEUE, HandOffContext())
        execute(task, None, task.ack, task.reject, [])
        request = given.pop()
        state.reserved_requests.discard(request)
        assert (request.id, request.name, request.argsrepr) == (TASK_ID, "contract.task", "(<Event>,)")
        assert request.message is task
        # Pickled together, both have the argument once.
        assert (request.body[0], request.content_type) == (["the text"], None)
        assert request.body[0][0] is request.request_dict["args"][0]
        if method == "reject":
            request.on_reject(None, (), **arguments)
        else:
            request.on_ack(None, ())
    assert settled == [(0, False), (1, True), (2, False)]


def test_a_pool_takes_a_body_without_a_content_type_as_it_is(app: Celery) -> None:
    """A pool calls a task with the arguments in a body without a content type, with either of Celery's tracers."""
    # Given
    given: list[Any] = []

    @app.task(name="contract.given")
    def take(event: str) -> None:
        given.append(event)

    task = app.tasks["contract.given"]
    task.__trace__ = build_tracer(task.name, task, app=app)
    one = HandOffMessage(NO_CHANNEL, NO_CHANNEL, 1, message(app).headers, "the text", CELERY_QUEUE, HandOffContext())
    job = (task.name, TASK_ID, dict(one.headers), one.body, one.content_type, one.content_encoding)
    # When
    trace.trace_task_ret(*job, app=app)
    trace.fast_trace_task(*job, _loc=(app.tasks, set(), "h"))
    # Then
    assert given == ["the text", "the text"]


def test_a_task_that_waits_for_its_rate_limit_is_at_the_end_of_its_bucket(app: Celery) -> None:
    """A task that waits for its rate limit is at the end of its bucket, which has the rate."""

    class Limiting:
        """The parts of a worker's consumer for rate limits."""

        bucket_for_task = Consumer.bucket_for_task
        reset_rate_limits = Consumer.reset_rate_limits
        _limit_task = Consumer._limit_task
        _schedule_bucket_request = Consumer._schedule_bucket_request
        _limit_move_to_pool = Consumer._limit_move_to_pool
        _limit_post_eta = None
        _limit_order = 0
        hostname = "w1@contract"
        connection_errors = ()
        event_dispatcher = None
        controller = SimpleNamespace(state=state)
        disable_rate_limits = False
        pool = SimpleNamespace(apply_async=None)
        apply_eta_task = None

        def __init__(self) -> None:
            self.app = app
            self.timer = Timer()  # type: ignore[no-untyped-call]
            self.task_buckets: dict[str, Any] = defaultdict(lambda: None)
            self.given: list[Any] = []
            self.on_task_request = self.given.append
            self.reset_rate_limits()

    assert "self.task_buckets = defaultdict(lambda: None)" in inspect.getsource(Consumer.__init__)
    app.tasks["contract.task"].rate_limit = "30/m"
    consumer = Limiting()
    execute = strategy.default(app.tasks["contract.task"], app, consumer)
    headers = message(app).headers
    owner: Any = SimpleNamespace()
    tasks = [
        HandOffMessage(owner, NO_CHANNEL, number, headers, "the text", CELERY_QUEUE, HandOffContext())
        for number in range(3)
    ]
    bucket = consumer.task_buckets["contract.task"]
    assert bucket.fill_rate == 0.5
    waiting: list[Any] = []
    for task in tasks:
        execute(task, None, task.ack, task.reject, [])
        waiting.append(bucket.contents[-1][0].message if bucket.contents else None)
    assert waiting == [None, *tasks[1:]]
    assert [request.message for request in consumer.given] == tasks[:1]
    state.reserved_requests.difference_update(consumer.given)


def test_what_hand_off_asks_of_a_running_worker_is_there(app: Celery) -> None:
    """A running worker has the loop, pool size, queues and request sets that the hand-off reads."""
    for method in ("add_reader", "remove_reader", "call_soon"):
        assert callable(getattr(Hub, method))
    # Each step of a consumer that has such a method is called with the loop, whenever it has (again) been connected.
    assert "self, 'register_with_event_loop'" in inspect.getsource(Consumer.register_with_event_loop)
    assert isinstance(BasePool.num_processes, property)
    assert app.conf.task_default_queue in app.amqp.queues.consume_from
    assert isinstance(state.active_requests, WeakSet)
    assert symbol_by_name(*HandOffStep.requires) is Tasks
    assert not Connection("memory://").transport.implements.asynchronous
    assert Connection("redis://").transport.implements.asynchronous
    assert Connection("amqp://").transport.implements.asynchronous


def test_an_event_dispatcher_tells_that_events_wait(app: Celery) -> None:
    """An event dispatcher reports buffered events through the attribute that the step sets; 24 are sent at once."""
    assert symbol_by_name(*TaskEventsStep.requires) is Events
    defaults = inspect.signature(EventDispatcher).parameters
    assert (defaults["buffer_limit"].default, defaults["on_send_buffered"].default) == (24, None)

    def told() -> None: ...

    with app.connection_for_write() as connection:
        made = SimpleNamespace(
            app=app,
            hub=SimpleNamespace(),
            hostname="contract",
            amqheartbeat=0,
            connection_for_write=lambda **_: connection,
            on_send_event_buffered=told,
        )
        Events(made).start(made)
        assert made.event_dispatcher.on_send_buffered is told
        made.hub = None
        Events(made).start(made)
        assert made.event_dispatcher.on_send_buffered is None


def test_a_pool_executes_a_task_by_its_trace_attribute(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool executes a task by ``__trace__``, which Celery sets at its start and a property can wrap."""
    given: list[Any] = []

    class Traced(Task):  # type: ignore[misc]
        name = "contract.traced"
        __trace__ = property(lambda _: lambda *args: ("R", "I", 1.0, "R"), lambda _, tracer: given.append(tracer))

    app.register_task(Traced())
    monkeypatch.setattr(trace, "_localized", [app.tasks, ["json"], "h"])
    assert trace.fast_trace_task("contract.traced", "i", {}, ((), {}, {}), None, None) == (1, "R", 1.0)
    assert "task.__trace__ = build_tracer(" in inspect.getsource(prefork.process_initializer)
    assert "task.__trace__ = build_tracer(" in inspect.getsource(Consumer.update_strategies)


def test_a_tracer_returns_four_things_by_name(app: Celery) -> None:
    """A tracer returns a named tuple: result or error, state, run time, text."""
    tracer = build_tracer("contract.task", app.tasks["contract.task"], app=app)
    done = tracer("i", ["text"], {}, {"delivery_info": {}})
    assert (done.retval, done.info, done.retstr) == (None, None, "None")
    failed = tracer("i", [], {}, {"delivery_info": {}})
    assert (failed.info.state, type(failed.info.retval), failed.retval.internal) == ("FAILURE", TypeError, False)


def test_the_request_class_is_derived_anew_for_each_task(app: Celery) -> None:
    """The request class is derived for each task, with its own execute_using_pool and success handling."""

    class Base(Request):
        pass

    derived = create_request_cls(
        Base, app.tasks["contract.task"], SimpleNamespace(apply_async=None), "h", None, app=app
    )
    assert issubclass(derived, Base)
    assert set(vars(derived)) >= {"execute_using_pool", "on_success"}


@pytest.mark.parametrize(
    ("name", "callers"),
    [
        ("_announce_revoked", {"terminate", "revoked", "on_failure"}),
        ("_success_was_stored", {"on_failure"}),
        ("_retry_worker_lost", {"on_failure"}),
    ],
)
def test_these_methods_of_a_request_are_called_by_celerys_own(name: str, callers: set[str]) -> None:
    """Celery's own code calls the methods of a request that are overridden."""
    assert callable(getattr(Request, name))
    methods = [member for kind in Request.__mro__ for member in vars(kind).items() if member[0] in callers]
    assert {caller for caller, method in methods if f"self.{name}(" in inspect.getsource(method)} == callers


def test_a_custom_header_wins_over_what_celery_puts_there(app: Celery) -> None:
    """A custom header wins over Celery's own, so a published retry can control its result."""
    (received,) = sent(app, [message(app)], headers={"ignore_result": False})
    assert received.headers["ignore_result"] is False


def test_a_pools_child_is_told_from_the_main_process_by_its_name() -> None:
    """A pool child is told from the main process by its name, and knows whether it is terminating."""
    assert current_process().name == "MainProcess"
    assert terminate_handler_fired() is False
    assert Process().name != "MainProcess"


def test_a_transport_that_kombu_routes_for_stores_by_one_hook_of_its_channel(app: Celery) -> None:
    """A transport for which kombu routes stores each message through its channel's ``_put``."""
    stored: list[str] = []
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        exchange = Exchange(f"contract-{id(app)}", type="topic")(channel)
        for number in range(2):
            KombuQueue(f"contract-{id(app)}-{number}", exchange, routing_key="a.*")(channel).declare()
        channel._put = lambda queue, message, **options: stored.append(queue)
        for key in ("a.b", "nobody"):
            Producer(channel).publish("x", exchange=exchange.name, routing_key=key, mandatory=True, confirm_timeout=1.0)
    assert sorted(stored) == [f"contract-{id(app)}-{number}" for number in range(2)]


@since_5_7
def test_the_redis_transport_publishes_a_batch_by_its_channel() -> None:
    """The Redis transport publishes a batch through its channel, so ``_put`` is called."""
    from kombu.transport.redis import PublishBatch

    done: list[tuple[str, bool]] = []
    client = SimpleNamespace(pipeline=lambda **_: nullcontext(None))
    channel = SimpleNamespace(
        conn_or_acquire=lambda: nullcontext(client),
        basic_publish=lambda message, *, exchange, routing_key, mandatory, _publish_batch: done.append(
            (message, mandatory)
        ),
    )
    PublishBatch(channel, 10).publish("m", exchange="e", routing_key="k", mandatory=True)
    assert done == [("m", True)]
