"""The status of an engine and the health rules."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.status import StatusFile, is_of, problems, read_statuses, status_folders, together

POLLER = {
    "doing": "polling",
    "reason": "",
    "back_pressure": False,
    "doing_for": 1.0,
    "trouble": "",
    "last_poll": 1.0,
    "held": 0,
    "owed": 1,
    "outages": {},
    "lag": {},
    "received": 7,
}
EXTENDER = {"in_flight": 3, "oldest": 2.0, "visibility": 30, "outages": {}}


def status(**topic: Any) -> dict[str, Any]:
    state = {**POLLER, **EXTENDER, **topic}
    return {"pid": 1, "written": time.time(), "wait_time": 20, "topics": {"events": state}}


def test_an_engine_that_polls_is_well() -> None:
    """A polling engine is healthy, also just after its long poll has begun again."""
    assert problems(status(last_poll=21.0)) == []


def test_a_frozen_poller_shows_within_a_minute() -> None:
    """A frozen poller is a problem within a minute, shown with its last error."""
    (problem,) = problems(status(last_poll=59.0, trouble="SQS is down"))
    assert problem == "topic events: the last successful poll was 59 s ago: SQS is down"


def paused(readiness: Readiness, seconds: float) -> dict[str, Any]:
    return {
        "doing": "paused",
        "reason": readiness.value,
        "back_pressure": readiness.is_back_pressure,
        "doing_for": seconds,
        "last_poll": seconds,
    }


@pytest.mark.parametrize("readiness", [Readiness.WORKER_FULL, Readiness.QUEUE_FULL, Readiness.BATCH_WAITING])
def test_consumers_that_are_busy_are_no_illness(readiness: Readiness) -> None:
    """A pause because consumers are busy is healthy, however long it lasts."""
    assert problems(status(**paused(readiness, 7200.0))) == []


@pytest.mark.parametrize(
    "readiness",
    [Readiness.WORKER_CLOSED, Readiness.BROKER_DOWN, Readiness.QUEUE_UNSERVED, Readiness.BATCH_FAILING],
)
def test_any_other_pause_is_one_within_a_minute(readiness: Readiness) -> None:
    """Any other pause is a problem within a minute, with its reason."""
    assert problems(status(**paused(readiness, 50.0))) == []
    (problem,) = problems(status(**paused(readiness, 58.0)))
    assert problem == f"topic events: nothing has been received for 58 s: {readiness.value}"


def test_every_reason_is_said_and_only_being_ready_is_ready() -> None:
    """Each Readiness has a text and a kind, and only READY is true."""
    assert [readiness for readiness in Readiness if readiness] == [Readiness.READY]
    assert all(readiness.value for readiness in Readiness)


def test_a_wait_for_room_in_the_worker_is_none_either() -> None:
    """A long dispatch because the worker or the function is busy is healthy."""
    assert problems(status(last_poll=600.0, doing="dispatching", doing_for=600.0)) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("delete", "deletes have"),
        ("return", "releases have"),
        ("extend", "extensions of visibility have"),
        ("dispatch", "dispatching has"),
    ],
)
def test_calls_that_fail_are_an_illness_while_messages_are_invisible(name: str, what: str) -> None:
    """Failing calls of each kind are a problem before a visibility timeout ends, at most after a minute."""

    def found(seconds: float, visibility: int) -> list[str]:
        outages = {name: {"fails_for": seconds, "error": "denied"}}
        return problems(status(owed=9, outages=outages, visibility=visibility, **paused(Readiness.WORKER_FULL, 9.0)))

    assert found(29.0, 30) == found(9.0, 2) == found(54.0, 43_200) == []
    (problem,) = found(31.0, 30)
    assert problem == f"topic events: {what} failed for 31 s (3 messages in flight, 9 to delete or release): denied"
    assert len(found(11.0, 2)) == len(found(58.0, 43_200)) == 1


def test_an_engine_that_no_longer_writes_hangs() -> None:
    """An engine that has stopped writing its status hangs."""
    (problem,) = problems({**status(), "written": time.time() - 30})
    assert re.search(r"hangs: it wrote its status \d\d s ago", problem)


#: Writes a status of the app that is its second argument, and waits to be killed.
ENGINE = """
import sys, time
from pathlib import Path
from balog_celery.engine.status import StatusFile
file = StatusFile(lambda: Path(sys.argv[1]), sys.argv[2])
file.write({"wait_time": 20, "topics": {}})
print("written", flush=True)
time.sleep(60)
"""


def test_only_running_engines_of_the_same_app_count(tmp_path: Path) -> None:
    """Only running engines of the app count, and an unreadable file does not hide them."""
    StatusFile(lambda: tmp_path, "mine").write(status())
    with subprocess.Popen([sys.executable, "-c", ENGINE, tmp_path, "other"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (tmp_path / "engine-bad.json").write_text("{")
        assert [found["pid"] for found in read_statuses([tmp_path], "mine")] == [os.getpid()]
        assert [found["pid"] for found in read_statuses([tmp_path], "other")] == [other.pid]
        other.kill()


def test_a_process_that_got_the_id_of_a_dead_engine_is_none(tmp_path: Path) -> None:
    """The status of a killed engine is removed, even if another process has its id."""
    with subprocess.Popen([sys.executable, "-c", ENGINE, tmp_path, "mine"], stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        engine.kill()
    (path,) = tmp_path.glob("engine-*.json")
    taken = path.with_name(f"engine-{os.getpid()}.json")  # this process runs, and is no engine
    path.with_suffix(".lock").rename(taken.with_suffix(".lock"))
    taken.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getpid()}))
    assert list(read_statuses([tmp_path], "mine")) == []
    assert list(tmp_path.iterdir()) == []
    # The engine that gets the id next is one.
    StatusFile(lambda: tmp_path, "mine").write(status())
    assert [found["pid"] for found in read_statuses([tmp_path], "mine")] == [os.getpid()]


def test_engines_of_containers_that_share_a_folder_are_told_apart(tmp_path: Path) -> None:
    """Each container counts process ids anew, so two engines may have the same one."""
    files = [StatusFile(lambda: tmp_path, "mine") for _ in range(2)]
    # Given two engines with the process id of this process
    writers = [threading.Thread(target=file.write, args=(status(),), daemon=True) for file in files]
    for writer in writers:
        writer.start()
        writer.join(20)
        # Then neither waits for the other
        assert not writer.is_alive()
    mine, other = read_statuses([tmp_path], "mine")
    assert is_of(mine, os.getpid())
    assert is_of(other, os.getpid())
    # And an engine of another container is not taken for that of this one
    assert not is_of({**mine, "namespace": mine["namespace"] + 1}, os.getpid())
    assert not is_of(mine, os.getpid() + 1)
    files[0].remove()
    assert len(list(read_statuses([tmp_path], "mine"))) == 1


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """A status folder that others can write to is refused, because they could forge a healthy engine."""
    folder = tmp_path / "status"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(OSError, match="other users can write to"):
        status_folders(str(folder))
    folder.chmod(0o755)
    assert status_folders(str(folder)) == [folder]


def test_a_status_is_written_again_only_after_a_while(tmp_path: Path) -> None:
    """A status is written at intervals or on demand, and removed when the engine stops."""
    file = StatusFile(lambda: tmp_path, "mine")
    for number, now in enumerate([False, False, True]):
        file.write({"number": number}, now=now)
    (found,) = tmp_path.glob("engine-*.json")
    assert json.loads(found.read_text())["number"] == 2
    file.remove()
    assert not found.exists()


def test_the_folder_is_for_this_user_alone(tmp_path: Path) -> None:
    """The status folder is private to the user; a file in its place is an error."""
    (folder,) = status_folders(str(tmp_path / "status"))
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        status_folders(str(tmp_path / "file"))


def test_several_pollers_are_as_well_as_the_worst_of_them() -> None:
    """A topic's status is that of its worst poller, with the sums of all pollers' counts."""
    well = POLLER
    assert together([well], EXTENDER, 20) == {**well, **EXTENDER}
    stuck = {**well, "last_poll": 90.0, "trouble": "SQS is down", "doing": "failing"}
    unable = {**well, "outages": {"delete": {"fails_for": 60.0, "error": "denied"}}}
    waiting = {**well, **paused(Readiness.WORKER_FULL, 900.0)}
    extender = {**EXTENDER, "outages": {"extend": {"fails_for": 70.0, "error": "denied, too"}}}
    merged = together([well, stuck, waiting, unable], extender, 20)
    assert merged == {
        **stuck,
        **EXTENDER,
        "owed": 4,
        "outages": {**unable["outages"], **extender["outages"]},
    }
    assert len(problems(status(**merged))) == 3
    assert problems(status(**together([well, waiting], EXTENDER, 20))) == []


def test_a_pause_that_is_a_problem_is_not_hidden_by_those_who_poll() -> None:
    """A pause that is a problem is not hidden by other pollers that poll or are busy."""
    closed = {**POLLER, **paused(Readiness.WORKER_CLOSED, 60.0)}
    waiting = {**POLLER, **paused(Readiness.WORKER_FULL, 900.0)}
    assert together([POLLER, waiting, closed], EXTENDER, 20)["reason"] == Readiness.WORKER_CLOSED.value


def test_the_longest_outage_of_a_kind_is_shown() -> None:
    """The longest outage of each kind is shown, of several pollers."""
    outages = [{"delete": {"fails_for": seconds, "error": f"{seconds}"}} for seconds in (3.0, 90.0, 4.0)]
    merged = together([{**POLLER, "outages": one} for one in outages], EXTENDER, 20)
    assert merged["outages"] == outages[1]


def test_a_status_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failing write is logged once, and the engine goes on."""
    caplog.set_level("INFO")
    folder = tmp_path / "gone"
    file = StatusFile(lambda: folder, "app")
    for _ in range(3):
        file.write({}, now=True)
    folder.mkdir()
    file.write({}, now=True)
    failed, works = [record.message for record in caplog.records]
    assert failed.startswith("writing the engine's status, which `balog health` reads, failed")
    assert "works again" in works
    assert len(list(read_statuses([folder], "app"))) == 1


def test_an_engine_on_a_full_disk_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    """A status that cannot be updated is removed, so that it does not age, and written again when there is room."""
    script = """
import resource, sys
from pathlib import Path
from balog_celery.engine.status import StatusFile, read_statuses
folder = Path(sys.argv[1])
file = StatusFile(lambda: folder, "app")
for limit in (resource.RLIM_INFINITY, 0, resource.RLIM_INFINITY):  # 0: the kernel refuses every byte
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    file.write({}, now=True)
    print(len(list(read_statuses([folder], "app"))), flush=True)
file.remove()
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["1", "0", "1"]
    assert not list(tmp_path.glob("*.json"))


def test_a_folder_that_cannot_be_opened_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An engine without a usable folder goes on, and writes its status as soon as there is one."""
    problems = iter([OSError(28, "No space left on device")])

    def folder() -> Path:
        for error in problems:
            raise error
        return tmp_path

    file = StatusFile(folder, "app")
    file.write({}, now=True)
    file.remove()
    assert "No space left on device" in caplog.text
    file.write({}, now=True)
    assert len(list(read_statuses([tmp_path], "app"))) == 1
    file.remove()


def test_an_engine_is_known_after_its_folder_was_emptied(tmp_path: Path) -> None:
    """An engine writes its status again after the folder was emptied."""
    file = StatusFile(lambda: tmp_path, "app")
    file.write({}, now=True)
    for path in tmp_path.iterdir():
        path.unlink()
    file.write({}, now=True)
    assert len(list(read_statuses([tmp_path], "app"))) == 1
    file.remove()
    assert not list(tmp_path.iterdir())
