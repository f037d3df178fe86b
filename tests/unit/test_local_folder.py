"""The local stack, as far as it needs no server."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from kombu.transport.redis import Channel

from balog_celery import local
from balog_celery.errors import ConfigurationError


def test_the_broker_of_a_folder_has_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs in that folder gets the same one, without a running stack and without leaving anything."""
    monkeypatch.chdir(tmp_path)
    assert local.broker_url(".balog") == local.broker_url(tmp_path / ".balog")
    assert local.broker_url(".balog") != local.broker_url("other/.balog")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 100, "with space", "per%cent", "what?", "ünïcode"])
def test_a_folder_that_does_not_fit_a_socket_url_gets_a_short_one(tmp_path: Path, name: str) -> None:
    """Socket paths are limited to about a hundred bytes, and not every reader of URLs undoes quoting."""
    url = local.broker_url(tmp_path / name / ".balog")
    assert url.startswith("redis+socket:///tmp/balog-")
    assert len(url) < 100
    assert url != local.broker_url(tmp_path / (name + "2") / ".balog")


def test_nothing_is_found_where_nothing_runs(tmp_path: Path) -> None:
    """Neither in a folder that is not there, nor by a file that a crash has left, nor by one that is damaged."""
    assert local.find(tmp_path / ".balog") is None
    (tmp_path / "local.json").write_text('{"pid": 1, "broker_url": "redis://", "endpoint_url": "http://"}')
    assert local.find(tmp_path) is None
    (tmp_path / "local.json").write_text("{")
    assert local.find(tmp_path) is None


def test_the_options_are_those_of_the_transport() -> None:
    """A name that kombu does not know would be ignored in silence."""
    assert set(local.TRANSPORT_OPTIONS) <= set(Channel.from_transport_options)
    assert local.TRANSPORT_OPTIONS["visibility_timeout"] >= 3600


def test_only_a_user_has_options_of_its_own(tmp_path: Path) -> None:
    """They name it, so there are none before it holds the stack."""
    with pytest.raises(RuntimeError, match="hold"):
        local.consumer_options(tmp_path)


def test_releasing_what_is_not_held_is_harmless(tmp_path: Path) -> None:
    """And leaves no trace."""
    local.release(tmp_path / ".balog")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is made."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moto" else find_spec(name))
    monkeypatch.setattr(local, "valkey_binary", lambda: None)
    with pytest.raises(
        ConfigurationError, match=r"moto, a Valkey or Redis server: pip install 'balog_celery\[local\]'"
    ):
        local.hold(tmp_path / ".balog")
    assert list(tmp_path.iterdir()) == []


def test_a_server_on_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no wheel for the platform."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.valkey_binary() is None
    for name in ("redis-server", "valkey-server"):
        binary = tmp_path / name
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
        assert local.valkey_binary() == binary


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """With the reason in it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot use"):
        local.hold(tmp_path / "file" / ".balog")


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder for everybody, anybody may have been there first."""
    state_dir = tmp_path / ".balog"
    state_dir.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="not this user's"):
        local.hold(state_dir)
