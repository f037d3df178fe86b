"""``balog_topics``: settings of single topics, and the places where they count."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.consumers.delivery import Delivery, Job
from balog_celery.dispatch import back_pressure
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.config import TopicOptions
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError
from balog_celery.events.records import read_event
from balog_celery.operations.provision import plan_queues
from balog_celery.settings import Settings
from balog_celery.sqs.messages import Message
from balog_celery.topic_settings import TopicSettings
from engines import Queues, Recorder, ScriptedDispatcher, hub_of, running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
ALL = {
    "pollers": 4,
    "visibility_timeout": 120,
    "wait_time": 5,
    "dead_letter": "x",
    "high_water": 500,
    "max_in_flight": 50,
}


class Operator:
    def get_topic(self, consumer: Consumer) -> str:
        return consumer.topic.format(env="prod")

    def process_event(self, consumer: Consumer, event: Any) -> Any:
        return consumer.func(event)


def app_with(topics: dict[str, Any], *consumed: str, **settings: Any) -> Celery:
    """An app with ``balog_topics = topics``, and a consumer of each of *consumed*."""
    app = Celery("topics", broker="memory://", set_as_current=False)
    install(app, region="eu-west-1", operator=Operator(), topics=topics, **settings)
    for number, topic in enumerate(consumed):
        app.balog.hub.add_consumer(Consumer(Recorder().process, topic, name=f"c{number}"))
    app.balog.load()
    return app


@pytest.mark.parametrize(
    ("topics", "told"),
    [
        ({"orders": {"pollers": 0}}, "bad value 0 for balog_topics['orders']['pollers']: "),
        ({"orders": {"wait_time": 21}}, "bad value 21 for balog_topics['orders']['wait_time']: "),
        (
            {"orders": {"visibility_timeout": "soon"}},
            "bad value 'soon' for balog_topics['orders']['visibility_timeout']: ",
        ),
        ({"orders": {"dead_letter": "{env}-x"}}, "bad value '{env}-x' for balog_topics['orders']['dead_letter']: "),
        ({"orders": {"high_water": -1}}, "bad value -1 for balog_topics['orders']['high_water']: "),
        ({"orders": {"max_in_flight": 0}}, "bad value 0 for balog_topics['orders']['max_in_flight']: "),
        ({"orders": {"poller": 2}}, "unknown key 'poller' in balog_topics['orders']: did you mean pollers?"),
        ({"orders": {"zzz": 2}}, "unknown key 'zzz' in balog_topics['orders']: the keys are wait_time, pollers, "),
        ({"orders": 5}, "bad value 5 for balog_topics['orders']: give a dict with some of the keys wait_time, "),
        (5, "bad value 5 for setting balog_topics: "),
    ],
)
def test_a_wrong_setting_of_a_topic_is_one_line(topics: Any, told: str) -> None:
    """The line names the setting, the topic, the key, the value and what to do."""
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_conf({"balog_topics": topics})
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


def test_each_key_replaces_a_setting_of_the_same_name() -> None:
    """There is no key that is no setting, and each takes the values that the setting takes."""
    assert set(TopicSettings.model_fields) == set(ALL)
    for name, field in TopicSettings.model_fields.items():
        assert str(Settings.model_fields[name].annotation) == str(field.annotation)
        assert Settings.model_fields[name].metadata == field.metadata


@pytest.mark.parametrize(
    ("given", "consumed", "topic"),
    [
        ("orders", "orders", "orders"),
        ("{env}-orders", "{env}-orders", "prod-orders"),
        ("prod-orders", "{env}-orders", "prod-orders"),
        ("{env}-orders", "prod-orders", "prod-orders"),
        ("orders", URL, URL),
        (URL, URL, URL),
        (URL, "orders", "orders"),
    ],
)
def test_a_topic_has_its_settings_by_each_of_its_names(given: str, consumed: str, topic: str) -> None:
    """By name, by URL and by a template; what an entry leaves out is as for all topics."""
    app = app_with(
        {given: {"pollers": 4, "dead_letter": None}}, consumed, "others", wait_time=3, dead_letter="all-dead"
    )
    own, others = app.balog.settings_of(topic), app.balog.settings_of("others")
    assert (own.pollers, own.dead_letter, own.wait_time) == (4, None, 3)
    assert (others.pollers, others.dead_letter, others.wait_time) == (1, "all-dead", 3)


@pytest.mark.parametrize(
    ("topics", "told"),
    [
        (
            {"ordres": {"pollers": 2}},
            "balog_topics['ordres'] = {'pollers': 2} is for no consumer's topic: did you mean 'orders'?",
        ),
        (
            {"zzz": {"pollers": 2}},
            "balog_topics['zzz'] = {'pollers': 2} is for no consumer's topic: the topics are orders",
        ),
        ({"{no}-orders": {}}, "balog_topics['{no}-orders'] = {} is for no consumer's topic: did you mean 'orders'?"),
        (
            {"orders": {"pollers": 2}, URL: {"pollers": 3}},
            f"balog_topics['orders'] and balog_topics['{URL}'] are the same topic, 'orders': make them one entry",
        ),
    ],
)
def test_an_entry_that_means_no_topic_or_the_same_as_another_is_an_error(topics: dict[str, Any], told: str) -> None:
    """A misspelt topic is named with the nearest one; a name and a URL of one topic are two entries for it."""
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        app_with(topics, "orders")


def test_a_url_of_another_account_is_another_topic() -> None:
    """A name stands for every queue so named; a URL for that queue only, where topics are URLs."""
    other = URL.replace("123456789012", "210987654321")
    app = app_with({URL: {"pollers": 4}}, URL, other)
    assert (app.balog.settings_of(URL).pollers, app.balog.settings_of(other).pollers) == (4, 1)
    both = app_with({"orders": {"pollers": 4}}, URL, other)
    assert (both.balog.settings_of(URL).pollers, both.balog.settings_of(other).pollers) == (4, 4)


def test_the_settings_count_wherever_the_global_ones_do() -> None:
    """Dead letters, provisioning, the worker's prefetch limit and the engine take those of the topic."""
    # Given
    app = app_with({"orders": ALL}, "orders", "others")
    # Then
    balog = app.balog
    assert (balog.dead_letters.name("orders"), balog.dead_letters.name("others")) == ("x", "others-dead")
    assert balog.pollers == 4
    plans = {plan.name: plan for plan in plan_queues(app)}
    assert (plans["orders"].dead, plans["orders"].attributes["VisibilityTimeout"]) == ("x", "120")
    assert (plans["others"].dead, plans["others"].attributes["VisibilityTimeout"]) == ("others-dead", "60")
    config = balog.engine().config
    assert [getattr(config.of("orders"), key) for key in ALL if key != "high_water"] == [4, 120, 5, "x", 50]
    assert [getattr(config.of("others"), key) for key in ALL if key != "high_water"] == [
        1,
        None,
        20,
        "{topic}-dead",
        None,
    ]
    assert config.longest_wait == 20


def test_an_engine_holds_no_more_messages_than_max_in_flight() -> None:
    """Several pollers together hold as many as the topic allows, and receive more as messages are done."""
    # Given
    dispatcher, queues = ScriptedDispatcher(), Queues(topic=ObservedQueue())
    queue = queues["topic"]
    queue.put(*(event_text(f"e{number}") for number in range(40)))
    topics: dict[str, TopicOptions] = {"topic": {"max_in_flight": 7}}
    engine = Engine(
        hub_of(Recorder().process), queues.__getitem__, dispatcher=dispatcher, pollers=3, wait_time=0, topics=topics
    )

    def state() -> dict[str, Any]:
        found: dict[str, Any] = engine.status()["topics"]["topic"]
        return found

    with running(engine):
        for taken in (7, 14, 21):
            # When
            wait_until(lambda taken=taken: len(dispatcher.taken) == taken and state()["doing"] == "paused")
            # Then
            assert state()["reason"] == "as many messages are in flight as max_in_flight allows"
            assert state()["back_pressure"]
            assert (len(dispatcher.taken), state()["in_flight"]) == (taken, 7)
            for job in dispatcher.taken[taken - 7 : taken]:
                job.acknowledge()


def test_a_topic_stops_at_its_own_high_water(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two topics publish to the same queue, and each stops at the number of waiting tasks that is set for it."""
    # Given
    monkeypatch.setattr(back_pressure, "INTERVAL", 0.02)
    app = app_with({"orders": {"high_water": 2}}, "orders", "others", high_water=5)
    orders, others = (app.balog.topics()[name] for name in ("orders", "others"))
    dispatcher = app.balog.engine()._dispatcher
    of_orders, of_others = dispatcher.queues_of(orders), dispatcher.queues_of(others)
    assert of_orders == of_others == {"celery"}
    job = partial(Job, consumer=others[0], event=read_event(event_text()), text=event_text(), headers={})
    try:
        # When three tasks wait
        for _ in range(3):
            dispatcher.dispatch([job(delivery=Delivery(Message("", "h", "m", 0.0), 1, lambda _: None))])
        # Then
        wait_until(lambda: dispatcher.ready(of_orders, 0.0) is Readiness.QUEUE_FULL)
        assert dispatcher.ready(of_others, 0.0) is Readiness.READY
        # When six do
        for _ in range(3):
            dispatcher.dispatch([job(delivery=Delivery(Message("", "h", "m", 0.0), 1, lambda _: None))])
        # Then
        wait_until(lambda: dispatcher.ready(of_others, 0.0) is Readiness.QUEUE_FULL)
    finally:
        dispatcher.close()


@pytest.mark.parametrize("name", ["a b", "{topic}_dead!", "x" * 81, "{topic}-" + "x" * 80])
def test_a_dead_letter_queue_that_sqs_cannot_have_is_an_error_at_the_start(name: str) -> None:
    """Also the one of a single topic; a URL is taken as it is, and so is the name of a queue on another broker."""
    for topics, settings in [({}, {"dead_letter": name}), ({"orders": {"dead_letter": name}}, {})]:
        with pytest.raises(ConfigurationError, match=r"bad dead-letter queue of 'orders' \(balog_dead_letter\)"):
            app_with(topics, "orders", **settings)
    app_with({}, "orders", dead_letter=name, event_broker_url="memory://")
    app_with({}, "orders", dead_letter="http://localhost:9324/queue/a b")
