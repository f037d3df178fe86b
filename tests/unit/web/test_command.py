"""The command `balog web`, as far as it does not serve."""

from __future__ import annotations

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
    ],
)
def test_a_wrong_option_ends_it_before_it_listens(arguments: tuple[str, ...], says: str) -> None:
    """In one line, with the exit code of a wrong configuration."""
    result = run(*arguments)
    assert result.exit_code == 78
    assert says in result.output
    assert len(result.output.splitlines()) == 1


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("balog_celery.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    result = run()
    assert result.exit_code == 78
    assert "pip install 'balog_celery[web]'" in result.output
