"""The test helpers for users: capturing records and feeding events to consumers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_task
from celery.exceptions import Reject

import balog_celery
import shop_consumers as consumers
from balog_celery import ConfigurationError, DecodeError, FacilityRecord, RecordError, get_logger
from balog_celery.consumers import ConsumerOperator
from balog_celery.producer.state import stats
from balog_celery.tasks.naming import task_id
from balog_celery.testing import ConsumerHarness, capture_records, make_event
from sample_events import event_text

METRICS = {"cls_type": "metrics", "values": [{"name": "n", "value": 1}]}


# --- producers -------------------------------------------------------------------------------------------------------


def test_records_are_captured_and_go_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Records are captured in order, as models and as dicts, and written nowhere else."""
    with capture_records() as records:
        get_logger("jobs").info("done", payload=METRICS)
        get_logger("jobs").info("more", payload=METRICS)
    get_logger("jobs").warning("after", payload=METRICS)
    assert [record.header.channel for record in records] == ["jobs.done", "jobs.more"]
    assert isinstance(records[0], FacilityRecord)
    assert records.events[0]["payload"]["values"] == [{"name": "n", "value": 1.0}]
    assert "jobs.done" not in capsys.readouterr().out


def test_records_are_there_at_once_and_from_every_thread() -> None:
    """Records of every thread are captured as soon as they are logged."""
    with capture_records() as records:
        thread = threading.Thread(target=lambda: get_logger("a").info("done", payload=METRICS))
        thread.start()
        thread.join()
        assert len(records) == 1


def test_levels_are_captured_that_nobody_has_set_up() -> None:
    """Captures include all levels, and restore the root level and logging.disable()."""
    level = logging.getLogger().level
    logging.disable(logging.CRITICAL)
    try:
        with capture_records() as records:
            get_logger("a").debug("x", payload=METRICS)
        assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)
    assert len(records) == 1
    assert logging.getLogger().level == level


def test_a_level_and_a_loggers_own_level_hold() -> None:
    """Captures respect the given level and a logger's own level."""
    own = logging.getLogger("captured.own")
    own.setLevel(logging.ERROR)
    try:
        with capture_records(level="INFO") as records:
            get_logger("captured.own").warning("no", payload=METRICS)
            get_logger("captured.other").debug("no", payload=METRICS)
            get_logger("captured.other").info("yes", payload=METRICS)
    finally:
        own.setLevel(logging.NOTSET)
    assert [record.header.channel for record in records] == ["captured.other.yes"]


def test_what_cannot_be_a_record_fails_the_test() -> None:
    """A call that does not make a record fails the test, unless *strict* is off."""
    bad: Any = {"cls_type": "metrics", "values": "none"}
    with pytest.raises(RecordError), capture_records():
        get_logger("a").info("done", payload=bad)
    before = stats()["invalid"]
    with capture_records(strict=False) as records:
        get_logger("a").info("done", payload=bad)
    assert records.events[0]["payload"]["message"].startswith("invalid record")
    assert stats()["invalid"] == before + 1


def test_captures_may_be_nested() -> None:
    """Captures can be nested: the inner one gets the records, also if it ends by an exception."""
    with capture_records() as outer:
        with contextlib.suppress(KeyError), capture_records() as inner:
            get_logger("a").info("inner", payload=METRICS)
            raise KeyError
        get_logger("a").info("outer", payload=METRICS)
    assert [record.header.channel for record in inner] == ["a.inner"]
    assert [record.header.channel for record in outer] == ["a.outer"]


# --- consumers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen() -> list[Any]:
    """The events with which the consumers were called."""
    consumers.seen.clear()
    return consumers.seen


@pytest.fixture
def harness(seen: list[Any]) -> ConsumerHarness:
    return ConsumerHarness(consumers)


def test_an_event_runs_who_wants_it(harness: ConsumerHarness, seen: list[Any]) -> None:
    """Feeding an event runs the matching consumers, and reports name, event and result."""
    report = harness.feed(event_text("e1", values=METRICS["values"]))
    assert report.ran == ["shop_consumers.count"]
    run = report["count"]
    assert (run.state, run.result, run.event.header.id, run.retries) == ("SUCCESS", 1, "e1", ())
    assert seen[0]["header"]["id"] == "e1"
    assert not report.dead_letters


def test_every_form_of_an_event_is_fed(harness: ConsumerHarness, seen: list[Any], tmp_path: Path) -> None:
    """Records, lists, payloads, dicts, texts and files can be fed."""
    lines = tmp_path / "golden.jsonl"
    lines.write_text(event_text("l1") + "\n\n" + event_text("l2", note="\u2028") + "\n", encoding="utf-8")
    document = tmp_path / "one.json"
    document.write_text(json.dumps(json.loads(event_text("d")), indent=2))
    report = harness.feed(
        make_event(METRICS, event_id="r"),
        [make_event(METRICS, event_id="r1"), make_event(METRICS, event_id="r2")],
        consumers.Order(total=9.9),
        json.loads(event_text("m")),
        event_text("t"),
        lines,
        document,
    )
    ids = [run.event.header.id for run in report.runs]
    assert [*ids[:3], *ids[4:]] == ["r", "r1", "r2", "m", "t", "l1", "l2", "d"]
    assert report["book"].result == 9.9
    assert len(seen) == 9
    with pytest.raises(TypeError, match="not 5"):
        harness.feed(5)  # type: ignore[arg-type]


def test_messages_of_other_sources_are_decoded_as_the_engine_does(harness: ConsumerHarness) -> None:
    """Messages of other sources are decoded as by the engine, an S3 notification into its events."""
    message = Path(__file__).resolve().parents[2] / "data" / "s3.json"
    records = json.loads(message.read_text())["Records"]
    report = harness.feed(message)
    assert report.ran == ["shop_consumers.stored"] * len(records)
    assert len({run.event.header.id for run in report.runs}) == len(records)


def test_what_producers_logged_can_be_fed(harness: ConsumerHarness) -> None:
    """Captured records can be fed to consumers."""
    with capture_records() as records:
        get_logger("jobs").info("done", payload=METRICS)
    assert harness.feed(records)["count"].result == 1


def test_a_run_is_found_by_its_function(harness: ConsumerHarness) -> None:
    """A run is found by function or name; a consumer that did not run is an error that lists those that did."""
    report = harness.feed(make_event(METRICS))
    assert report[consumers.count] is report["count"] is report["shop_consumers.count"]
    with pytest.raises(AssertionError, match=r"book ran 0 times, not once \(shop_consumers\.count\)"):
        report[consumers.book]
    with pytest.raises(AssertionError, match="no consumer ran"):
        harness.feed(make_event({"cls_type": "nobody-wants-it"}))["count"]


def test_retries_are_celerys(harness: ConsumerHarness, seen: list[Any]) -> None:
    """Retries follow Celery's options, without waiting."""
    report = harness.feed(make_event({"cls_type": "flaky", "failures": 2}))
    run = report["flaky"]
    assert (run.state, run.result) == ("SUCCESS", "at last")
    assert [str(retry.exc) for retry in run.retries] == ["failure 1", "failure 2"]
    assert all(0 <= retry.when <= bound for retry, bound in zip(run.retries, (2, 4), strict=True))
    assert len(seen) == 3
    assert not report.dead_letters


def test_with_the_last_retry_it_is_a_dead_letter(harness: ConsumerHarness, seen: list[Any]) -> None:
    """After the last retry the event is a dead letter, and the function's exception is raised unless *throw* is off."""
    event = make_event({"cls_type": "flaky", "failures": 99})
    with pytest.raises(consumers.Flaky, match="failure 4"):
        harness.feed(event)
    seen.clear()
    report = harness.feed(event, throw=False)
    assert report["flaky"].state == "FAILURE"
    assert isinstance(report["flaky"].result, consumers.Flaky)
    assert len(report["flaky"].retries) == 3
    (letter,) = report.dead_letters
    assert (letter.queue, letter.reason, letter.consumer) == ("shop-dead", "failed", "shop_consumers.flaky")
    assert "failure 4" in letter.error
    assert json.loads(letter.body)["header"]["id"] == event.header.id


def test_a_retry_by_hand_counts(harness: ConsumerHarness) -> None:
    """A retry by ``current_task.retry`` is reported."""
    report = harness.feed(make_event({"cls_type": "by-hand"}), throw=False)
    assert [retry.when for retry in report["by_hand"].retries] == [7]
    assert report["by_hand"].state == "FAILURE"


def test_the_ways_to_end_of_celery(harness: ConsumerHarness) -> None:
    """A rejected event is a dead letter, and an ignored one is not."""
    with pytest.raises(Reject):
        harness.feed(make_event({"cls_type": "rejected"}))
    report = harness.feed(make_event({"cls_type": "rejected"}), make_event({"cls_type": "ignored"}), throw=False)
    assert [run.state for run in report.runs] == ["REJECTED", "IGNORED"]
    assert [letter.consumer for letter in report.dead_letters] == ["shop_consumers.rejected"]


def test_every_event_is_fed_before_an_exception_is_raised(harness: ConsumerHarness, seen: list[Any]) -> None:
    """All events are fed before an exception is raised."""
    with pytest.raises(ValueError, match="never works"):
        harness.feed(make_event({"cls_type": "doomed"}), make_event(METRICS))
    assert len(seen) == 1


def test_once_skips_what_was_finished(harness: ConsumerHarness, seen: list[Any]) -> None:
    """`once` skips finished events, in memory; a failed attempt does not count."""
    event = make_event({"cls_type": "single", "fail": True})
    assert harness.feed(event, throw=False)["single"].state == "FAILURE"
    assert harness.feed(event).ran == ["shop_consumers.single"]
    report = harness.feed(event)
    assert report.ran == []
    assert report["single"].skipped
    assert len(seen) == 2


def test_a_bad_body_is_a_dead_letter(harness: ConsumerHarness) -> None:
    """A bad body is a dead letter, with the engine's limits."""
    with pytest.raises(DecodeError, match="not JSON"):
        harness.feed("{")
    report = harness.feed("{", throw=False)
    assert [letter.reason for letter in report.dead_letters] == ["undecodable"]


def test_what_nobody_wants_is_reported(seen: list[Any]) -> None:
    """Unmatched events are reported, or given to the default event handler, whose failure is raised."""
    body = event_text("e", "nobody-wants-it")
    assert ConsumerHarness(consumers).feed(body).unwanted == [body]
    handled: list[Any] = []
    report = ConsumerHarness(consumers, default_event_handler=handled.append).feed(body)
    assert [event["header"]["id"] for event in handled] == ["e"]
    assert report.unwanted == [body]

    def handler(event: Any) -> None:
        raise consumers.Flaky("handler")

    with pytest.raises(balog_celery.BalogError, match="default event handler failed"):
        ConsumerHarness(consumers, default_event_handler=handler).feed(body)


class Operator(ConsumerOperator):
    """An operator that fills in the topic."""

    def get_topic(self, consumer: Any) -> str:
        return f"{consumer.topic}-{'b' if consumer.func.__name__ == 'book' else 'a'}"


def test_the_operator_names_the_topics_and_they_are_kept_apart() -> None:
    """The operator resolves topics; with several topics the one to feed must be named."""
    harness = ConsumerHarness(consumers, operator=Operator(), dead_letter="dead-of-{topic}")
    assert harness.topics == ("shop-a", "shop-b")
    with pytest.raises(ConfigurationError, match=r"say which topic= to feed: 'shop-a', 'shop-b'"):
        harness.feed(make_event(METRICS))
    assert harness.feed(make_event(METRICS), topic="shop-a").ran == ["shop_consumers.count"]
    assert harness.feed(make_event(METRICS), topic="https://sqs.eu-west-1.amazonaws.com/1/shop-b").ran == []
    with pytest.raises(ConfigurationError, match="no consumer listens to 'shop': the topics are"):
        harness.feed(make_event(METRICS), topic="shop")
    (letter,) = harness.feed("{", topic="shop-b", throw=False).dead_letters
    assert letter.queue == "dead-of-shop-b"


def test_a_harness_of_an_app_leaves_it_alone() -> None:
    """A harness of an app uses its settings and does not touch its queues and tasks."""
    app = Celery("shop", set_as_current=False)
    balog_celery.install(app, [consumers.__name__], operator=Operator(), aws_secret_access_key="s", max_depth=5)
    harness = ConsumerHarness.of(app)
    assert harness.topics == ("shop-a", "shop-b")
    assert harness.app.balog.settings.max_depth == 5
    assert not [name for name in app.tasks if name.startswith("shop_consumers")]
    with pytest.raises(ConfigurationError, match="not installed"):
        ConsumerHarness.of(Celery("other", set_as_current=False))


def test_the_errors_of_a_start_are_raised_at_once() -> None:
    """Errors of a start are raised when the harness is made."""
    with pytest.raises(ConfigurationError, match="there are no consumers in json"):
        ConsumerHarness(json)
    with pytest.raises(ConfigurationError, match="did you mean balog_region"):
        ConsumerHarness(consumers, regoin="eu-west-1")


def test_task_ids_are_those_of_a_worker(harness: ConsumerHarness) -> None:
    """Task ids are those of a worker."""
    ids: list[str] = []
    ConsumerHarness(consumers, operator=_Looking(ids)).feed(make_event(METRICS, event_id="e"))
    assert ids == [task_id("e", "shop_consumers.count")]


class _Looking(ConsumerOperator):
    def __init__(self, ids: list[str]) -> None:
        self.ids = ids

    def process_event(self, consumer: Any, event: Any) -> Any:
        self.ids.append(current_task.request.id)
