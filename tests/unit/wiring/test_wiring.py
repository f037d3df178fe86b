"""The wiring of an app, without servers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery, signals

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.errors import BalogError, ConfigurationError
from balog_celery.operations.checks.run import check
from balog_celery.wiring.broker import require_broker


def app_with(broker: str) -> Celery:
    app = Celery("wiring", broker=broker, set_as_current=False)
    return install(app, region="eu-west-1")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("reddis://h", "kombu has no transport 'reddis': did you mean 'redis'?"),
        ("nonsense://h", "kombu has no transport 'nonsense'"),
        ("redis://user:hunter2@h:port/0", "write it as scheme://user:password@host:port/path"),
        ("mongodb://user:hunter2@h", "install the client library of 'mongodb'"),
    ],
)
def test_a_broker_url_that_cannot_be_used_is_an_error(url: str, reason: str) -> None:
    """A broker URL that cannot be used is an error with the setting, the value without password, and the remedy."""
    with pytest.raises(ConfigurationError) as raised:
        require_broker(app_with(url))
    text = str(raised.value)
    assert text.startswith(f"broker_url = '{url.partition('://')[0]}://")
    assert reason in text
    assert "hunter2" not in text
    assert "\n" not in text


#: A password of each is cut by what is no part of it.
MALFORMED = [
    "redis://:a/hunter2@127.0.0.1:1/0",
    "redis://:hunter2#a@127.0.0.1:1/0",
    "redis://:hunter2?a@127.0.0.1:1/0",
    "redis://:a@127.0.0.1:hunter2/0",
    "redis://:hunter2@[::1/0",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_no_part_of_a_malformed_url_is_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by the error of what needs it, nor by `balog check`, nor by the log."""
    # Given
    app = Celery("wiring", broker=url, backend=url, set_as_current=False)
    app.conf.update(balog_once_url=url, balog_event_broker_url=url)
    install(app)
    needs: list[Callable[[], Any]] = [
        lambda: require_broker(app),
        lambda: app.balog.redis("once=True")(),
        lambda: app.balog.connect("events").exists(),
    ]

    # When
    shown = [str(finding) for finding in check(app)]
    for need in needs:
        try:
            need()
        except BalogError as error:
            shown.append(str(error))

    # Then
    assert "hunter2" not in caplog.text + "".join(shown)


@pytest.mark.parametrize("url", ["memory://", "redis://h:1/0", "amqp://user:pass@h//", "sqs://"])
def test_a_broker_url_that_can_be_used_is_none(url: str) -> None:
    """A usable broker URL is accepted without connecting."""
    require_broker(app_with(url))


def test_celerys_loader_raises_what_a_receiver_returns() -> None:
    """Celery's loader raises an exception that a receiver of ``import_modules`` returns."""
    app = Celery("contract", set_as_current=False)

    def receiver(**_: Any) -> Exception:
        return ValueError("returned")

    signals.import_modules.connect(receiver, sender=app, weak=False)
    with pytest.raises(ValueError, match="returned"):
        app.loader.import_default_modules()


@pytest.mark.parametrize(
    ("settings", "is_shared"),
    [
        ({}, True),
        ({"result_backend": "disabled://"}, True),
        ({"result_backend": "cache+memory://"}, False),
        ({"result_backend_thread_safe": False}, False),
    ],
)
def test_threads_share_the_backend_that_stores_nothing(settings: dict[str, Any], is_shared: bool) -> None:
    """A worker with greenlets would make one for each task. Those that store results are as Celery has them."""
    app = install(Celery("wiring", set_as_current=False))
    app.conf.update(settings)
    with ThreadPoolExecutor(1) as pool:
        assert (pool.submit(lambda: app.backend).result() is app.backend) is is_shared


@pytest.mark.parametrize(
    ("setting", "value"),
    [("default_event_handler", "balog_celery.consumers"), ("operator", "balog_celery.text:printable")],
)
def test_a_name_of_something_else_is_an_error_at_start(setting: str, value: str) -> None:
    """One line names the setting, the value, and what to name instead."""
    app = install(Celery("wiring", broker="memory://", set_as_current=False), region="eu-west-1", **{setting: value})
    with pytest.raises(ConfigurationError, match=f"^balog_{setting} = '{value}'.*: name a") as raised:
        app.balog.engine()
    assert "\n" not in str(raised.value)


def test_a_compression_that_kombu_does_not_know_is_an_error_at_start() -> None:
    """Each publish of a task would fail."""
    app = install(Celery("wiring", broker="memory://", set_as_current=False), region="eu-west-1")
    app.balog.hub.add_consumer(Consumer(print, "orders", name="book", options={"compression": "gzipp"}))
    with pytest.raises(ConfigurationError, match=r"book has compression='gzipp', .*: name one such as 'gzip'"):
        app.balog.load()


@pytest.mark.parametrize("read", ["before", "after", "settings"])
@pytest.mark.parametrize("how", ["update", "object"])
def test_a_late_setting_counts(read: str, how: str) -> None:
    """The app's configuration may be read, and changed, until the consumers are loaded."""
    # Given
    app = Celery("late", broker="memory://", set_as_current=False)
    if read == "before":
        assert app.conf.timezone is None
    install(app)
    if read == "after":
        assert app.conf.timezone is None
    if read == "settings":
        assert app.balog.settings.region is None

    # When
    if how == "update":
        app.conf.update(balog_region="eu-west-1")
    else:
        app.config_from_object({"balog_region": "eu-west-1", "broker_url": "memory://"})
    app.balog.load()

    # Then
    assert app.balog.settings.region == "eu-west-1"
    assert app.conf.worker_prefetch_multiplier == 1


@pytest.mark.parametrize("packages", [5, None, sys])
def test_packages_are_names(packages: Any) -> None:
    """Anything else is an error in one line."""
    with pytest.raises(ConfigurationError, match=r"bad packages .*: give dotted names"):
        install(Celery("a", set_as_current=False), packages=packages)


@pytest.mark.parametrize("namespace", ["", "CELERY"])
def test_an_empty_setting_leaves_what_install_was_given(namespace: str) -> None:
    """An empty setting of the configuration counts as not set: what `install` was given stays."""
    app = Celery("wiring", broker="memory://", set_as_current=False)
    install(app, region="eu-west-1")
    name = "CELERY_BALOG_REGION" if namespace else "balog_region"
    app.config_from_object({name: ""}, namespace=namespace)
    assert app.balog.settings.region == "eu-west-1"  # type: ignore[attr-defined]


def test_a_name_to_ignore_that_can_match_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A name in none of the packages is warned of; one in a package, or relative to each, is not."""
    app = Celery("wiring", broker="memory://", set_as_current=False)
    ignored = ["tests", ".tests", "balog_celery.errors.x", "balog_celery", len]
    install(app, ["balog_celery.errors"], region="eu-west-1", ignore=[*ignored, lambda name: True])
    app.balog.load()  # type: ignore[attr-defined]
    assert [record.getMessage() for record in caplog.records if "balog_ignore" in record.msg] == [
        "balog_ignore has 'tests', which is in none of balog_packages: write '.tests' for a name within each of them"
    ]


@pytest.mark.parametrize("entry", [1, None, object()])
def test_what_cannot_be_ignored_is_an_error(entry: object) -> None:
    """An entry of `balog_ignore` that is neither a name nor a function is an error."""
    app = Celery("wiring", broker="memory://", set_as_current=False)
    install(app, ["balog_celery.errors"], region="eu-west-1", ignore=[entry])
    with pytest.raises(ConfigurationError, match=r"bad ignore .*: give a dotted name"):
        app.balog.load()  # type: ignore[attr-defined]


def test_a_setting_without_the_namespace_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A setting that the app does not read, because its namespace or an underscore is missing, is warned of."""
    app = Celery("wiring", broker="memory://", set_as_current=False)
    install(app)
    names = ["BALOG_REGION", "CELERY_BALOGREGION", "CELERY_BALOG_REGION", "BALOG_LIKE", "MY_BALOG_REGION"]
    app.config_from_object(dict.fromkeys(names, "eu-west-1"), namespace="CELERY")
    app.balog.load()  # type: ignore[attr-defined]
    assert [record.getMessage().partition(" is not read")[0] for record in caplog.records] == names[:2]
