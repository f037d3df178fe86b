"""Each name of ``celery_compat`` does what its docstring says, with the installed Celery."""

from __future__ import annotations

import gc
import inspect
import json
import multiprocessing
import pickle
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import billiard
import kombu
import pytest
from billiard.einfo import ExceptionWithTraceback
from celery import Celery, Signature, signals
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.app.utils import filter_hidden_settings
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import Terminated, WorkerLostError, WorkerShutdown
from celery.utils.dispatch import Signal
from celery.worker import state
from celery.worker.request import create_request_cls
from kombu import Connection
from kombu.utils.limits import TokenBucket

from balog_celery.celery_compat import configuration
from balog_celery.celery_compat import tasks as compat
from balog_celery.celery_compat import worker as worker_compat

#: Celery's request; before 5.7 with what its methods do since then.
Request: Any = worker_compat.HookedRequest.__base__

ID = "0b0f5c55-3f0a-5b7c-9a3e-5a5a5a5a5a5a"


@pytest.mark.parametrize("module", ["configuration", "pool", "tasks", "worker"])
def test_each_name_has_a_test_here(module: str) -> None:
    """Each name of ``celery_compat`` has a test in this folder."""
    found = import_module(f"balog_celery.celery_compat.{module}")
    here = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    names = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    own = [name for name, value in names.items() if getattr(value, "__module__", None) == found.__name__]
    prefix = {"configuration": "configuration", "pool": "pool_compat", "tasks": "compat", "worker": "worker_compat"}[
        module
    ]
    assert [name for name in own if f"{prefix}.{name}" not in here] == []


class Recording(compat.TracedTask):
    """A task that wraps its tracer and its backend."""

    name = "compat.wrapped"
    wrapped: Any = None

    def run(self, text: str) -> None:
        """Do nothing."""

    def wrap_tracer(self, tracer: Any) -> Any:
        type(self).wrapped = tracer
        return lambda: "wrapped"

    def wrap_backend(self, backend: Any) -> Any:
        return ("wrapped", backend)


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, with a task that is not wrapped and one that is."""
    app = Celery("compat", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"compat-{id(app)}"
    app.register_task(Recording())

    limits = {"time_limit": 5.0, "soft_time_limit": 4.0}

    @app.task(name="compat.plain", shared=False, acks_late=True, retry_on_worker_lost=True, **limits)
    def plain(text: str) -> None:
        pass

    yield app
    app.close()


def test_a_task_wraps_its_tracer_and_its_backend(app: Celery) -> None:
    """A task wraps the tracer that Celery sets, and the result backend of the app or its own."""
    # Given
    task = app.tasks["compat.wrapped"]
    tracer = build_tracer(task.name, task, app=app)
    # When
    task.__trace__ = tracer
    # Then
    assert Recording.wrapped is tracer
    assert task.__trace__() == "wrapped"
    assert task.backend == ("wrapped", app.backend)
    task.backend = own = object()
    assert task.backend == ("wrapped", own)
    task.__trace__ = None
    assert task.__trace__ is None
    plain = compat.TracedTask()
    assert (plain.wrap_tracer(tracer), plain.wrap_backend(own)) == (tracer, own)


def test_a_result_of_the_tracer_can_be_made() -> None:
    """A tracer's result has the fields that a pool reads, and the state that the tracer's callers read."""
    error = ValueError("no")
    result = compat.trace_result("retval", compat.trace_info("FAILURE", error), 1.5, "repr")
    assert (result.retval, result.runtime, result.retstr) == ("retval", 1.5, "repr")
    assert (result.info.state, result.info.retval) == ("FAILURE", error)


@pytest.mark.parametrize("internal", [True, False])
def test_an_exception_is_reported_as_by_the_pool(internal: bool) -> None:
    """An exception is reported like by the pool, also after pickling."""
    info = compat.exception_info(ValueError("no"), internal=internal)
    assert info.internal is internal
    arrived = pickle.loads(pickle.dumps(info))
    assert isinstance(info.exception, ExceptionWithTraceback)
    assert repr(compat.reported_error(info)) == repr(compat.reported_error(arrived)) == "ValueError('no')"


def test_a_main_process_is_no_child_and_does_not_end() -> None:
    """A main process is not a pool child and is not terminating; tests with a worker cover a child."""
    assert compat.is_pool_child() is False
    assert compat.is_terminating() is False


def test_a_context_shows_what_travels_with_a_task() -> None:
    """A context has the message properties of a task, and whether it has a sequel."""
    context = compat.pushed_context({"id": ID, "properties": {"ours": 1}}, ["text"])
    assert (context.id, context.args, context.called_directly) == (ID, ["text"], False)
    assert compat.message_properties(context) == {"ours": 1}
    assert compat.message_properties(Context({"properties": None})) == {}
    assert compat.has_sequel(context) is False
    for name in ("chain", "callbacks", "errbacks", "chord"):
        assert compat.has_sequel(Context({name: [1]}))


@pytest.mark.parametrize(
    ("route", "queue", "options"),
    [
        (None, None, {}),
        ({"priority": 3}, None, {"priority": 3}),
        ({"routing_key": "key"}, None, {"routing_key": "key"}),
        ({"queue": "other", "priority": 3}, "other", {"priority": 3}),
        ("other", "other", {}),
    ],
)
def test_a_route_is_found_as_for_a_published_task(app: Celery, route: Any, queue: str, options: dict[str, Any]) -> None:
    """A task's route has its queue, by default the default queue, and its other options."""
    if route is not None:
        app.conf.task_routes = {"compat.plain": route}
    found = compat.route_of(app, app.tasks["compat.plain"])
    assert found.pop("queue").name == (queue or app.conf.task_default_queue)
    assert found == options


@pytest.mark.parametrize("priority", [None, 7])
def test_a_task_knows_how_it_would_be_published(app: Celery, priority: int | None) -> None:
    """The exchange, the routing key and the priority are those of a task that was published."""
    task = app.tasks["compat.plain"]
    app.conf.task_routes = {task.name: {"queue": "elsewhere", **({} if priority is None else {"priority": priority})}}
    found = compat.delivery_info_of(app, task)
    with app.connection_for_write() as connection:
        task.apply_async(("text",), connection=connection)
        message = app.amqp.queues["elsewhere"](connection.default_channel).get(no_ack=True)
    told = message.delivery_info
    assert (found["exchange"], found["routing_key"]) == (told["exchange"], told["routing_key"])
    assert (found["priority"] or 0) == (message.properties.get("priority") or 0)


def test_a_message_is_that_of_apply_async(app: Celery) -> None:
    """A message equals that of apply_async, with time limits and signals, and a broker delivers it."""
    # Given
    task = app.tasks["compat.plain"]
    factory = compat.MessageFactory(app, task)
    # When
    message = factory.message(ID, "(shown,)", ("text",))
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        compat.sender(app)(producer, task.name, message, serializer="json", retry=False, **compat.route_of(app, task))
        queue = app.amqp.queues[app.conf.task_default_queue](connection.default_channel)
        received = queue.get(accept=["json"], no_ack=True)
    # Then
    assert json.loads(received.body)[0] == ["text"]
    assert (received.headers["id"], received.headers["argsrepr"]) == (ID, "(shown,)")
    assert received.headers["timelimit"] == [5.0, 4.0]
    # And those that no broker carries
    headers = factory.headers()
    assert (headers["task"], headers["timelimit"], headers["retries"]) == (task.name, [5.0, 4.0], 0)


def test_the_queues_of_an_app_include_those_of_its_routes(app: Celery) -> None:
    """They are declared again when the broker has lost them."""
    app.conf.task_routes = {"compat.plain": {"queue": "routed"}}
    compat.route_of(app, app.tasks["compat.plain"])
    assert {queue.name for queue in compat.queues_of(app)} == {app.conf.task_default_queue, "routed"}


def test_a_process_is_named_for_both_kinds_of_log_lines() -> None:
    """Celery's and Python's formatters read different objects."""
    before = multiprocessing.current_process().name
    try:
        compat.name_process("Engine")
        assert multiprocessing.current_process().name == billiard.current_process().name == "Engine"
    finally:
        compat.name_process(before)


class Receiver:
    """An object whose method is a receiver of signals."""

    def __init__(self) -> None:
        self.calls = 0

    def receive(self, **_: Any) -> None:
        self.calls += 1


def test_the_same_method_of_two_objects_is_two_receivers() -> None:
    """And each is disconnected by itself."""
    # Given
    signal, one, other = Signal(), Receiver(), Receiver()
    # When
    compat.connect(signal, one.receive, "one")
    compat.connect(signal, other.receive, "other")
    signal.send(None)
    compat.disconnect(signal, "one")
    signal.send(None)
    # Then
    assert (one.calls, other.calls) == (1, 2)


def test_a_tracer_made_before_has_later_receivers(app: Celery) -> None:
    """Also after an object has died whose method was a receiver once: the tracer keeps the list that it had."""
    # Given
    dies, lives = Receiver(), Receiver()
    task = app.tasks["compat.plain"]
    signals.task_postrun.connect(dies.receive)
    signals.task_postrun.disconnect(dies.receive)
    tracer = build_tracer(task.name, task, app=app)
    del dies
    gc.collect()
    # When
    compat.connect(signals.task_postrun, lives.receive, "lives")
    tracer(ID, ["text"], {}, {"delivery_info": {}})
    # Then
    assert lives.calls == 1
    compat.disconnect(signals.task_postrun, "lives")
    tracer(ID, ["text"], {}, {"delivery_info": {}})
    assert lives.calls == 1


@pytest.mark.parametrize("namespace", [None, "CELERY"])
def test_a_setting_is_set_by_whatever_name(namespace: str | None) -> None:
    """With the namespace that Django projects use, too."""
    name = "timezone" if namespace is None else "CELERY_TIMEZONE"
    app = Celery("compat", set_as_current=False)
    app.config_from_object(SimpleNamespace(**{name: "Europe/Berlin"}), namespace=namespace)
    assert app.conf.timezone == "Europe/Berlin"  # Celery loads the configuration when it is read
    assert configuration.is_set(app.conf, "timezone")
    assert not configuration.is_set(app.conf, "task_default_queue")
    app.conf.task_default_queue = "q"
    assert configuration.is_set(app.conf, "task_default_queue")


@pytest.mark.parametrize("key", ["balog_event_broker_url", "balog_once_url", "broker_url"])
def test_a_password_is_hidden_or_not(key: str) -> None:
    """A report fails if a URL that Celery hides itself is anything but a text."""
    url = "memory://:hush@host"
    assert configuration.hides_password(key) == ("hush" not in filter_hidden_settings({key: url})[key])


@pytest.mark.parametrize("accepted", [["json"], ["application/json"], ["yaml", "json"]])
def test_json_is_accepted_by_each_of_its_names(accepted: list[str]) -> None:
    """As Celery's settings may have them."""
    assert configuration.accepts_json(accepted)
    assert not configuration.accepts_json(["pickle"])
    assert configuration.accepts(accepted, "json")
    assert not configuration.accepts(accepted, "pickle")


def test_the_headers_of_a_task_are_known(app: Celery) -> None:
    """Those by which a worker finds the task, and when and for how long it runs."""
    assert configuration.task_headers(app) >= {"task", "id", "lang", "eta", "expires", "retries", "timelimit"}


def test_an_option_that_celery_would_ignore_is_found(app: Celery) -> None:
    """Celery has them since 5.7; the requests of this package know the other new one."""
    names = ["acks_late", "acks_on_failure", "acks_on_timeout", "retry_on_worker_lost"]
    new = [] if kombu.VERSION >= (5, 7) else names[1:3]
    assert configuration.missing_options(names) == new


def test_only_an_amqp_channel_has_transactions() -> None:
    """Only an AMQP channel has transactions, and each publish on it must be committed."""
    from amqp import Channel

    called: list[str] = []
    assert {"tx_select", "tx_commit"} <= set(dir(Channel))
    channel = SimpleNamespace(tx_select=lambda: called.append("select"), tx_commit=lambda: called.append("commit"))
    commit = compat.begin_transactions(channel)
    assert commit is not None
    commit()
    assert called == ["select", "commit"]
    with Connection("memory://") as connection:
        assert compat.begin_transactions(connection.default_channel) is None


def test_a_connection_is_dropped() -> None:
    """A connection is dropped in any state."""
    connection = Connection("memory://")
    connection.connect()
    compat.drop_connection(connection, 1.0)
    assert not connection.connected
    compat.drop_connection(connection, 1.0)


class Hooked(worker_compat.HookedRequest):
    """A request that records its callbacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.heard: list[str] = []
        super().__init__(*args, **kwargs)

    def pool_refused(self, error: Exception) -> None:
        self.heard.append(f"refused {error!r}")

    def revoke_announced(self) -> None:
        self.heard.append("revoked")

    def success_found(self) -> None:
        self.heard.append("success")

    def lost_child(self, retry: Any) -> bool:
        self.heard.append(f"lost, {super().lost_child(retry)}")
        return True


def request_of(app: Celery, kind: type[Request], task_name: str = "compat.plain") -> Any:
    task = app.tasks[task_name]
    message = SimpleNamespace(
        headers={**compat.MessageFactory(app, task).headers(), "id": ID},
        properties={"correlation_id": ID, "reply_to": ""},
        delivery_info={"exchange": "", "routing_key": "celery"},
        payload=(("text",), {}, {}),
        body="",
        content_type="application/json",
        content_encoding="utf-8",
    )
    return kind(message, app=app, task=task, hostname="h", on_ack=lambda *_: None, on_reject=lambda *_: None)


def info_of(error: BaseException) -> Any:
    return compat.exception_info(error)


def test_a_request_says_what_celery_has_found_of_its_task(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is told of its task's revocation, its earlier success and the loss of its child."""
    # Revoked
    request = request_of(app, Hooked)
    assert request.context.id == ID
    request.on_failure(info_of(Terminated(15)))
    assert request.heard == ["revoked"]
    # Lost, with a retry that publishes nothing
    published: list[Any] = []
    monkeypatch.setattr(Signature, "apply_async", lambda self, *_, **__: published.append(self))
    lost = request_of(app, Hooked)
    lost.on_failure(info_of(WorkerLostError("killed")))
    assert lost.heard == ["lost, True"]
    assert len(published) == 1
    # Found
    found = request_of(app, Hooked)
    monkeypatch.setattr(Request, "_success_was_stored", lambda self: True)
    found._success_was_stored()
    assert found.heard == ["success"]
    # A request that listens to nothing does what Celery's does.
    silent = request_of(app, worker_compat.HookedRequest)
    silent.on_failure(info_of(Terminated(15)))


def test_a_pool_that_does_not_take_a_task_says_so_to_its_request(app: Celery) -> None:
    """A pool that refuses a task tells the request class that Celery derives for the task."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the pool")

    pool = SimpleNamespace(apply_async=fail)
    derived = create_request_cls(Hooked, app.tasks["compat.plain"], pool, "h", None, app=app)
    request = request_of(app, derived)
    request.execute_using_pool(pool)
    assert request.heard == ["refused RuntimeError('the pool')"]


class Bucketed:
    """The parts of a worker's consumer that ``execute`` and the rate limits read."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_buckets: dict[str, Any] = defaultdict(lambda: None)
        self.given: list[Any] = []
        self.strategies = {"compat.plain": lambda *given: self.given.append(given)}


def test_a_message_is_given_to_its_tasks_strategy(app: Celery) -> None:
    """A message reaches its task's strategy with the callbacks that Celery's consumer passes."""
    message = SimpleNamespace(headers={"task": "compat.plain"}, ack=object(), reject=object())
    consumer = Bucketed(app)
    consumer.on_task_message = {print}  # type: ignore[attr-defined]
    worker_compat.execute(consumer, message)
    assert consumer.given == [(message, None, message.ack, message.reject, {print})]


def test_the_newest_message_of_a_rate_limit_is_found(app: Celery) -> None:
    """The newest message of a rate limit is found with its place, which tells how long it waits."""
    # Given
    first, second = (SimpleNamespace(headers={"task": "compat.plain"}) for _ in range(2))
    consumer = Bucketed(app)
    assert worker_compat.rate_limited(consumer, first) is None
    bucket = consumer.task_buckets["compat.plain"] = TokenBucket(0.5)  # type: ignore[no-untyped-call]
    assert worker_compat.rate_limited(consumer, first) is None
    # When
    for message in (first, second):
        bucket.add((SimpleNamespace(message=message), 1))
    # Then
    assert worker_compat.rate_limited(consumer, second) == worker_compat.RateLimited(2, 0.5)
    assert worker_compat.rate_limited(consumer, first) is None


def test_a_strategy_sends_its_events_through_the_dispatcher_that_it_is_given(app: Celery) -> None:
    """A strategy sends its events through the given dispatcher, and the consumer's own is restored."""
    own, given = SimpleNamespace(enabled=True, send=None), []
    events = SimpleNamespace(enabled=True, send=lambda kind, **fields: given.append(kind))
    consumer = SimpleNamespace(
        app=app,
        hostname="w1@compat",
        connection_errors=(),
        event_dispatcher=own,
        timer=SimpleNamespace(call_at=None),
        pool=SimpleNamespace(apply_async=None),
        controller=SimpleNamespace(state=state),
        disable_rate_limits=True,
        task_buckets={"compat.plain": None},
        apply_eta_task=None,
        _limit_task=None,
        _limit_post_eta=None,
        on_task_request=lambda request: state.reserved_requests.discard(request),
    )
    handle = worker_compat.default_strategy(app.tasks["compat.plain"], app, consumer, events)
    message = request_of(app, Request).message
    handle(message, None, lambda *_: None, lambda *_: None, [])
    assert given == ["task-received"]
    assert consumer.event_dispatcher is own
    state.reserved_requests.clear()


def test_what_a_worker_executes_is_known(app: Celery) -> None:
    """The tasks that a worker has reserved, and those that its pool has accepted, are known."""
    request = request_of(app, Request)
    state.active_requests.add(request)
    state.reserved_requests.add(request)
    try:
        assert worker_compat.accepted_messages() == [request.message]
        assert worker_compat.reserved_task_ids() == {ID}
    finally:
        state.active_requests.discard(request)
        state.reserved_requests.discard(request)


def test_a_worker_can_be_asked_whether_and_how_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags that a worker's loops check tell whether and how it stops."""
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.setattr(state, "should_terminate", None)
    assert worker_compat.stops_at_once() is False
    worker_compat.stop_warmly(78)
    with pytest.raises(WorkerShutdown) as stopped:
        state.maybe_shutdown()
    assert stopped.value.code == 78
    monkeypatch.setattr(state, "should_terminate", True)
    assert worker_compat.stops_at_once() is True


def test_a_consumer_says_how_much_it_takes_and_from_where(app: Celery) -> None:
    """A consumer's prefetch limit follows its pool's size and the multiplier."""
    pool = SimpleNamespace(num_processes=3)
    consumer = SimpleNamespace(app=app, pool=pool, controller=SimpleNamespace(), prefetch_multiplier=4)
    assert worker_compat.prefetch(consumer, None) == 12
    assert worker_compat.prefetch(consumer, 10) == 16
    assert worker_compat.pool_size(consumer) == 3
    consumer.controller.autoscaler = SimpleNamespace(max_concurrency=5)
    assert worker_compat.pool_size(consumer) == 5
    del consumer.controller.autoscaler
    assert isinstance(inspect.getattr_static(PreforkPool, "num_processes"), property)
    assert worker_compat.queue_names(consumer) == [app.conf.task_default_queue]
    assert worker_compat.executes_in_its_loop(SimpleNamespace(pool=SoloPool(1, app=app))) is True
    assert worker_compat.executes_in_its_loop(SimpleNamespace(pool=PreforkPool(1, app=app))) is False
    assert worker_compat.executes_here(SimpleNamespace(pool=SoloPool(1, app=app))) is True
    assert worker_compat.executes_here(SimpleNamespace(pool=PreforkPool(1, app=app))) is False


def test_events_that_the_broker_did_not_take_are_kept(app: Celery) -> None:
    """For the dispatcher of the next connection."""
    with app.connection_for_write() as connection:
        lost = app.events.Dispatcher(connection, buffer_group=["task"])
        worker_compat.keep_unsent_events(lost)
        lost.send("task-started", uuid=ID)
        lost.producer.publish = fail
        lost.flush()
        following = app.events.Dispatcher(connection, buffer_group=["task"])
        sent: list[Any] = []
        following.producer.publish = lambda events, **_: sent.append([event["uuid"] for event in events])
        following.extend_buffer(lost)
        following.flush()
        assert sent == [[ID]]


def fail(*_: Any, **__: Any) -> None:
    raise ConnectionError("lost")


def test_buffered_events_are_redirected_and_restored(app: Celery) -> None:
    """Buffered task events are redirected and restored; without a buffer nothing changes."""
    with app.connection_for_write() as connection:
        buffered: list[str] = []
        dispatcher = app.events.Dispatcher(
            connection, buffer_group=["task"], on_send_buffered=lambda: buffered.append("Celery's")
        )
        sent: list[Any] = []
        dispatcher.producer.publish = lambda events, **_: sent.append(len(events))
        consumer = SimpleNamespace(
            event_dispatcher=dispatcher, on_send_event_buffered=lambda: buffered.append("Celery's")
        )
        # When
        worker_compat.redirect_buffered_events(consumer, lambda one: buffered.append("ours"), 2)
        dispatcher.send("task-started", uuid=ID)
        # Then
        assert (buffered, sent) == (["ours"], [])
        # And when
        dispatcher.send("task-started", uuid=ID)
        # Then: the buffer is full
        assert (buffered, sent) == (["ours"], [2])
        # And when
        dispatcher.send("task-started", uuid=ID)
        worker_compat.restore_buffered_events(consumer)
        # Then
        assert sent == [2, 1]
        dispatcher.send("task-started", uuid=ID)
        assert buffered == ["ours", "ours", "Celery's"]
        unbuffered = app.events.Dispatcher(connection)
        for none in (None, unbuffered):
            consumer.event_dispatcher = none
            worker_compat.redirect_buffered_events(consumer, lambda one: buffered.append("ours"), 2)
            worker_compat.restore_buffered_events(consumer)
        assert unbuffered.on_send_buffered is None
