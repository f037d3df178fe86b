"""Finding consumers and routing events to them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Optional

import pytest

from balog_celery import FacilityRecord, MetricsPayload, Payload
from balog_celery.consumers import Consumer, ConsumerHub, consumer_config
from balog_celery.errors import ConfigurationError, VersionConditionError
from balog_celery.events.records import decode
from sample_events import event_text

Package = Callable[[str], ModuleType]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Makes an importable package whose ``consumers`` module has the given source."""
    made: list[str] = []

    def make(source: str) -> ModuleType:
        name = f"pkg{len(made)}_{tmp_path.name.replace('-', '_')}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        header = "from balog_celery.consumers import consumer_config\n"
        (folder / "consumers.py").write_text(header + textwrap.dedent(source))
        made.append(name)
        return __import__(name)

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for module in [module for module in sys.modules if module.startswith(tuple(made or ["-"]))]:
        del sys.modules[module]


def names(hub: ConsumerHub) -> list[str | None]:
    return [consumer.name for consumer in hub]


def test_a_scan_finds_decorated_functions_in_all_modules(package: Package) -> None:
    """A scan finds decorated functions in all modules and does not change them."""
    pkg = package("@consumer_config('t', 'metrics')\ndef process(event): return event")
    hub = ConsumerHub()
    hub.scan(pkg)
    (consumer,) = hub
    assert consumer.task_name == f"{pkg.__name__}.consumers.process"
    assert consumer.func(5) == 5


def test_scanning_again_adds_nothing_twice(package: Package) -> None:
    """Scanning or adding a consumer again adds nothing."""
    pkg = package("@consumer_config('t')\ndef process(event): ...\nalias = process")
    hub = ConsumerHub()
    hub.scan(pkg)
    hub.scan(pkg)
    for consumer in hub:
        hub.add_consumer(consumer)
    assert len(hub) == 1


def test_several_hubs_may_scan_the_same_package(package: Package) -> None:
    """Several hubs that scan one package have consumers of their own."""
    pkg = package("@consumer_config('t', name='mine')\ndef process(event): ...")
    hubs = [ConsumerHub(), ConsumerHub()]
    for hub in hubs:
        hub.scan(pkg)
    assert [names(hub) for hub in hubs] == [["mine"], ["mine"]]


def test_stacked_decorators_give_one_consumer_each(package: Package) -> None:
    """Stacked decorators make a consumer each, innermost first, with different task names."""
    pkg = package(
        """
        @consumer_config('t2', 'log')
        @consumer_config('t1', 'metrics')
        def process(event): ...
        """
    )
    hub = ConsumerHub()
    hub.scan(pkg)
    assert [consumer.topic for consumer in hub] == ["t1", "t2"]
    assert [consumer.task_name.rpartition(".")[2] for consumer in hub] == ["process", "process#2"]


def test_methods_are_called_on_an_instance_of_their_class(package: Package) -> None:
    """A method is called on an instance, a static or class method as it is."""
    pkg = package(
        """
        class Handlers:
            def __init__(self, sign=1): self.sign = sign
            @consumer_config('t')
            def instance(self, event): return self.sign * event
            @staticmethod
            @consumer_config('t')
            def static(event): return 2 * event
            @classmethod
            @consumer_config('t')
            def klass(cls, event): return cls.__name__
            @consumer_config('t')
            @staticmethod
            def outside(event): return 4 * event
        """
    )
    hub = ConsumerHub()
    hub.scan(pkg)
    assert {consumer.name: consumer.func(5) for consumer in hub} == {
        "Handlers.instance": 5,
        "Handlers.static": 10,
        "Handlers.klass": "Handlers",
        "Handlers.outside": 20,
    }


def test_a_method_whose_class_needs_arguments_is_an_error(package: Package) -> None:
    """A decorated method whose class needs arguments is an error with advice."""
    pkg = package(
        """
        class Handlers:
            def __init__(self, settings): ...
            @consumer_config('t')
            def process(self, event): ...
        """
    )
    with pytest.raises(ConfigurationError, match=r"Handlers\.process is a method.*static method"):
        ConsumerHub().scan(pkg)


def test_an_alias_does_not_name_a_consumer(package: Package) -> None:
    """A consumer has its function's own name, not that of an alias: the task's id depends on it."""
    pkg = package(
        """
        @consumer_config('t')
        def process(event): ...
        alias = process
        class Handlers:
            @consumer_config('t')
            def run(self, event): ...
        class Derived(Handlers): ...
        Also = Handlers
        def make():
            @consumer_config('t')
            def inner(event): ...
            return inner
        first, second = make(), make()
        short = consumer_config('t')(lambda event: None)
        """
    )
    hub = ConsumerHub()
    hub.scan(pkg)
    assert set(names(hub)) == {"process", "Handlers.run", "first", "second", "short"}


def test_a_decorated_function_that_the_scan_does_not_find_is_told(
    package: Package, caplog: pytest.LogCaptureFixture
) -> None:
    """A decorated function that the scan cannot find is logged, unless it is ignored on purpose."""
    pkg = package(
        """
        import functools
        def wrapped(func):
            return functools.wraps(func)(lambda *args: func(*args))
        @wrapped
        @consumer_config('t')
        def hidden(event): ...
        @consumer_config('t')
        @wrapped
        def seen(event): ...
        class Outer:
            class Inner:
                @consumer_config('t')
                def deep(self, event): ...
        """
    )
    hub = ConsumerHub()
    hub.scan(pkg)
    assert names(hub) == ["seen"]
    module = f"{pkg.__name__}.consumers"
    assert [f"consumer in {module}.{name} that" in caplog.text for name in ("hidden", "seen", "Outer")] == [1, 0, 1]
    caplog.clear()
    ConsumerHub().scan(pkg, ignore=[".consumers.hidden", lambda name: name.endswith("Outer")])
    ConsumerHub().scan(pkg, ignore=".consumers")
    assert caplog.text == ""


@pytest.mark.parametrize(
    "source",
    [
        "async def f(event): yield 1",
        "def f(event): yield 1",
        "class C:\n    @staticmethod\n    async def f(event): yield 1\nf = C.__dict__['f']",
        "class C:\n    def __call__(self, event): yield 1\nf = C()",
    ],
)
def test_what_would_not_run_when_it_is_called_fails_at_decoration(source: str) -> None:
    """A generator fails at decoration: nothing would run it, and the event would be lost."""
    made: dict[str, Any] = {}
    exec(source, made)
    with pytest.raises(ConfigurationError, match=r"a generator, so calling it would run none of its code"):
        consumer_config("t")(made["f"])


def test_two_consumers_cannot_be_given_one_name(package: Package) -> None:
    """Two consumers with one explicit name are an error, because their tasks would be the same."""
    pkg = package(
        """
        @consumer_config('t', name='same')
        def a(event): ...
        @consumer_config('t', name='same')
        def b(event): ...
        """
    )
    with pytest.raises(ConfigurationError, match="two consumers are named"):
        ConsumerHub().scan(pkg)


def test_a_scan_leaves_out_what_it_is_told_to(package: Package) -> None:
    """A scan ignores the given modules, including relative names."""
    pkg = package("@consumer_config('t')\ndef process(event): ...")
    hub = ConsumerHub()
    hub.scan(pkg, ignore=".consumers")
    assert len(hub) == 0


@pytest.mark.parametrize("target", ["pkg", None, 5])
def test_a_scan_takes_a_module(target: Any) -> None:
    """A scan of a module's name instead of the module is an error."""
    with pytest.raises(ConfigurationError, match="scan takes a package or a module"):
        ConsumerHub().scan(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topic": ""}, "bad topic ''"),
        ({"topic": None}, "bad topic None"),
        ({"topic": "arn:aws:sqs:eu-west-1:123456789012:orders"}, "bad topic 'arn:.*': give the name or the URL"),
        ({"topic": "t", "cls_type": 5}, "bad cls_type 5"),
        ({"topic": "t", "cls_type": []}, r"bad cls_type \[\]: it names no type"),
        ({"topic": "t", "cls_type": ""}, "bad cls_type ''"),
        ({"topic": "t", "version": ""}, "bad version condition '': it is empty"),
        ({"topic": "t", "version": ()}, r"bad version condition \(\): it is empty"),
        ({"topic": "t", "arguments": "payloads"}, "bad arguments='payloads'"),
        ({"topic": "t", "arguments": {"a": "payload.a"}}, "bad arguments="),
        ({"topic": "t", "arguments": {}}, "bad arguments="),
        ({"topic": "t", "each": True}, "each=True.*give batch= and an async def"),
        ({"topic": "t", "each": True, "batch": 5}, "each=True.*give batch= and an async def"),
        ({"topic": "t", "name": ""}, "bad name ''"),
        ({"topic": "t", "max_retry": 5}, "unknown Celery task option 'max_retry'.*did you mean 'max_retries'"),
        ({"topic": "t", "binds": True}, "unknown Celery task option 'binds'"),
        ({"topic": "t", "rate_limit": "100/x"}, "bad value '100/x' for Celery task option 'rate_limit' of a consumer"),
        ({"topic": "t", "autoretry_for": ValueError}, "bad value <class 'ValueError'> for .*'autoretry_for'.*tuple"),
        ({"topic": "t", "autoretry_for": ("ValueError",)}, "bad value .* for .*'autoretry_for'"),
        ({"topic": "t", "time_limit": "soon"}, "bad value 'soon' for .*'time_limit'"),
        ({"topic": "t", "max_retries": -1}, "bad value -1 for .*'max_retries'"),
        ({"topic": "t", "priority": "high"}, "bad value 'high' for .*'priority'"),
        ({"topic": "t", "queue": ""}, "bad value '' for .*'queue'"),
        ({"topic": "t", "expires": "x"}, "bad value 'x' for .*'expires'"),
        ({"topic": "t", "expires": -1}, "bad value -1 for .*'expires'"),
        ({"topic": "t", "expires": 10**30}, "bad value 1000.* for .*'expires'"),
        ({"topic": "t", "retry_kwargs": {"max_retries": "x"}}, "bad value .* for .*'retry_kwargs'"),
        ({"topic": "t", "retry_kwargs": {"max_retrys": 3}}, "bad value .* for .*'retry_kwargs'"),
        ({"topic": "t", "once": 0.0001}, "bad once=0.0001 .*: give True, or 0.001 to 3155760000 s"),
        ({"topic": "t", "once": sys.maxsize}, "bad once=9223372036854775807"),
        ({"topic": "t", "once": "1" * 5000}, r"^bad once=.{0,300}$"),
    ],
)
def test_a_wrong_argument_fails_at_decoration(arguments: dict[str, Any], message: str) -> None:
    """A wrong argument fails at decoration, with the thing, the value and the remedy."""
    with pytest.raises(ConfigurationError, match=message):
        consumer_config(**arguments)(lambda event: None)


def test_options_are_kept_as_celery_takes_them() -> None:
    """Options are kept in the form that Celery reads."""
    given = {"throws": [KeyError], "max_retries": None, "rate_limit": "1.5/m", "time_limit": 5, "retry_backoff": True}
    options = Consumer(lambda event: None, "t", options=given).options
    assert options == {**given, "throws": (KeyError,)}
    assert type(options["time_limit"]) is int
    assert options["retry_backoff"] is True
    assert Consumer(lambda event: None, "t", options={"rate_limit": 5, "retry_backoff": 2}).options["rate_limit"] == 5


def test_a_bad_version_fails_at_decoration() -> None:
    """A bad version condition fails at decoration, not at the first event."""
    with pytest.raises(VersionConditionError, match=r"'1\.0'"):
        consumer_config("t", version="1.0")(lambda event: None)


@pytest.mark.parametrize("target", ["text", None, 5])
def test_only_something_callable_can_be_decorated(target: Any) -> None:
    """Decorating something that cannot be called fails at decoration."""
    with pytest.raises(ConfigurationError, match="decorates functions and methods"):
        consumer_config("t")(target)


class DisputePayload(Payload):
    cls_type: Literal["test-hub-dispute"] = "test-hub-dispute"
    amount: int


def test_a_function_gets_a_dict_unless_it_asks_for_a_model() -> None:
    """A function gets a dict, the record, or the payload as its model."""

    def plain(settings: dict[str, Any], event): ...  # type: ignore[no-untyped-def]
    def record(event: FacilityRecord) -> None: ...
    def payload(settings: dict[str, Any], event: DisputePayload) -> None: ...

    event = decode(event_text(cls_type="test-hub-dispute", amount=5))
    assert Consumer(plain, "t").argument(event)["payload"] == {"cls_type": "test-hub-dispute", "amount": 5}
    assert Consumer(record, "t").argument(event) is event
    given = Consumer(payload, "t").argument(event)
    assert isinstance(given, DisputePayload)
    assert given.amount == 5


def test_a_model_is_seen_in_an_annotation_of_any_form() -> None:
    """A model is found in a union, with metadata, of a method, and beside a name for type checkers."""

    def beside(settings: Nowhere, event: FacilityRecord, *more: list[str]) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def union(event: MetricsPayload | None) -> None: ...
    def optional(event: Optional[MetricsPayload]) -> None: ...  # noqa: UP045
    def marked(event: Annotated[MetricsPayload, "all of them"]) -> None: ...

    class Handler:
        def method(self, event: FacilityRecord) -> None: ...
        def __call__(self, event: FacilityRecord) -> None: ...

    asked = {
        beside: FacilityRecord,
        union: MetricsPayload,
        optional: MetricsPayload,
        marked: MetricsPayload,
        Handler().method: FacilityRecord,
        Handler(): FacilityRecord,
        print: None,
    }
    assert [Consumer(func, "t").event_type for func in asked] == list(asked.values())


def test_a_function_may_not_ask_for_two_models() -> None:
    """A function that asks for two models fails at decoration."""

    def both(event: FacilityRecord, payload: MetricsPayload) -> None: ...
    def either(event: FacilityRecord | MetricsPayload) -> None: ...

    for func in (both, either):
        with pytest.raises(ConfigurationError, match="asks for 2 event models"):
            Consumer(func, "t")


def routed(hub: ConsumerHub, **event: Any) -> list[str | None]:
    return [consumer.name for consumer in hub.route(decode(event_text(**event)))]


def test_events_are_routed_by_cls_type_and_version() -> None:
    """Events are routed by cls_type and version to consumers, in the order in which these were added."""
    hub = ConsumerHub()

    def func(event: Any) -> None: ...

    for name, cls_type, version in [
        ("any", None, None),
        ("metrics", "metrics", None),
        ("old", ["metrics", "log"], "<1.0"),
        ("new", None, ">=1.0"),
        ("log", "log", None),
    ]:
        hub.add_consumer(Consumer(func, "t", cls_type, version, name))
    assert routed(hub) == ["any", "metrics", "old"]
    assert routed(hub, schema="1.2") == ["any", "metrics", "new"]
    assert routed(hub, schema="no version") == ["any", "metrics"]
    assert routed(hub, cls_type="log", message="m", severity="info") == ["any", "old", "log"]
    assert routed(hub, cls_type="unknown") == ["any"]


def test_a_consumer_added_later_is_routed_to() -> None:
    """A consumer that is added later is routed to, although kinds of events were cached before."""
    hub = ConsumerHub()
    assert routed(hub) == []
    hub.add_consumer(Consumer(lambda event: None, "t", name="late"))
    assert routed(hub) == ["late"]
