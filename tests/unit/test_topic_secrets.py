"""The secrets of a topic that is a URL are nowhere in what this package shows, sends or stores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.utils import bugreport
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

import balog_celery
from balog_celery import SQSHandler
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.operator import ConsumerOperator, resolve_topic
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError
from balog_celery.outbox.message import new_row
from balog_celery.settings import Settings
from balog_celery.sqs.messages import Message
from balog_celery.sqs.queues import SQSQueue
from balog_celery.tasks.routes import register
from balog_celery.text import plain_topic
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

PLAIN = "https://sqs.eu-west-1.amazonaws.com/123456789012/events"
SECRET = "hunter2"
SECRETS = [
    f"https://user:{SECRET}@sqs.eu-west-1.amazonaws.com/123456789012/events",
    f"https://{SECRET}@sqs.eu-west-1.amazonaws.com/123456789012/events",
    f"{PLAIN}?X-Amz-Signature={SECRET}",
    f"{PLAIN}?user=a@{SECRET}",
    f"{PLAIN}#{SECRET}",
    f"https://user:a?{SECRET}@sqs.eu-west-1.amazonaws.com/123456789012/events",
    f"https://user:a#{SECRET}@sqs.eu-west-1.amazonaws.com/123456789012/events",
    f"https://user:{SECRET}/b@sqs.eu-west-1.amazonaws.com/123456789012/events",
    f"https://user:a@{SECRET}@sqs.eu-west-1.amazonaws.com/123456789012/events?{SECRET}",
]
each_secret = pytest.mark.parametrize("topic", SECRETS)

_words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)
_hosts = st.sampled_from(["sqs.eu-west-1.amazonaws.com", "localhost:4566", "[::1]:4566", "10.0.0.1"])


@given(
    _hosts, st.lists(_words, min_size=1), st.none() | st.text(), st.none() | st.text(), st.sampled_from(["", "/", "//"])
)
def test_a_topic_keeps_host_and_path_only(
    host: str, path: list[str], user: str | None, query: str | None, slashes: str
) -> None:
    """Whatever characters its user information or its query holds, if not both have what ends the other."""
    place = "/".join([host, *path])
    if user is not None and query is not None and ("@" in query or {"?", "#"} & set(user)):
        query = None
    user_part = "" if user is None else f"{user.replace('/', '')}@"
    query_part = "" if query is None else f"?{query}"
    assert plain_topic(f"https://{user_part}{place}{slashes}{query_part}") == f"https://{place}"


@given(st.text().filter(lambda text: "://" not in text))
def test_a_name_stays_as_it_is(name: str) -> None:
    """Names have no secrets."""
    assert plain_topic(name) == name


@each_secret
def test_a_topic_is_plain_wherever_it_comes_in(topic: str) -> None:
    """Of a consumer, an operator, a queue, a handler, a setting and an outbox row."""

    class Operator(ConsumerOperator):
        def get_topic(self, consumer: Any) -> str:
            return topic

    handler = SQSHandler(topic, queue=ObservedQueue())
    settings = Settings.from_conf(
        {"balog_dead_letter": topic, "balog_routes": {topic: []}, "balog_decoders": {topic: "json"}}
    )
    assert Consumer(print, topic).topic == PLAIN
    assert resolve_topic(Operator(), Consumer(print, "events")) == PLAIN
    assert SQSQueue(topic).url == PLAIN
    assert handler.topic == PLAIN
    assert settings.dead_letter == PLAIN
    assert list(settings.routes) == list(settings.decoders) == [PLAIN]
    assert new_row({"cls_type": "a"}, topic=topic)[1].topic == PLAIN
    handler.close()


@each_secret
def test_an_engine_shows_no_secret_of_its_topic(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    """In its log, status and counters, and in the dead letters that it makes."""
    caplog.set_level(logging.DEBUG)
    hub, dead = ConsumerHub(), ObservedQueue("events-dead")

    def fail(event: object) -> None:
        raise ValueError

    def connect(name: str) -> ObservedQueue:
        assert SECRET not in name
        return dead if name.endswith("-dead") else ObservedQueue("events")

    hub.add_consumer(Consumer(fail, topic))
    engine = Engine(hub, connect, decoders={topic: "auto"})
    engine.take(topic, Message(event_text(), "h", "m", 0.0))
    engine.take(topic, Message("no JSON", "h", "m2", 0.0))
    assert [mark_of(letter)["topic"] for letter in dead.sent] == [PLAIN] * 2
    assert SECRET not in caplog.text + str(engine.status()) + str(engine.stats.all()) + str(dead.sent)


@each_secret
@pytest.mark.parametrize(
    "conf",
    [
        lambda topic: {"balog_dead_letter": topic + "{env}"},
        lambda topic: {"balog_routes": [topic]},
        lambda topic: {"balog_ship_logs_to": (topic,)},
        lambda topic: {"balog_wait_time": topic},
        lambda topic: {"balog_topics": {topic: {"pollers": "many"}}},
        lambda topic: {"balog_topics": {topic: {"poller": 1}}},
        lambda topic: {"balog_topics": {"events": {"dead_letter": topic + "{env}"}}},
        lambda topic: {"balog_topics": {"events": [{topic: topic}]}},
        lambda topic: {"balog_event_broker_transport_options": topic},
    ],
)
def test_errors_about_a_setting_show_no_secret(topic: str, conf: Callable[[str], dict[str, Any]]) -> None:
    """They show the value, or name its topic."""
    with pytest.raises(ConfigurationError) as error:
        Settings.from_conf(conf(topic))
    assert SECRET not in str(error.value)


_REDIS = f"redis://:{SECRET}@localhost:6379/0"


@pytest.fixture
def own_receivers() -> Iterator[None]:
    """Disconnects after the test what its app has connected: it would ship the log of later tests to AWS."""
    listened_to = (signals.after_setup_logger, signals.after_setup_task_logger)
    before = [list(signal.receivers) for signal in listened_to]
    yield
    for signal, receivers in zip(listened_to, before, strict=True):
        signal.receivers[:] = receivers


@pytest.mark.usefixtures("own_receivers")
@pytest.mark.parametrize("spelling", ["balog_{}", "BALOG_{}", "Balog_{}", "CELERY_BALOG_{}", "CELERY_balog_{}"])
@pytest.mark.parametrize("namespace", [None, "CELERY"])
@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("once_url", _REDIS, _REDIS),
        ("event_broker_url", _REDIS, _REDIS),
        ("aws_session_token", SECRET, SECRET),
        ("dead_letter", SECRETS[0], PLAIN),
        ("ship_logs_to", SECRETS[3], PLAIN),
        ("endpoint_url", f"http://user:{SECRET}@localhost:4566", "http://localhost:4566"),
        ("s3_endpoint_url", f"http://localhost:4566/?{SECRET}", "http://localhost:4566"),
        ("routes", {SECRETS[0]: []}, {PLAIN: []}),
        ("decoders", {SECRETS[5]: "json"}, {PLAIN: "json"}),
        ("topics", {SECRETS[1]: {"pollers": 2, "dead_letter": SECRETS[2]}}, None),
    ],
)
def test_celery_shows_no_secret_of_a_setting(
    spelling: str, namespace: str | None, name: str, value: Any, read: Any
) -> None:
    """Neither ``celery report`` nor ``inspect conf``, even if a spelling is no setting, as without its namespace."""
    # Given
    capitals = spelling.partition("{")[0].isupper()
    key = spelling.format(name.upper() if capitals else name)
    app = Celery("secrets", broker="memory://", set_as_current=False)
    app.config_from_object(type("Configuration", (), {key: value}), namespace=namespace)
    balog_celery.install(app)

    # When
    shown = bugreport(app) + repr(app.conf.table(with_defaults=True))

    # Then
    assert name in shown.lower()
    assert SECRET not in shown
    if read is not None and spelling.startswith("CELERY") == (namespace is not None):
        found = getattr(app.balog.settings, name)
        assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == read
    app.close()


@each_secret
@pytest.mark.parametrize("option", [{"once": "x"}, {"batch": -1}, {"name": 5}, {"options": {"queue": 5}}])
def test_errors_about_a_consumer_show_no_secret(topic: str, option: dict[str, Any]) -> None:
    """They name its topic."""
    with pytest.raises(ConfigurationError) as error:
        Consumer(print, topic, **option)
    assert SECRET not in str(error.value)


@each_secret
def test_a_task_shows_no_secret_of_its_topic(topic: str) -> None:
    """Its argsrepr, which Flower and logs show, names the topic; its retries and dead letters do, too."""
    app = Celery("secrets", broker="memory://", set_as_current=False)
    consumer = Consumer(print, topic, name="shown")
    dead_letters = DeadLetters(lambda _: ObservedQueue(), None)
    register(app, consumer, ConsumerOperator(), resolve_topic(ConsumerOperator(), consumer), dead_letters, None)
    task: Any = app.tasks[consumer.task_name]
    assert task.topic == PLAIN
    app.close()
