"""How functions are called: existing tasks, parameters by path, the message, event loops, middleware."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

import balog_celery
from balog_celery.consumers import ConsumerOperator, consumer_config
from balog_celery.errors import BatchFailure, ConfigurationError, RecordError
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import LocalRetry
from balog_celery.testing import ConsumerHarness
from sample_events import event_text

Write = Callable[..., ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module, and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(source: str, name: str = "shop_calls") -> ModuleType:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        names.append(name)
        return __import__(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


HEADER = """
from celery import Celery, Task, current_task, shared_task
from celery.exceptions import Ignore, Reject, Retry
from balog_celery.consumers import ConsumerOperator, consumer_config
from balog_celery.decoders import At, Message
"""


def harness(write: Write, source: str, **settings: Any) -> ConsumerHarness:
    return ConsumerHarness(write(HEADER + textwrap.dedent(source)), **settings)


WRAPPED = """
import functools, asyncio
done = []

def wrapped(func):
    @functools.wraps(func)
    def call(*args):
        return func(*args)
    return call

@consumer_config("t", cls_type="one")
@wrapped
async def one(event):
    await asyncio.sleep(0)
    done.append("one")

@consumer_config("t", cls_type="chunk", chunk=10)
@wrapped
async def chunk(event):
    await asyncio.sleep(0)
    done.append("chunk")

@consumer_config("t", cls_type="batch", batch=10)
@wrapped
async def batch(events):
    await asyncio.sleep(0)
    done.append("batch")

@consumer_config("t", cls_type="items")
@wrapped
def items(event):
    yield done.append("items")

def around(call, consumer, event, message):
    return call()
"""


@pytest.mark.parametrize("middleware", [(), "shop_calls:around"], ids=["alone", "inside of middleware"])
def test_an_async_function_runs_also_if_a_plain_one_wraps_it(write: Write, middleware: Any) -> None:
    """It would count as done, and nothing had run. A generator cannot run so, and fails."""
    events = harness(write, WRAPPED, middleware=middleware)
    for kind in ("one", "chunk", "batch"):
        events.feed(event_text("LG1", kind))
    assert sys.modules["shop_calls"].done == ["one", "chunk", "batch"]
    with pytest.raises(TypeError, match=r"shop_calls\.items returned a generator, so none of its code has run"):
        events.feed(event_text("LG1", "items"))


FORGOTTEN = """
done = []

async def work(event):
    done.append(event)

async def forgetful(call, consumer, event, message):
    return call()

@consumer_config("t", cls_type="one")
async def one(event):
    return work(event)

@consumer_config("t", cls_type="chunk", chunk=10)
async def chunk(event):
    return work(event)

@consumer_config("t", cls_type="each", batch=10, each=True)
async def each(event):
    return work(event)

@consumer_config("t", cls_type="plain")
def plain(event):
    done.append(event)
"""


@pytest.mark.parametrize(
    ("cls_type", "middleware"), [("one", ()), ("chunk", ()), ("each", ()), ("plain", "shop_calls:forgetful")]
)
def test_a_forgotten_await_is_a_failure(write: Write, cls_type: str, middleware: Any) -> None:
    """The event would count as done, and nothing had run."""
    report = harness(write, FORGOTTEN, middleware=middleware).feed(event_text("LG1", cls_type), throw=False)
    (letter,) = report.dead_letters
    assert (
        letter.error == f"TypeError('shop_calls.{cls_type}, or middleware around it, returned an awaitable: await it')"
    )
    assert sys.modules["shop_calls"].done == []


def test_a_retry_too_many_says_so_without_the_event(write: Write) -> None:
    """Celery's own text has the task's arguments, which go into the log and the dead letter."""
    events = harness(
        write, "@consumer_config('t', bind=True, max_retries=2)\ndef f(self, event):\n    self.retry(countdown=0)"
    )
    run = events.feed(event_text("LG1", "x", card="4111"), throw=False)["f"]
    assert str(run.result) == "shop_calls.f has been retried 2 times, as often as its max_retries allows"


# Existing tasks

TASKS = """
class Base(Task):
    calls = []

    def on_success(self, *args):
        self.calls.append(self.name)


app = Celery("shop", broker="memory://", set_as_current=False)


@consumer_config("uploads", cls_type="upload", arguments={"key": At("payload.key"), "size": At("payload.size")})
@app.task(base=Base, max_retries=2, default_retry_delay=0, autoretry_for=(KeyError,), shared=False)
def resize(key, size=10):
    return [key, size]


@consumer_config("uploads", cls_type="bound")
@app.task(bind=True, max_retries=1, shared=False)
def bound(self, event):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [self.name, self.request.id]

"""


@pytest.mark.filterwarnings("ignore:[^.]*The 'queue' task attribute is deprecated")
def test_an_existing_task_consumes_events(write: Write) -> None:
    """Its parameters come from paths in the event; it keeps its options and hooks."""
    # Given
    events = harness(write, TASKS.replace("shared=False", "shared=False, queue='images'"))
    module = sys.modules["shop_calls"]
    # When
    report = events.feed(event_text("LG1", "upload", key="a.png", size=3))
    # Then
    run = report[module.resize]
    assert (run.consumer, run.result) == ("shop_calls.resize.consumer", ["a.png", 3])
    assert module.Base.calls == ["shop_calls.resize.consumer"]
    task = events.app.tasks["shop_calls.resize.consumer"]
    assert (task.max_retries, task.autoretry_for) == (2, (KeyError,))
    assert events.app.amqp.router.route({}, task.name, (), {}, task)["queue"].name == "images"


def test_a_default_applies_where_the_event_has_nothing(write: Write) -> None:
    """A parameter without a default makes a dead letter that names the path."""
    events = harness(write, TASKS)
    assert events.feed(event_text("LG1", "upload", key="a.png"))["resize.consumer"].result == ["a.png", 10]
    with pytest.raises(RecordError, match=r"nothing at 'payload\.key' for the parameter 'key'"):
        events.feed(event_text("LG2", "upload"))


def test_an_existing_bound_task_has_the_request_of_its_event(write: Write) -> None:
    """So it retries by ``self.retry`` as ever."""
    run = harness(write, TASKS).feed(event_text("LG1", "bound"))["bound.consumer"]
    assert (run.result[0], len(run.retries)) == ("shop_calls.bound.consumer", 1)
    assert run.result[1]


def test_a_shared_task_consumes_events(write: Write) -> None:
    """With the payload as its argument. Every app of this process has the task itself from now on."""
    source = """
        @consumer_config("uploads", arguments="payload")
        @shared_task(name="shop.shared")
        def shared(payload):
            return payload["key"]
        """
    assert harness(write, source).feed(event_text("LG1", key="k"))["shop.shared.consumer"].result == "k"


def test_the_existing_task_is_as_it_was(write: Write) -> None:
    """Its name, its options, its call and its own request."""
    harness(write, TASKS)
    module = sys.modules["shop_calls"]
    assert (module.resize.name, module.resize.max_retries) == ("shop_calls.resize", 2)
    assert module.resize("k", 1) == ["k", 1]
    assert module.resize.apply(("k",)).result == ["k", 10]
    assert module.app.tasks["shop_calls.resize"].request_stack.top is None


def test_annotations_of_the_configuration_apply_to_the_second_task(write: Write) -> None:
    """By its own name; it shares no request with the first."""
    annotations = {"shop_calls.resize.consumer": {"rate_limit": "3/s"}}
    task = harness(write, TASKS, task_annotations=annotations).app.tasks["shop_calls.resize.consumer"]
    existing = sys.modules["shop_calls"].resize
    assert (task.rate_limit, existing.rate_limit) == ("3/s", None)
    assert task.request_stack is not existing.request_stack


def test_a_task_is_not_created_when_it_is_decorated(write: Write) -> None:
    """The app may be configured later."""
    module = write(
        HEADER
        + textwrap.dedent("""
        app = Celery("late", set_as_current=False)

        @consumer_config("t")
        @app.task(shared=False)
        def f(event): ...

        created = app.configured
        """)
    )
    assert not module.created


def test_tasks_are_routed_by_the_configuration(write: Write) -> None:
    """Without touching their code; two topics may have one task."""
    write(
        HEADER
        + "app = Celery('shop', set_as_current=False)\n@app.task(shared=False)\ndef resize(key):\n    return key\n",
        "shop_t",
    )
    entry = {"cls_type": "upload*", "task": "shop_t.resize", "arguments": {"key": _at("payload.key")}}
    entry |= {"max_retries": 5}
    events = ConsumerHarness(
        routes={"uploads": entry, "more": [{"task": "shop_t.resize", "arguments": "payload", "name": "more"}]}
    )
    assert events.feed(event_text("LG1", "uploads", key="k"), topic="uploads")["resize.consumer"].result == "k"
    assert events.feed(event_text("LG1", "x", key="k"), topic="more")["more"].result == {"cls_type": "x", "key": "k"}
    assert events.app.tasks["shop_t.resize.consumer"].max_retries == 5


def _at(path: str) -> Any:
    from balog_celery.decoders import At

    return At(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"task": "shop_t.none"}, r"balog_routes\['t'\]: the app has no task 'shop_t\.none'"),
        ({"task": "no_such_module.f"}, "no_such_module cannot be imported"),
        ({"cls_type": "x"}, "give a dict with the name of a task"),
        ("shop_t.f", "give a dict with the name of a task"),
        ([], "give a dict with the name of a task"),
        ({"task": "shop_t.f", "max_retry": 1}, "unknown Celery task option 'max_retry'.*max_retries"),
        (
            {"task": "shop_t.f", "bind": True, "base": "x"},
            "is a task already.*: leave base and bind out",
        ),
        (
            {"task": "shop_t.f", "arguments": {"nothing": _at("payload.a")}},
            r"f\.consumer\(key\) is called with the par",
        ),
    ],
)
def test_a_wrong_route_is_an_error_at_start(write: Write, entry: Any, message: str) -> None:
    """It names the setting and the topic."""
    write(HEADER + "app = Celery('shop', set_as_current=False)\n@app.task(shared=False)\ndef f(key): ...\n", "shop_t")
    with pytest.raises(ConfigurationError, match=message):
        ConsumerHarness(routes={"t": entry})


# What a function may be


def test_a_bare_decorator_is_an_error() -> None:
    """It would declare nothing."""
    with pytest.raises(ConfigurationError, match=r"write @consumer_config\('the topic'\)"):
        consumer_config(lambda event: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function", ["def f(): ...", "def f(a, b): ...", "def f(*, event): ...", "async def f(): ...", "def f(**k): ..."]
)
def test_a_function_that_cannot_be_called_with_an_event_is_an_error_at_start(write: Write, function: str) -> None:
    """Each event would be a dead letter."""
    with pytest.raises(ConfigurationError, match=r"shop_calls\.f\(.*is called with the event alone, and does not"):
        harness(write, f"@consumer_config('t')\n{function}")


def test_a_function_without_room_for_its_task_is_an_error_that_names_bind(write: Write) -> None:
    """With bind=True the first argument is the task, which a function of the event alone does not expect."""
    with pytest.raises(ConfigurationError, match=r"f\(event\) is called with its task, for bind=True, .* leave bind"):
        harness(write, "@consumer_config('t', bind=True)\ndef f(event): ...")


def test_an_operator_may_pass_more(write: Write) -> None:
    """So the call is not checked with one."""

    class Operator(ConsumerOperator):
        def process_event(self, consumer: Any, event: Any) -> Any:
            return consumer.func(event, "more")

    source = "@consumer_config('t', bind=True)\ndef f(self, event, more):\n    return [self.name, more]"
    assert harness(write, source, operator=Operator()).feed(event_text("LG1"))["f"].result == ["shop_calls.f", "more"]


def test_a_function_may_ask_for_the_message(write: Write) -> None:
    """By an annotation, with whatever name and position."""
    events = harness(
        write,
        """
        @consumer_config("t")
        def f(message: Message | None, event):
            return message

        @consumer_config("t")
        def g(event):
            return current_task.request.headers.get("balog_message")
        """.replace("message: Message | None, event", "event, message: Message | None = None"),
    )
    sns = {"Type": "Notification", "MessageId": "M", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Subject": "Hi"}
    sns |= {"Message": event_text("LG1"), "Timestamp": "2026-01-01T00:00:00Z"}
    attributes = {"n": {"Type": "String", "Value": "v"}, "b": {"Type": "Binary", "Value": "AAE="}}
    report = events.feed(json.dumps({**sns, "MessageAttributes": attributes}))
    message = report["f"].result
    assert message.attributes == {"n": "v", "b": b"\0\1"}
    assert (message.topic, message.receive_count, message.id, message.body) == ("t", 1, "M", "")
    assert (message.context["sns"]["Subject"], message.context["sns"]["TopicArn"][-1]) == ("Hi", "t")
    assert report["g"].result is None


def test_a_batch_has_no_message() -> None:
    """It has many."""
    from balog_celery.decoders import Message

    def f(events: Any, message: Message) -> None: ...

    f.__annotations__ = {"message": Message}
    with pytest.raises(ConfigurationError, match="a batch has many"):
        consumer_config("t", batch=5)(f)


# Event loops


def test_one_event_loop_serves_all_events(write: Write) -> None:
    """What was made in one event works in the next, and what it left running goes on."""
    events = harness(
        write,
        """
        import asyncio
        loops, beats = [], []

        async def beat():
            while True:
                beats.append(1)
                await asyncio.sleep(0)

        @consumer_config("t")
        async def f(event):
            if not loops:
                asyncio.ensure_future(beat())
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0.01)
            return [event["header"]["id"], len(beats)]
        """,
    )
    runs = events.feed(event_text("LG1"), event_text("LG2")).of("f")
    assert [run.result[0] for run in runs] == ["LG1", "LG2"]
    assert 0 < runs[0].result[1] < runs[1].result[1]
    assert len({id(loop) for loop in sys.modules["shop_calls"].loops}) == 1
    from balog_celery.tasks import event_loop

    event_loop.close()


def test_context_variables_reach_an_async_function(write: Write) -> None:
    """Those that plain middleware has set, and the task's request."""
    source = """
        import contextvars
        tenant = contextvars.ContextVar("tenant")

        def middleware(call, consumer, event, message):
            token = tenant.set(event["payload"]["tenant"])
            try:
                return call()
            finally:
                tenant.reset(token)

        @consumer_config("t", bind=True)
        async def f(self, event):
            return [tenant.get(), self.request.retries, current_task.name]
        """
    events = harness(write, source, middleware="shop_calls:middleware")
    assert events.feed(event_text("LG1", "x", tenant="a"))["f"].result == ["a", 0, "shop_calls.f"]


EACH = """
import asyncio
from celery.exceptions import SoftTimeLimitExceeded
running, most, tries = 0, 0, []

@consumer_config("t", batch=100, each=True, autoretry_for=(OSError,), max_retries=1, default_retry_delay=0)
async def f(event):
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.05)
    running -= 1
    kind = event["payload"]["cls_type"]
    tries.append(kind)
    if kind == "os" or kind == "once" and tries.count("once") == 1:
        raise OSError("again")
    if kind == "hand":
        current_task.retry(exc=KeyError("by hand"))
    if kind == "bad":
        raise ValueError("never")
    if kind == "drop":
        raise Ignore
    if kind == "give-up":
        raise Reject("no", requeue=False)
"""


def test_events_of_a_batch_run_concurrently_each_with_its_own_end(write: Write) -> None:
    """Finished, retried, dropped, or a dead letter at once, as if each had a task."""
    events = harness(write, EACH)
    kinds = ["ok", "os", "once", "hand", "bad", "drop", "give-up"]
    report = events.feed(*[event_text(kind, kind) for kind in kinds], throw=False)
    module = sys.modules["shop_calls"]
    assert module.most == len(kinds)
    assert {kind: module.tries.count(kind) for kind in kinds} == {
        "ok": 1, "os": 2, "once": 2, "hand": 2, "bad": 1, "drop": 1, "give-up": 1,
    }  # fmt: skip
    dead = {json.loads(letter.body)["header"]["id"]: letter.error for letter in report.dead_letters}
    assert sorted(dead) == ["bad", "give-up", "hand", "os"]
    assert dead["bad"] == "ValueError('never')"


def test_a_failed_event_of_a_batch_is_logged_with_its_traceback(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Each by its id, as a warning; the failure of the task shows the first, for Sentry."""
    # Given
    task = harness(write, EACH).app.tasks["shop_calls.f"]
    texts = [event_text("LG1", "ok"), event_text("LG2", "bad"), event_text("LG3", "bad")]
    task.push_request(id="i", args=[texts], kwargs={}, retries=0, called_directly=False)
    # When
    with pytest.raises(BatchFailure) as failure:
        task(texts)
    task.pop_request()
    # Then
    assert isinstance(failure.value.__cause__, ValueError)
    lines = [record for record in caplog.records if record.exc_info and "failed on event" in record.getMessage()]
    assert [line.getMessage() for line in lines] == [f"shop_calls.f failed on event LG{number}" for number in (2, 3)]
    assert all('raise ValueError("never")' in logging.Formatter().format(line) for line in lines)


def test_events_of_a_batch_may_be_called_by_the_names_of_parameters(write: Write) -> None:
    """Concurrently, as any others."""
    source = """
        called = []

        @consumer_config("t", batch=10, each=True, arguments={"n": At("payload.n")})
        async def f(n):
            called.append(n)
        """
    report = harness(write, source).feed(event_text("LG1", "x", n=1), event_text("LG2", "x", n=2))
    assert (sys.modules["shop_calls"].called, report.dead_letters) == ([1, 2], [])


def test_a_retry_by_hand_is_one_of_its_event_only(write: Write) -> None:
    """In a worker, which executes again what remains of the batch."""
    # Given
    source = EACH.replace("each=True", "each=True, bind=True").replace("def f(event)", "def f(self, event)")
    task = harness(write, source.replace("current_task.retry", "self.retry")).app.tasks["shop_calls.f"]
    texts = [event_text("LG1", "ok"), event_text("LG2", "hand"), event_text("LG3", "bad")]
    properties = HandOffContext(time.monotonic() + 3600).to_properties()
    task.push_request(id="i", args=[texts], kwargs={}, retries=0, properties=properties, called_directly=False)
    # When
    with pytest.raises(LocalRetry) as retry:
        task(texts)
    task.pop_request()
    # Then
    assert retry.value.remainder is not None
    assert retry.value.remainder.positions == [1]


def test_concurrent_events_take_the_time_of_their_batches(write: Write) -> None:
    """1,000 events that wait 100 ms, by hundreds: at least 50 times as fast as one by one."""
    # Given
    source = """
        import asyncio

        @consumer_config("t", batch=100, each=True)
        async def f(event):
            await asyncio.sleep(0.1)
        """
    task = harness(write, source).app.tasks["shop_calls.f"]
    texts = [event_text(f"LG{number}") for number in range(1000)]

    def seconds() -> float:
        begun = time.perf_counter()
        for first in range(0, 1000, 100):
            assert task.apply((texts[first : first + 100],)).state == "SUCCESS"
        return time.perf_counter() - begun

    # When, then
    assert min(seconds() for _ in range(3)) < 1000 * 0.1 / 50


def test_an_async_function_may_take_a_whole_batch(write: Write) -> None:
    """As a plain one does."""
    source = "@consumer_config('t', batch=10)\nasync def f(events):\n    return len(events)"
    assert harness(write, source).feed(event_text("LG1"), event_text("LG2"))["f"].result == 2


# Middleware


MIDDLEWARE = """
order = []

def plain(call, consumer, event, message):
    order.append(("plain", consumer.name, message.topic))
    return ["plain", call()]

class Asynchronous:
    async def __call__(self, call, consumer, event, message):
        order.append(("async", consumer.name, message.topic))
        return ["async", await call()]

@consumer_config("t", cls_type="sync")
def f(event):
    return "f"

@consumer_config("t", cls_type="async")
async def g(event):
    return "g"

@consumer_config("t", cls_type="batch", batch=10)
def h(events):
    return len(events)
"""


@pytest.mark.parametrize(("cls_type", "result"), [("sync", "f"), ("async", "g")])
def test_middleware_is_called_around_every_consumer(write: Write, cls_type: str, result: str) -> None:
    """In order, plain and async, whatever the function is."""
    names = ["shop_calls:plain", "shop_calls:Asynchronous"]
    events = harness(write, MIDDLEWARE, middleware=names)
    assert events.feed(event_text("LG1", cls_type)).runs[0].result == ["plain", ["async", result]]
    assert sys.modules["shop_calls"].order == [("plain", result, "t"), ("async", result, "t")]


def test_plain_middleware_inside_of_async_has_nothing_to_wait_for(write: Write) -> None:
    """Around a plain function it works; around an async one it is an error at start."""
    names = ["shop_calls:Asynchronous", "shop_calls:plain"]
    with pytest.raises(ConfigurationError, match="list plain middleware before async middleware"):
        harness(write, MIDDLEWARE, middleware=names)
    plain = MIDDLEWARE.replace("async def g", "def g").replace("shop_calls", "shop_plain")
    events = ConsumerHarness(
        write(HEADER + plain, "shop_plain"), middleware=[n.replace("calls", "plain") for n in names]
    )
    assert events.feed(event_text("LG1", "sync")).runs[0].result == ["async", ["plain", "f"]]


def test_a_batch_goes_through_middleware_once(write: Write) -> None:
    """With the list of its events, and no message."""
    source = MIDDLEWARE + "def around(call, consumer, event, message):\n    return [len(event), message, call()]\n"
    events = harness(write, source, middleware="shop_calls:around")
    report = events.feed(event_text("LG1", "batch"), event_text("LG2", "batch"))
    assert report["h"].result == [2, None, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop_calls:nothing", "balog_middleware = 'shop_calls:nothing' cannot be imported"),
        ("shop_calls:order", r"balog_middleware: \[\]: it cannot be called: name a"),
        ("shop_calls:Needs", "balog_middleware: Needs.. cannot be created without arguments"),
        (
            "shop_calls:short",
            r"short at .*>: it cannot be called with \(call, consumer, event, message",
        ),
        ("shop_calls:yields", "balog_middleware: .*yields.*: it is a generator, .*: remove its yield"),
    ],
)
def test_wrong_middleware_is_an_error_at_start(write: Write, name: str, message: str) -> None:
    """It names the setting."""
    source = MIDDLEWARE + "class Needs:\n    def __init__(self, tenant): ...\ndef short(call): ...\n"
    source += "def yields(call, consumer, event, message): yield call()\n"
    with pytest.raises(ConfigurationError, match=message):
        harness(write, source, middleware=name)


def test_the_app_of_a_worker_has_middleware_too(write: Write) -> None:
    """A setting like the others."""
    write(HEADER + MIDDLEWARE)
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.balog_middleware = ["shop_calls:plain"]
    balog_celery.install(app, "shop_calls")
    assert ConsumerHarness.of(app).feed(event_text("LG1", "sync")).runs[0].result == ["plain", "f"]


PASSES_A_SESSION = """
import functools
from balog_celery.consumers import consumer_config

def inject(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f("session", *args, **kwargs)
    return wrapper

calls = []

@consumer_config("t")
@inject
def f(session, event):
    calls.append((session, event["payload"]["cls_type"]))
"""


def test_a_decorator_may_pass_more(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """What the function's own signature does not accept is a warning, as the decorator decides."""
    module = write(PASSES_A_SESSION)
    ConsumerHarness(module).feed(event_text("x"))
    assert module.calls == [("session", "metrics")]
    assert "f(session, event) is called with the event alone: its decorator must pass the rest" in caplog.text


HINTS = """
from __future__ import annotations
import functools
from typing import Annotated, List, Optional
from balog_celery.consumers import consumer_config
from balog_celery.decoders import Message
from balog_celery.records import FacilityRecord

seen = []

def note(event, message=None):
    seen.append((type(event).__name__, type(message).__name__))
"""


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ('def f(event: Optional["FacilityRecord"]): note(event)', ("FacilityRecord", "NoneType")),
        ('def f(event: Annotated["FacilityRecord", 1]): note(event)', ("FacilityRecord", "NoneType")),
        (
            'def f(event: FacilityRecord, message: Optional["Message"] = None): note(event, message)',
            ("FacilityRecord", "Message"),
        ),
        ("def g(key, event: FacilityRecord): note(event)\nf = functools.partial(g, 1)", ("FacilityRecord", "NoneType")),
        (
            "def g(key, event, message: Message = None): note(event, message)\nf = functools.partial(g, 1)",
            ("dict", "Message"),
        ),
        ("class f:\n    def __init__(self, event: FacilityRecord): note(event)", ("FacilityRecord", "NoneType")),
        ("def f(event: Unknown): note(event)", ("dict", "NoneType")),
    ],
)
def test_annotations_are_read_in_every_form(write: Write, code: str, seen: tuple[str, str]) -> None:
    """Texts in themselves or within others, of functions, partial ones and classes."""
    module = write(f'{HINTS}\n{code}\nh = consumer_config("t", name="f")(f)\n')
    ConsumerHarness(module).feed(event_text("x"))
    assert module.seen == [seen]


@pytest.mark.parametrize(
    "hint", ['list["FacilityRecord"]', 'List["FacilityRecord"]', 'Optional[List["FacilityRecord"]]']
)
def test_annotations_of_batches_are_read_in_every_form(write: Write, hint: str) -> None:
    """The models in a list may be texts."""
    source = f"""{HINTS}
@consumer_config("t", batch=2)
def f(events: {hint}):
    note(events[0])
"""
    module = write(source)
    ConsumerHarness(module).feed(event_text("x"))
    assert module.seen == [("FacilityRecord", "NoneType")]
