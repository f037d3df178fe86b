"""The local stack, without starting it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from kombu.transport.redis import Channel

from balog_celery.brokers.kombu_compat import RESTORE_EACH_SECOND
from balog_celery.dev import local_stack, valkey
from balog_celery.dev.transport import TRANSPORT_OPTIONS
from balog_celery.errors import ConfigurationError


def test_the_broker_of_a_folder_has_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's address depends on the folder only; asking for it starts and creates nothing."""
    monkeypatch.chdir(tmp_path)
    assert local_stack.broker_url(".balog") == local_stack.broker_url(tmp_path / ".balog")
    assert local_stack.broker_url(".balog") != local_stack.broker_url("other/.balog")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 100, "with space", "per%cent", "what?", "ünïcode"])
def test_a_folder_that_does_not_fit_a_socket_url_gets_a_short_one(tmp_path: Path, name: str) -> None:
    """A folder whose path is too long for a socket, or needs quoting in a URL, gets its socket elsewhere."""
    url = local_stack.broker_url(tmp_path / name / ".balog")
    assert url.startswith("redis+socket:///tmp/balog-")
    assert len(url) < 100
    assert url != local_stack.broker_url(tmp_path / (name + "2") / ".balog")


def test_nothing_is_found_where_nothing_runs(tmp_path: Path) -> None:
    """No stack is found in a missing folder, or by the stale or damaged file of a crashed one."""
    assert local_stack.find(tmp_path / ".balog") is None
    (tmp_path / "local.json").write_text('{"pid": 1, "broker_url": "redis://", "endpoint_url": "http://"}')
    assert local_stack.find(tmp_path) is None
    (tmp_path / "local.json").write_text("{")
    assert local_stack.find(tmp_path) is None


def test_the_options_are_those_of_the_transport() -> None:
    """kombu knows each transport option; before 5.7 it does not know two of them."""
    assert set(TRANSPORT_OPTIONS) - set(RESTORE_EACH_SECOND) <= set(Channel.from_transport_options)
    assert TRANSPORT_OPTIONS["visibility_timeout"] >= 3600


def test_only_a_user_has_options_of_its_own(tmp_path: Path) -> None:
    """Only a process that holds the stack has transport options of its own."""
    with pytest.raises(RuntimeError, match="hold"):
        local_stack.consumer_options(tmp_path)


def test_releasing_what_is_not_held_is_harmless(tmp_path: Path) -> None:
    """Releasing a stack that is not held does nothing."""
    local_stack.release(tmp_path / ".balog")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing package is an error with what to install, before anything is created."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moto" else find_spec(name))
    monkeypatch.setattr(local_stack, "valkey_binary", lambda: None)
    with pytest.raises(
        ConfigurationError, match=r"moto, a Valkey or Redis server: pip install 'balog_celery\[local\]'"
    ):
        local_stack.hold(tmp_path / ".balog")
    assert list(tmp_path.iterdir()) == []


def test_a_server_on_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, a server on the path is used."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert valkey.valkey_binary() is None
    for name in ("redis-server", "valkey-server"):
        binary = tmp_path / name
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
        assert valkey.valkey_binary() == binary


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A folder that cannot be created is an error with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot use"):
        local_stack.hold(tmp_path / "file" / ".balog")


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in a shared place that another user created is not used."""
    state_dir = tmp_path / ".balog"
    state_dir.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="not this user's"):
        local_stack.hold(state_dir)
