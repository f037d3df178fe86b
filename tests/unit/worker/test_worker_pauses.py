"""Pausing in a worker: names, the file, what is remembered, and the signal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.engine.pauses import Paused, PauseFiles, Pauses
from balog_celery.errors import ConfigurationError
from balog_celery.operations.checks.servers import check_pauses
from balog_celery.signals import consumer_paused
from balog_celery.worker.pauses import WorkerPauses, balog_pause, balog_resume

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/audit"


def process(event: dict[str, Any]) -> None:
    """Do nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "status"


def app_in(folder: Path, **settings: Any) -> Celery:
    """An app with the topics ``orders`` and ``audit``, the latter by URL."""
    app = Celery("pauses", broker="memory://", set_as_current=False)
    install(app, region="eu-west-1", status_dir=str(folder), **settings)
    for name, topic in (("bill", "orders"), ("ship", "orders"), ("keep", URL), ("orders-log", "orders")):
        app.balog.hub.add_consumer(Consumer(process, topic, name=name, module="m"))
    app.balog.load()
    return app


def worker(folder: Path, node: str = "w@h", **settings: Any) -> WorkerPauses:
    """The pauses of a worker that has started."""
    made = WorkerPauses(app_in(folder, **settings), node)
    made.save()
    return made


def command(pauses: WorkerPauses | None, what: Any, *names: str) -> dict[str, str]:
    """Call a control command."""
    state = SimpleNamespace(consumer=SimpleNamespace(controller=SimpleNamespace()))
    if pauses is not None:
        state.consumer.controller.balog_pauses = pauses
    answer: dict[str, str] = what(state, names=names)
    return answer


@pytest.fixture
def sent() -> Iterator[list[tuple[str, str]]]:
    """What ``consumer_paused`` was sent with."""
    received: list[tuple[str, str]] = []

    def receive(sender: str, consumer: str, **_: Any) -> None:
        received.append((sender, consumer))

    consumer_paused.connect(receive, weak=False)
    yield received
    consumer_paused.disconnect(receive)


@pytest.mark.parametrize(
    ("name", "paused"),
    [("orders", "orders"), ("m.bill", "m.bill"), ("bill", "m.bill"), (URL, URL), ("audit", URL)],
)
def test_a_topic_and_a_consumer_are_paused_by_any_of_their_names(folder: Path, name: str, paused: str) -> None:
    """The engine reads it from the worker's file; a resume undoes it."""
    pauses = worker(folder)
    engine = Pauses(pauses.path)
    assert command(pauses, balog_pause, name) == {"ok": f"paused {paused}; paused: {paused}"}
    engine.update()
    assert engine.now == pauses.now
    assert engine.now.topics | engine.now.consumers == {paused}
    assert command(pauses, balog_resume, name) == {"ok": f"resumed {paused}; paused: nothing"}
    engine.update()
    assert not any(engine.now)


def test_pausing_twice_and_resuming_what_is_not_paused_change_nothing(folder: Path) -> None:
    """The answers say what is paused."""
    pauses = worker(folder)
    command(pauses, balog_pause, "orders")
    assert command(pauses, balog_pause, "orders") == {"ok": "paused nothing more; paused: orders"}
    assert command(pauses, balog_resume, "bill") == {"ok": "resumed nothing more; paused: orders"}
    command(pauses, balog_pause, "bill", "keep")
    assert command(pauses, balog_resume) == {"ok": "resumed m.bill, m.keep, orders; paused: nothing"}


@pytest.mark.parametrize("what", [balog_pause, balog_resume])
def test_an_unknown_name_changes_nothing_and_the_answer_has_the_known_ones(folder: Path, what: Any) -> None:
    """Also if others in the same command are known."""
    pauses = worker(folder)
    command(pauses, balog_pause, "ship")
    assert command(pauses, what, "bill", "ordres") == {
        "error": "there is no topic and no consumer 'ordres': did you mean 'orders'? topics and consumers are "
        f"{URL}, m.bill, m.keep, m.orders-log, m.ship, orders"
    }
    assert pauses.names == ["m.ship"]


def test_a_name_of_a_topic_and_a_consumer_is_not_guessed(folder: Path) -> None:
    """The answer has both."""
    app = Celery("pauses", broker="memory://", set_as_current=False)
    install(app, region="eu-west-1", status_dir=str(folder))
    app.balog.hub.add_consumer(Consumer(process, "orders", name="orders", module="m"))
    app.balog.load()
    answer = command(WorkerPauses(app, "w@h"), balog_pause, "orders")
    assert answer == {"error": "'orders' may be any of m.orders, orders: give one of these"}


def test_a_worker_without_an_engine_and_a_command_without_a_name_say_so(folder: Path) -> None:
    """Both answer with an error."""
    assert command(None, balog_pause, "orders") == {"error": "this worker runs no engine, so there is nothing to pause"}
    assert command(worker(folder), balog_pause)["error"].startswith("name what to pause, of ")


def test_a_pause_that_cannot_be_noted_is_none(folder: Path) -> None:
    """The answer is an error, and nothing is paused: the engine would not know."""
    pauses = worker(folder)
    pauses.path.with_suffix(".part").mkdir()
    assert "error" in command(pauses, balog_pause, "orders")
    assert pauses.names == []


def test_a_worker_remembers_only_if_asked(folder: Path) -> None:
    """By its node name; a worker that does not remember leaves no file behind."""
    first = worker(folder)
    command(first, balog_pause, "orders")
    assert worker(folder).names == []
    first.forget()
    assert not first.path.exists()
    asked = worker(folder, remember_pauses=True)
    command(asked, balog_pause, "orders", "keep")
    asked.forget()
    assert worker(folder, remember_pauses=True).names == ["m.keep", "orders"]
    assert worker(folder, "other@h", remember_pauses=True).names == []


@pytest.mark.parametrize("remember", [False, True])
def test_a_pause_outlasts_a_second_worker_of_the_same_name(
    folder: Path, remember: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts its engine, resumes and stops; only the pauses of the first are remembered."""
    # Given
    first = worker(folder, remember_pauses=remember)
    command(first, balog_pause, "orders")
    engine = Pauses(first.path)
    # When
    second = _in_another_process(folder, remember)
    # Then
    assert second == {"paused": ["orders"] if remember else [], "resumed": []}
    engine.update()
    assert engine.now.topics == {"orders"}
    assert "failed" not in caplog.text
    first.forget()
    assert worker(folder, remember_pauses=remember).names == second["paused"]


def _in_another_process(folder: Path, remember: bool) -> Any:
    """Start and stop a worker; return what it has paused, and what after it has resumed everything."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            pauses = worker(folder, remember_pauses=remember)
            paused = pauses.names
            command(pauses, balog_resume)
            os.write(theirs, json.dumps({"paused": paused, "resumed": pauses.names}).encode())
            pauses.forget()
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        found = json.loads(answer.read())
    os.waitpid(child, 0)
    return found


def test_a_worker_that_cannot_remember_says_why(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It starts, and what is paused in it ends with it."""
    balog = app_in(folder, remember_pauses=True).balog
    balog.pause_files.remembered("w@h").with_suffix(".lock").mkdir()
    pauses = worker(folder, remember_pauses=True)
    assert "this worker will not remember what is paused in it, despite balog_remember_pauses: [Errno" in caplog.text
    command(pauses, balog_pause, "orders")
    assert Paused.read(pauses.path).topics == {"orders"}
    pauses.forget()
    assert worker(folder, remember_pauses=True).names == []


def test_a_stop_goes_on_if_the_file_cannot_be_deleted(folder: Path) -> None:
    """As in a folder that has become read-only."""
    pauses = worker(folder)
    pauses.path.unlink()
    pauses.path.mkdir()
    pauses.forget()


def test_a_worker_that_was_killed_leaves_no_file_for_long(folder: Path) -> None:
    """The next one deletes it, and none of a worker that runs."""
    lives = worker(folder).path
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed = lives.with_name(lives.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    killed.touch()
    worker(folder)
    assert lives.exists()
    assert not killed.exists()


names = st.one_of(
    st.sampled_from(["a/b@h", "a_b@h", "a b@h", "a", "b", "a-b", "a+b", "A" * 300, "A" * 301]), st.text(min_size=1)
)


@given(st.tuples(names, names), st.tuples(names, names))
def test_each_app_and_node_has_a_file_of_its_own(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Whatever their names are, in the folder and short enough for a name."""
    paths = [PauseFiles(Path("/f"), identity).remembered(node) for identity, node in (one, other)]
    assert (paths[0] == paths[1]) == (one == other)
    for path in paths:
        assert path.parent == Path("/f")
        assert len(os.fsencode(path.name)) < 255


def test_what_is_remembered_and_gone_is_dropped_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer may have another name since."""
    path = worker(folder, remember_pauses=True).path
    path.write_text(json.dumps({"topics": ["orders", "old"], "consumers": ["m.old"]}))
    assert worker(folder, remember_pauses=True).names == ["orders"]
    assert "paused before the restart, but they no longer exist: m.old, old" in caplog.text


def test_a_memory_that_cannot_be_read_is_an_error_at_start(folder: Path) -> None:
    """What a user has paused must not go on because a file is damaged."""
    path = worker(folder, remember_pauses=True).path
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"balog_remember_pauses: .* cannot be read .*: fix or delete it"):
        worker(folder, remember_pauses=True)


def test_the_signal_is_sent_once_for_each_consumer_that_is_paused(folder: Path, sent: list[tuple[str, str]]) -> None:
    """For a topic, for each of its consumers that was not paused before."""
    pauses = worker(folder)
    command(pauses, balog_pause, "bill")
    command(pauses, balog_pause, "bill")
    assert sent == [("orders", "m.bill")]
    command(pauses, balog_pause, "orders", "audit")
    assert sent[1:] == [("orders", "m.ship"), ("orders", "m.orders-log"), ("audit", "m.keep")]


def test_a_receiver_that_raises_changes_nothing(folder: Path) -> None:
    """The topic is paused all the same."""

    def fail(**_: Any) -> None:
        raise ValueError("no")

    consumer_paused.connect(fail, weak=False)
    try:
        pauses = worker(folder)
        command(pauses, balog_pause, "orders")
    finally:
        consumer_paused.disconnect(fail)
    assert pauses.names == ["orders"]


def test_check_shows_what_is_remembered_as_paused(folder: Path) -> None:
    """It names the worker, what is paused and the way out; a file that a worker cannot read is a failure."""
    # Given
    command(worker(folder, "w1@h", remember_pauses=True), balog_pause, "orders", "keep")
    worker(folder, "w2@h", remember_pauses=True)
    balog = app_in(folder, remember_pauses=True).balog
    # When
    (found,) = check_pauses(balog)
    # Then
    path = balog.pause_files.remembered("w1@h")
    assert (found.level, found.about) == ("WARN", "pauses of w1@h")
    text = f"m.keep, orders, also after a restart: `celery control balog_resume` while it runs, or delete {path}"
    assert found.text == text
    # When
    path.write_text("[")
    # Then
    (found,) = check_pauses(balog)
    assert (found.level, "will not start: fix or delete it" in found.text) == ("FAIL", True)
    # What is not remembered ends with its worker
    assert [*check_pauses(app_in(folder).balog)] == []
