"""The command `balog web`, as far as it does not serve."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from balog_celery import install
from balog_celery.cli import balog

pytest.importorskip("starlette")


def run(*arguments: str) -> Result:
    app = Celery("web", broker="memory://", set_as_current=False)
    install(app)
    with app:
        return CliRunner().invoke(balog, ["web", *arguments], obj=SimpleNamespace(app=app, no_color=False))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--host", "0.0.0.0"), "give --auth or --read-only"),
        (("--auth", "basic:ana:hunter2"), "basic:USER:env:VARIABLE"),
        (("--role", "admin"), "the roles are viewer, reader, operator"),
        (("--role", "ana=root"), "there is no role root"),
        (("--trusted-proxy", "bogus"), "--trusted-proxy 'bogus' is no address"),
    ],
)
def test_a_wrong_option_ends_it_before_it_listens(arguments: tuple[str, ...], says: str) -> None:
    """With the exit code of a wrong command line."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output.splitlines()[-1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_told_in_a_line(host: str) -> None:
    """With the exit code of a failure, and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("--host", host, "--port", str(port), "--logfile", "/dev/null")
    assert result.exit_code == 1
    assert result.output == (
        f"Error: the page cannot listen on --host {host} --port {port}: Address already in use: choose another, or "
        "stop what uses it\n"
    )


def test_a_host_without_an_address_is_told_in_a_line() -> None:
    """Such as one of another machine."""
    result = run("--host", "192.0.2.1", "--read-only", "--logfile", "/dev/null")
    assert result.exit_code == 1
    assert "the page cannot listen on --host 192.0.2.1 --port 5577: Cannot assign requested address" in result.output


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("balog_celery.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    result = run()
    assert result.exit_code == 78
    assert "pip install 'balog_celery[web]'" in result.output
