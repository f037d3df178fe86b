"""Where engines keep their status: in a folder that only this user can write to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from balog_celery.engine.status import StatusFile, read_statuses, status_folders


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this login."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user below the one for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"balog-celery-{os.getuid()}"


def owned_by_another(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Have *folders* belong to another user."""
    lstat = Path.lstat

    def lstat_of_another(path: Path) -> os.stat_result:
        found = lstat(path)
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:])) if path in folders else found

    monkeypatch.setattr(Path, "lstat", lstat_of_another)


def test_the_folder_of_the_login_comes_first(runtime: Path, temporary: Path) -> None:
    """It is private; readers look into the other one too, as the engine may have no login."""
    assert status_folders(None) == [runtime / "balog-celery", temporary]
    assert (runtime / "balog-celery").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("missing", ["", "gone", "a file"])
def test_without_a_login_it_is_among_temporary_files(
    missing: str, runtime: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, or after su."""
    if missing == "a file":
        (runtime / missing).touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", missing and str(runtime / missing))
    assert status_folders(None) == [temporary]


@pytest.mark.parametrize("inside", [False, True])
def test_the_login_of_another_user_is_not_used(
    inside: bool, runtime: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after sudo, nor a folder of another user in it."""
    owned_by_another(monkeypatch, runtime / "balog-celery" if inside else runtime)
    assert status_folders(None) == [temporary]
    assert inside or not (runtime / "balog-celery").exists()


def test_a_login_that_others_can_write_to_is_not_used(runtime: Path, temporary: Path) -> None:
    """They could put a folder of theirs in its place."""
    runtime.chmod(0o777)
    assert status_folders(None) == [temporary]


def a_link(folder: Path) -> None:
    folder.symlink_to(folder.parent)


def of_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize("make", [a_link, of_all, Path.touch])
def test_a_bad_folder_among_temporary_files_leaves_that_of_the_login(
    make: Callable[[Path], None], runtime: Path, temporary: Path
) -> None:
    """Anybody may have put it there."""
    make(temporary)
    assert status_folders(None) == [runtime / "balog-celery"]


def test_without_any_folder_the_engine_goes_on(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs once that it has no status."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    temporary.mkdir()
    owned_by_another(monkeypatch, temporary)
    file = StatusFile(lambda: status_folders(None)[0], "app")
    for _ in range(3):
        file.write({}, now=True)
    file.remove()
    assert caplog.text.count("not a folder of this user's") == 1


def test_an_engine_outlives_the_folder_of_its_login(runtime: Path, temporary: Path) -> None:
    """The system deletes it when the user logs out; the engine writes elsewhere, where readers find it."""
    file = StatusFile(lambda: status_folders(None)[0], "app")
    file.write({"number": 1}, now=True)
    (found,) = (runtime / "balog-celery").glob("engine-*.json")
    assert json.loads(found.read_text())["number"] == 1
    # When
    shutil.rmtree(runtime)
    for _ in range(2):  # the first write finds out
        file.write({"number": 2}, now=True)
    # Then
    assert [status["number"] for status in read_statuses(status_folders(None), "app")] == [2]
    assert list(temporary.glob("engine-*.json"))
    file.remove()
    assert list(read_statuses(status_folders(None), "app")) == []
