"""Judging an engine by its status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from balog_celery.consumers.status import StatusFile, engine_statuses, problems, status_folder, together


def status(**topic: Any) -> dict[str, Any]:
    state = {"doing": "polling", "trouble": "", "last_poll": 1.0, "owed": 0, "keeping_fails_for": 0.0, **topic}
    return {"pid": 1, "written": time.time(), "wait_time": 20, "topics": {"events": state}}


def test_an_engine_that_polls_is_well() -> None:
    """Also one whose long poll has just begun again."""
    assert problems(status(last_poll=21.0)) == []


def test_a_frozen_poller_shows_within_a_minute() -> None:
    """With the last trouble it told of."""
    (problem,) = problems(status(last_poll=59.0, trouble="SQS is down"))
    assert problem == "topic events: the last successful poll was 59 s ago: SQS is down"


def test_a_pause_for_the_brokers_sake_is_no_illness() -> None:
    """Restarting the engine would not help."""
    assert problems(status(last_poll=600.0, doing="paused")) == []


def test_a_wait_for_room_in_the_worker_is_none_either() -> None:
    """Or for a function that takes its time, in a script."""
    assert problems(status(last_poll=600.0, doing="dispatching")) == []


def test_an_engine_whose_deletes_fail_is_sick() -> None:
    """It would go on until so many are owed that it pauses."""
    assert problems(status(owed=9, keeping_fails_for=44.0, keeping_trouble="denied")) == []
    (problem,) = problems(status(owed=9, keeping_fails_for=46.0, keeping_trouble="denied", doing="paused"))
    assert problem == "topic events: deletes and extensions have failed for 46 s, 9 are owed: denied"


def test_an_engine_that_no_longer_writes_hangs() -> None:
    """Whatever it wrote last."""
    (problem,) = problems({**status(), "written": time.time() - 30})
    assert re.search(r"hangs: it wrote its status \d\d s ago", problem)


def test_only_running_engines_of_the_same_app_count(tmp_path: Path) -> None:
    """The files of those that were killed are removed."""
    StatusFile(tmp_path, "mine").write(status())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(60)
    for name, pid, app in [("ended", ended.pid, "mine"), ("other", os.getpid(), "other")]:
        (tmp_path / f"engine-{name}.json").write_text(json.dumps({**status(), "pid": pid, "app": app}))
    (tmp_path / "engine-bad.json").write_text("{")
    assert [found["pid"] for found in engine_statuses(tmp_path, "mine")] == [os.getpid()]
    assert not (tmp_path / "engine-ended.json").exists()


def test_a_status_is_written_again_only_after_a_while(tmp_path: Path) -> None:
    """Unless it must be now; and it is gone when the engine has stopped."""
    file = StatusFile(tmp_path, "mine")
    for number, now in enumerate([False, False, True]):
        file.write({"number": number}, now=now)
    (found,) = tmp_path.glob("engine-*.json")
    assert json.loads(found.read_text())["number"] == 2
    file.remove()
    assert not found.exists()


def test_the_folder_is_for_this_user_alone(tmp_path: Path) -> None:
    """A file in its place is an error."""
    folder = status_folder(str(tmp_path / "status"))
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        status_folder(str(tmp_path / "file"))


def test_several_pollers_are_as_well_as_the_worst_of_them() -> None:
    """And have in flight what all of them have."""
    well = {
        "doing": "polling",
        "trouble": "",
        "last_poll": 1.0,
        "in_flight": 3,
        "oldest": 2.0,
        "owed": 1,
        "keeping_trouble": "",
        "keeping_fails_for": 0.0,
        "lag": {},
        "received": 7,
    }
    assert together([well]) == well
    stuck = {**well, "last_poll": 90.0, "trouble": "SQS is down", "doing": "failing"}
    unable = {**well, "oldest": 50.0, "keeping_trouble": "denied", "keeping_fails_for": 60.0}
    waiting = {**well, "doing": "paused", "last_poll": 900.0}
    merged = together([well, stuck, waiting, unable])
    assert merged == {
        **stuck,
        "in_flight": 12,
        "oldest": 50.0,
        "owed": 4,
        "keeping_trouble": "denied",
        "keeping_fails_for": 60.0,
    }
    assert len(problems(status(**merged))) == 2
    assert problems(status(**together([well, waiting]))) == []
