"""Consumers with ``concurrency`` in real workers: by hand-off and published, in every pool, in one and in several."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from project import CELERY, QUICK_RESTORE, Project, Start, Topic, inspect, stop

import servers
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]

LIMITED = """

@consumer_config(topic=TOPIC, cls_type="limited", concurrency={limit!r}, {options})
def limited(event):
    note("limited", event["header"]["id"])
    while os.path.exists("hold"):
        time.sleep(0.02)
    time.sleep(event["payload"].get("seconds", 0.3))
    note("limited-done", event["header"]["id"])
"""


def most_at_once(project: Project) -> int:
    """The most runs of ``limited`` that were under way at a time."""
    now = most = 0
    for entry in project.entries():
        now += {"limited": 1, "limited-done": -1}.get(entry["consumer"], 0)
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("pool", "dispatch"),
    [
        ("prefork", "hand-off"),
        ("prefork", "publish"),
        ("threads", "hand-off"),
        ("gevent", "hand-off"),
        ("gevent", "publish"),
        ("eventlet", "hand-off"),
        ("eventlet", "publish"),
        ("solo", "publish"),
    ],
)
def test_no_more_run_at_once_than_the_limit_allows_and_others_go_on(
    start: Start, project: Project, topic: Topic, pool: str, dispatch: str
) -> None:
    """Events of a limited consumer wait outside of the pool, and those of other consumers run meanwhile."""
    # Given more of them than the worker takes at a time
    limit = 1 if pool == "solo" else 2
    project.add_consumer(LIMITED.format(limit=limit, options=""))
    project.add(f"balog_dispatch = {dispatch!r}")
    topic.send(*(event_text(f"l{number}", "limited") for number in range(24)))
    topic.send(*(event_text(f"m{number}", values=METRIC) for number in range(5)))
    hold = project.folder / "hold"
    if pool != "solo":
        hold.touch()
    # When
    worker = start("worker", "-l", "INFO", "-P", pool, "-c", "1" if pool == "solo" else "4")
    # Then
    project.wait_for(lambda runs: sum(name == "first" for name, _ in runs) == 5)
    hold.unlink(missing_ok=True)
    project.wait_for(lambda runs: sum(name == "limited-done" for name, _ in runs) == 24)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert most_at_once(project) == limit
    assert set(project.runs().values()) == {1}
    assert stop(worker) == 0


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_a_place_is_free_again_however_its_task_ends(
    start: Start, project: Project, topic: Topic, dispatch: str
) -> None:
    """A hard time limit, a lost child, a failure and a retry free the place, and a retry waits for one again."""
    # Given
    project.add(f"balog_dispatch = {dispatch!r}")
    project.add_consumer("""

@consumer_config(topic=TOPIC, cls_type="limited", concurrency=1, time_limit=2, max_retries=1, default_retry_delay=0,
                 autoretry_for=(KeyError,))
def limited(event):
    note("limited", event["header"]["id"])
    how = event["payload"]["how"]
    if how == "long":
        time.sleep(60)
    elif how == "crash":
        os._exit(7)
    elif how == "fail":
        raise ValueError("never")
    elif how == "retry":
        raise KeyError("again")
    note("limited-done", event["header"]["id"])
""")
    how = ("long", "crash", "fail", "retry", "well", "long", "crash", "well")
    topic.send(*(event_text(f"l{number}", "limited", how=one) for number, one in enumerate(how)))
    # When
    worker = start("worker", "-l", "INFO", "-c", "3")
    # Then
    project.wait_for(lambda runs: runs["limited-done", "l4"] == runs["limited-done", "l7"] == 1, 120)
    # A crash is retried, too, unless billiard notices the lost child after the time limit.
    project.wait_for(lambda runs: runs["limited", "l3"] == 2, 120)
    servers.wait_until(lambda: topic.left() == 0 and len(topic.dead()) == 6, what="the dead letters")
    servers.wait_until(
        lambda: inspect(project, "balog")["concurrency"]["proj.consumers.limited"]["running"] == 0, what="the place"
    )
    assert stop(worker) == 0


def test_a_killed_worker_loses_no_event_that_waits(start: Start, project: Project, topic: Topic) -> None:
    """What ran and what waited is delivered again, to a worker that keeps the limit as well."""
    project.add("balog_visibility_timeout = 5")
    project.add_consumer(LIMITED.format(limit=1, options=""))
    topic.send(*(event_text(f"l{number}", "limited", seconds=0.5) for number in range(10)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(name == "limited-done" for name, _ in runs) == 2)
    worker.signal(signal.SIGKILL)
    worker.wait(60)
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: all(runs["limited-done", f"l{number}"] for number in range(10)), 120)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")


def test_the_limit_is_seen_where_one_looks(start: Start, project: Project, topic: Topic) -> None:
    """``consumers`` and ``explain`` show the limit, ``inspect balog`` also what runs and what waits."""
    project.add_consumer(LIMITED.format(limit=2, options=""))
    event = event_text("l", "limited", seconds=60)
    topic.send(*(event_text(f"l{number}", "limited", seconds=60) for number in range(5)))
    worker = start("worker", "-l", "INFO", "-c", "4")

    def limits() -> dict[str, object]:
        found: dict[str, object] = inspect(project, "balog")["concurrency"]["proj.consumers.limited"]
        return found

    expected = {"limit": 2, "of": "worker", "running": 2, "waiting": 3}
    servers.wait_until(lambda: limits() == expected, what="the running and the waiting")
    env = {**os.environ, **project.env}
    shown = subprocess.run(
        [*CELERY, "balog", "consumers"], cwd=project.folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert "concurrency=2" in shown.stdout
    explained = subprocess.run(
        [*CELERY, "balog", "explain", "-"],
        cwd=project.folder,
        env=env,
        input=event,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "(at most 2 at once in each worker)" in explained.stdout
    worker.signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("pool", "dispatch"),
    [("prefork", "hand-off"), ("prefork", "publish"), ("threads", "publish"), ("gevent", "hand-off")],
)
def test_all_workers_together_keep_a_limit_for_the_cluster(
    start: Start, project: Project, topic: Topic, dispatch: str, pool: str
) -> None:
    """Three run at once in two workers, and both of them get places."""
    # Given
    project.add_consumer(LIMITED.format(limit=(3, "cluster"), options=""))
    project.add(f"balog_dispatch = {dispatch!r}")
    # When
    workers = [start("worker", "-l", "INFO", "-P", pool, "-c", "4", "-n", f"w{number}@h") for number in range(2)]
    topic.send(*(event_text(f"l{number}", "limited", seconds=0.3) for number in range(30)))
    # Then
    project.wait_for(lambda runs: sum(name == "limited-done" for name, _ in runs) == 30, 120)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert most_at_once(project) == 3
    assert set(project.runs().values()) == {1}
    assert all("limited" in worker.output for worker in workers)
    assert [stop(worker) for worker in workers] == [0, 0]


def test_places_of_a_killed_worker_are_free_after_a_while(start: Start, project: Project, topic: Topic) -> None:
    """They expire, and another worker goes on with its events."""
    # Given a worker that has the only place
    project.add("balog_visibility_timeout = 5")
    project.add(QUICK_RESTORE)
    project.add_consumer(LIMITED.format(limit=(1, "cluster"), options=""))
    topic.send(event_text("long", "limited", seconds=600))
    first = start("worker", "-l", "INFO", "-c", "1", "-n", "a@h")
    project.wait_for(lambda runs: runs["limited", "long"] == 1)
    start("worker", "-l", "INFO", "-c", "1", "-n", "b@h")
    topic.send(event_text("next", "limited", seconds=0))
    assert project.runs()["limited", "next"] == 0
    # When
    first.signal(signal.SIGKILL)
    first.wait(60)
    # Then
    project.wait_for(lambda runs: runs["limited", "next"] + runs["limited", "long"] >= 2, 120)


def test_a_limit_for_the_cluster_without_redis_is_an_error_at_start(start: Start, project: Project) -> None:
    """The worker exits with 78, and one line names the settings."""
    project.once_url = ""
    (project.folder / "celeryconfig.py").write_text(
        (project.folder / "celeryconfig.py").read_text().replace("os.environ.get('ONCE_URL')", "None")
    )
    consumers = project.folder / "proj" / "consumers.py"
    consumers.write_text(consumers.read_text().replace("once=True", "once=False"))
    project.add_consumer(LIMITED.format(limit=(3, "cluster"), options=""))
    worker = start("worker", "-l", "INFO", ready=None)
    assert worker.wait(60) == 78
    needs = (
        "a consumer has concurrency=(3, 'cluster'), which needs Redis: set balog_once_url, or a Redis result backend"
    )
    assert needs in worker.output
    assert "Traceback" not in worker.output
