"""The outcome of an event's task, and how its worker settles the message by it."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, Retry, Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from kombu.exceptions import EncodeError

from balog_celery.consumers import Consumer
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import LocalRetry
from balog_celery.tasks.outcome import TaskOutcome
from balog_celery.tasks.request import EventRequest
from balog_celery.tasks.results import TolerantBackend
from balog_celery.tasks.routes import register, register_dead_letter_task
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

#: The properties of a message that was handed over, and may be retried for as long as a test runs.
HANDED_OVER = HandOffContext(retry_until=1e12).to_properties()


class Project:
    """An app with one consumer, executed as in a pool child."""

    def __init__(self) -> None:
        self.app = Celery("outcomes", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.id = uuid.uuid4().hex
        self.app.conf.task_default_queue = f"outcomes-{id(self.app)}"
        self.dead = ObservedQueue("topic-dead")
        self.letters = DeadLetters(lambda _: self.dead, "{topic}-dead")
        self.function: Any = lambda event: None
        consumer = Consumer(lambda event: self.function(event), "topic", name="function")
        self.task: ConsumerTask = register(self.app, consumer, ConsumerOperator(), "topic", self.letters, None)
        register_dead_letter_task(self.app, self.letters)
        self.app.finalize()

    def execute(self, *, handed_over: bool = True, **request: Any) -> Any:
        """The ``ExceptionInfo`` that the main process gets; None of a success."""
        self.task.__trace__ = build_tracer(self.task.name, self.task, app=self.app)
        headers = {"id": self.id, "properties": dict(HANDED_OVER) if handed_over else {}, "is_eager": False}
        delivery = {"exchange": "", "routing_key": self.app.conf.task_default_queue}
        result = self.task.__trace__(self.id, [event_text()], {}, {**headers, "delivery_info": delivery, **request})
        return result.retval if result.info else None

    def outcome(self, **options: Any) -> TaskOutcome | None:
        info = self.execute(**options)
        return None if info is None else info.outcome


@pytest.fixture
def project() -> Iterator[Project]:
    project = Project()
    yield project
    project.app.close()


def raising(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


class Own(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), GeneratorExit(), Own(), MemoryError(), SystemExit(2)], ids=repr
)
def test_any_exception_of_a_function_is_a_failure_with_a_dead_letter(project: Project, error: BaseException) -> None:
    """Any exception of a function makes a dead letter, and Celery gets an ordinary exception."""
    project.function = raising(error)
    info = project.execute()
    assert info.outcome is TaskOutcome.DEAD_LETTERED
    assert repr(info.exception.exc).startswith("FunctionAborted(")
    assert len(project.dead.sent) == 1


@pytest.mark.parametrize(
    ("error", "outcome", "letters"),
    [
        (ValueError("no"), TaskOutcome.DEAD_LETTERED, 1),
        (Reject("no"), TaskOutcome.DEAD_LETTERED, 1),
        (Reject("again", requeue=True), TaskOutcome.RELEASED, 0),
        (Ignore(), TaskOutcome.FINISHED, 0),
        (Retry("by hand", when=3), TaskOutcome.WAITING, 0),
    ],
    ids=repr,
)
def test_an_end_is_reported_with_its_outcome(
    project: Project, error: Exception, outcome: TaskOutcome, letters: int
) -> None:
    """The task reports how it ended in the pool child."""
    project.function = raising(error)
    assert project.outcome() is outcome
    assert len(project.dead.sent) == letters


@pytest.mark.parametrize("hook", ["on_failure", "on_retry", "after_return", "before_start", "on_success"])
@pytest.mark.parametrize("error", [ValueError("a hook"), Own("a hook"), MemoryError("a hook")], ids=repr)
@pytest.mark.parametrize("end", ["returns", "fails", "retries"])
def test_a_hook_that_raises_takes_no_event_with_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, hook: str, error: BaseException, end: str
) -> None:
    """If a hook of the task raises, its event is done, retried, redelivered or a dead letter, once."""
    monkeypatch.setattr(type(project.task), hook, raising(error), raising=False)
    functions = {
        "returns": lambda event: None,
        "fails": raising(ValueError("no")),
        "retries": lambda event: project.task.retry(countdown=1),
    }
    project.function = functions[end]
    outcome = project.outcome()
    if hook == "before_start":
        expected = TaskOutcome.DEAD_LETTERED if isinstance(error, Exception) else TaskOutcome.RELEASED
    else:
        expected = {"fails": TaskOutcome.DEAD_LETTERED, "retries": TaskOutcome.WAITING}.get(end)
    assert outcome in (expected, TaskOutcome.FINISHED if end == "returns" else expected)
    assert len(project.dead.sent) == (expected is TaskOutcome.DEAD_LETTERED)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [("task_prerun", TaskOutcome.RELEASED), ("task_postrun", None), ("task_success", None)],
)
def test_a_receiver_that_aborts_takes_no_event_with_it(
    project: Project, signal: str, expected: TaskOutcome | None
) -> None:
    """If a signal receiver aborts before the function, the event comes again; after it, the event is done."""
    receiver = raising(Own("a receiver"))
    connected = getattr(signals, signal)
    connected.connect(receiver)
    try:
        assert project.outcome() is expected
    finally:
        connected.disconnect(receiver)
    assert not project.dead.sent


def test_a_result_that_cannot_be_serialised_is_a_failure_with_a_dead_letter(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that cannot be serialised makes a dead letter."""
    monkeypatch.setattr(type(project.task), "ignore_result", False)
    monkeypatch.setattr(project.app.backend, "mark_as_done", raising(EncodeError("no")))
    assert project.outcome() is TaskOutcome.DEAD_LETTERED
    assert len(project.dead.sent) == 1


@pytest.mark.parametrize("broker", [True, False])
def test_where_no_dead_letter_can_be_made_the_event_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch, broker: bool
) -> None:
    """Without a dead-letter queue that works, the event is kept by its worker, by a task on the broker, or in SQS."""
    project.dead.on["send"] = raising(ConnectionError("SQS"))
    project.function = raising(ValueError("no"))
    later: list[Any] = []
    bury = project.app.tasks["balog_celery.bury"]
    monkeypatch.setattr(
        type(bury), "apply_async", lambda *given, **_: later.append(given) if broker else raising(OSError())()
    )
    info = project.execute()
    assert (info.outcome, info.exception.exc.failure) == (TaskOutcome.WAITING, "ValueError('no')")
    assert project.outcome(handed_over=False) is (TaskOutcome.DEAD_LETTERED if broker else TaskOutcome.RELEASED)
    assert len(later) == broker


class Message:
    """A message of a task that notes how it is settled."""

    content_type, content_encoding = "application/json", "utf-8"

    def __init__(self, task: ConsumerTask, handed_over: bool = True) -> None:
        self.headers = {"id": uuid.uuid4().hex, "task": task.name, "retries": 0}
        self.properties: dict[str, Any] = dict(HANDED_OVER) if handed_over else {}
        self.delivery_info = {"exchange": "", "routing_key": "celery"}
        self.payload = ((event_text(),), {}, {})
        self.body = "[]"
        self.done: list[str] = []

    def ack(self, *_: Any) -> None:
        self.done.append("ack")

    def reject(self, _logger: Any, _errors: Any, requeue: bool) -> None:
        self.done.append("requeue" if requeue else "reject")

    def retry(self, retry: LocalRetry) -> None:
        self.done.append("dead letter" if retry.failure else "retry")


@pytest.fixture(params=[True, False], ids=["handed over", "from the broker"])
def message(request: pytest.FixtureRequest, project: Project) -> Message:
    return Message(project.task, request.param)


def request_of(project: Project, message: Message) -> EventRequest:
    return EventRequest(message, on_ack=message.ack, on_reject=message.reject, app=project.app, task=project.task)


def info(error: BaseException, outcome: TaskOutcome | None = None) -> Any:
    try:
        raise error
    except BaseException:
        found = ExceptionInfo()
    if outcome is not None:
        found.outcome = outcome
    return found


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("a callback")


@pytest.mark.parametrize("fails", [False, True], ids=["callbacks work", "callbacks raise"])
@pytest.mark.parametrize(
    ("error", "outcome", "done"),
    [
        (ValueError(), TaskOutcome.DEAD_LETTERED, "ack"),
        (Reject("no"), TaskOutcome.DEAD_LETTERED, "ack"),
        (MemoryError(), TaskOutcome.DEAD_LETTERED, "ack"),
        (Ignore(), TaskOutcome.FINISHED, "ack"),
        (Retry(), TaskOutcome.RETRIED, "ack"),
        (Reject("again", requeue=True), TaskOutcome.RELEASED, "requeue"),
        (ValueError(), None, "requeue"),
        (MemoryError(), None, "requeue"),
        (EOFError(), None, "requeue"),
    ],
)
def test_a_message_is_settled_by_what_is_known(
    project: Project,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    outcome: Any,
    done: str,
    fails: bool,
) -> None:
    """A message is settled once, by the known outcome, whatever Celery's callbacks do."""
    if fails:
        monkeypatch.setattr(EventRequest, "send_event", broken)
        monkeypatch.setattr(project.app.backend, "mark_as_failure", broken)
    request_of(project, message).on_failure(info(error, outcome), return_ok=True)
    assert message.done == [done]


def test_what_only_the_pool_knows_becomes_a_dead_letter(
    project: Project, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard time limit makes one dead letter, by a pool child, although billiard reports it twice."""
    later: list[Any] = []
    monkeypatch.setattr(
        type(project.app.tasks["balog_celery.bury"]), "apply_async", lambda *given, **_: later.append(given)
    )
    request = request_of(project, message)
    request.on_failure(info(TimeLimitExceeded(3)))
    request.on_timeout(soft=False, timeout=3)
    handed_over = bool(message.properties)
    assert message.done == ["dead letter" if handed_over else "ack"]
    assert len(later) == (not handed_over)
    assert not project.dead.sent


@pytest.mark.parametrize("hook", ["on_failure", "after_return"])
def test_a_hook_that_raises_at_a_hard_time_limit_takes_no_event_with_it(
    project: Project, message: Message, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    """If a hook raises at a hard time limit, the event comes again."""
    monkeypatch.setattr(type(project.task), hook, broken, raising=False)
    request_of(project, message).on_timeout(soft=False, timeout=3)
    assert message.done == ["requeue"]


def test_a_worker_that_stops_at_once_makes_no_dead_letters(
    project: Project, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cold shutdown a hard time limit makes no dead letter; the event comes again."""
    monkeypatch.setattr(state, "should_terminate", True)
    request_of(project, message).on_timeout(soft=False, timeout=3)
    assert message.done == ["requeue"]


@pytest.mark.parametrize("published", [True, False])
def test_the_event_of_a_lost_child_is_retried(
    project: Project, message: Message, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """The event of a lost child is retried by its worker, else by the broker, else it comes again."""
    monkeypatch.setattr(type(project.task), "apply_async", lambda *_, **__: None if published else broken())
    request_of(project, message).on_failure(info(WorkerLostError("killed")))
    assert message.done == ["retry" if message.properties else "ack" if published else "requeue"]


def test_a_revoked_task_is_done(project: Project, message: Message) -> None:
    """A revoked task is done; one that was cancelled with a lost broker comes again."""
    request_of(project, message).on_failure(info(Terminated(15)))
    assert message.done == ["ack"]
    message.done.clear()
    cancelled = request_of(project, message)
    cancelled._already_cancelled = True
    cancelled.on_failure(info(SystemExit(15)))
    # Celery does nothing to a broker's message, as its connection is gone.
    assert message.done == (["requeue"] if message.properties else [])


def test_a_local_retry_keeps_the_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local retry keeps its message, also if Celery's callbacks raise."""
    message = Message(project.task)
    monkeypatch.setattr(EventRequest, "send_event", broken)
    request_of(project, message).on_failure(info(LocalRetry(when=1, retries=1), TaskOutcome.WAITING), return_ok=True)
    assert message.done == ["retry"]


def test_an_event_whose_task_the_pool_does_not_take_comes_again(project: Project, message: Message) -> None:
    """If the pool refuses a task, its event comes again and the worker goes on."""
    from celery.worker.request import create_request_cls

    pool = SimpleNamespace(apply_async=broken)
    derived = create_request_cls(EventRequest, project.task, pool, "h", None, app=project.app)
    request = derived(message, on_ack=message.ack, on_reject=message.reject, app=project.app, task=project.task)
    request.execute_using_pool(pool)
    assert message.done == ["requeue"]


@pytest.mark.parametrize(
    "record", ["store_result", "mark_as_started", "mark_as_done", "mark_as_failure", "mark_as_retry", "mark_as_revoked"]
)
def test_an_outage_of_the_result_backend_is_logged(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, record: str
) -> None:
    """An outage of the result backend is logged and raises nothing; an unserialisable result is an error."""
    backend = TolerantBackend(project.app.backend)
    monkeypatch.setattr(project.app.backend, record, raising(ConnectionError("refused")))
    assert getattr(backend, record)("the-id", "x") is None
    assert "did not store the state of task the-id" in caplog.text
    monkeypatch.setattr(project.app.backend, record, raising(EncodeError("no")))
    with pytest.raises(EncodeError):
        getattr(backend, record)("the-id", "x")


def test_the_rest_of_a_result_backend_is_as_it_was(project: Project) -> None:
    """Reading results works and fails as with Celery's own backend."""
    assert project.task.backend.as_uri() == project.app.backend.as_uri()
    project.task.backend.store_result("one", 1, "SUCCESS")
    assert project.task.AsyncResult("one").get() == 1


class Unpicklable(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__("one")
        self.held = lambda: (one, two)


class Shy(Exception):
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "error", [Unpicklable(1, 2), Shy(), ValueError("x" * 100)], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("ends", [None, Reject, Ignore, lambda error: Reject(error, requeue=True)])
def test_no_exception_of_a_function_leaves_the_child(project: Project, error: Exception, ends: Any) -> None:
    """A function's exception does not leave the child; the main process gets its repr."""
    project.function = raising(error if ends is None else ends(error))
    info = pickle.loads(pickle.dumps(project.execute()))
    expected = {None: TaskOutcome.DEAD_LETTERED, Reject: TaskOutcome.DEAD_LETTERED, Ignore: TaskOutcome.FINISHED}
    assert info.outcome is expected.get(ends, TaskOutcome.RELEASED)
    assert len(project.dead.sent) == (info.outcome is TaskOutcome.DEAD_LETTERED)


def test_nor_does_the_exception_of_a_retry(project: Project) -> None:
    """The exception of a retry does not leave the child."""
    project.function = lambda event: project.task.retry(exc=Unpicklable(1, 2), countdown=3)
    info = pickle.loads(pickle.dumps(project.execute()))
    assert info.outcome is TaskOutcome.WAITING
    retry = (
        info.exception.exc
        if hasattr(info.exception, "exc") and not isinstance(info.exception, LocalRetry)
        else info.exception
    )
    assert (retry.retries, retry.when) == (1, 3)


def test_a_function_that_calls_its_own_task_settles_only_its_own_event(project: Project) -> None:
    """A function that calls its own task settles only its own event."""
    calls: list[Any] = []

    def function(event: Any) -> None:
        calls.append(event)
        if len(calls) > 1:
            raise ValueError("inner")
        with pytest.raises(ValueError, match="inner"):
            project.task(event_text("inner"))
        raise Reject("again", requeue=True)

    project.function = function
    assert project.outcome() is TaskOutcome.RELEASED
    assert not project.dead.sent


@pytest.mark.parametrize(
    "how",
    [
        {"args": (object(),)},
        {"args": ("junk",)},
        {"args": ()},
        {"countdown": float("nan")},
        {"countdown": 1e13},
        {"eta": "tomorrow"},
        {"eta": 5},
        # The broker takes these, and a worker discards what it cannot read.
        {"serializer": "pickle"},
        {"serializer": "none such"},
        {"compression": "none such"},
        {"headers": {"task": "none such"}},
        {"headers": {"id": "x"}},
        {"headers": 5},
        {"time_limit": "x"},
        {"soft_time_limit": float("nan")},
    ],
)
def test_a_retry_that_can_never_be_published_is_a_failure(project: Project, how: dict[str, Any]) -> None:
    """A retry that can never be published is a failure, instead of coming again without end."""
    project.function = lambda event: project.task.retry(exc=ValueError("no"), **how)
    assert project.outcome() is TaskOutcome.DEAD_LETTERED
    (letter,) = project.dead.sent
    assert "can never be published" in mark_of(letter)["error"]


@pytest.mark.parametrize("error", [TimeLimitExceeded(3), WorkerLostError("killed")], ids=repr)
def test_what_was_acknowledged_early_is_a_dead_letter_too(
    project: Project, message: Message, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A failed task that was acknowledged early makes a dead letter."""
    later: list[Any] = []
    bury = project.app.tasks["balog_celery.bury"]
    monkeypatch.setattr(type(bury), "apply_async", lambda *given, **_: later.append(given))
    monkeypatch.setattr(type(project.task), "acks_late", False)
    monkeypatch.setattr(type(project.task), "retry_on_worker_lost", False)
    request = request_of(project, message)
    request.acknowledge()
    request.on_failure(info(error))
    assert (message.done, len(later)) == (["ack"], 1)


def test_a_dead_letter_that_kills_its_child_is_left_to_the_broker(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If making a dead letter kills the child, a task on the broker makes it."""
    later: list[Any] = []
    bury = project.app.tasks["balog_celery.bury"]
    monkeypatch.setattr(type(bury), "apply_async", lambda *given, **_: later.append(given))
    message = Message(project.task)
    message.properties = HandOffContext(1e12, failure="why it failed").to_properties()
    message.headers["retries"] = 99
    request_of(project, message).on_failure(info(WorkerLostError("killed")))
    assert message.done == ["ack"]
    ((_task, (_event, _topic, _consumer, error)),) = later
    assert error == "why it failed"


def test_a_function_in_another_thread_than_its_tracer_has_its_own_request(project: Project) -> None:
    """As in the pool of celery-aio-pool, where Celery's task shows what an earlier attempt has left."""
    # Given a pool that calls the task in another thread, with the tracer's context variables
    seen = []
    call = type(project.task).__call__
    with ThreadPoolExecutor(1) as pool:

        class Elsewhere(type(project.task)):  # type: ignore[misc]
            def __call__(self, event: str) -> Any:
                return pool.submit(copy_context().run, call, self, event).result()

        project.task.__class__ = Elsewhere
        project.task.request.update({"retries": 7, "properties": dict(HANDED_OVER)})  # of an earlier attempt
        project.function = lambda event: seen.append((project.task.request.retries, project.task.request.id))
        # When
        project.execute(handed_over=False)
        # Then
        assert seen == [(0, project.id)]
        # And a retry of what a broker has carried is published
        project.function = lambda event: project.task.retry(countdown=0)
        assert project.outcome(handed_over=False) is TaskOutcome.RETRIED
