"""``celery balog health``, as far as it needs no engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from balog_celery import install
from balog_celery.cli import balog

OTHER = "with its broker_url runs on this machine, but one with another does: give this command the same broker"


@pytest.fixture
def app_of(tmp_path: Path) -> Callable[..., Celery]:
    """Makes apps with one status folder."""

    def make(name: str, broker: str, **settings: object) -> Celery:
        app = Celery(name, broker=broker, set_as_current=False)
        return install(app, packages=["shop.events"], status_dir=str(tmp_path), **settings)

    return make


def health(app: Celery, *options: str) -> Result:
    return CliRunner().invoke(balog, ["health", *options], obj=SimpleNamespace(app=app, no_color=False))


@pytest.mark.parametrize(("kind", "options"), [("engine", []), ("relay", ["--outbox"])])
def test_one_with_another_broker_is_not_denied(
    app_of: Callable[..., Celery], kind: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `celery -A shop -b URL worker`: the answer says how to ask for it, without a URL."""
    # Given
    file = app_of("shop", "redis://:secret@one:6379/0").balog.status_file(kind)
    file.write({"topics": {}, "outbox": {}, "outages": {}, "busy_for": 0.0, "wait_time": 1, "sent": 0}, now=True)
    # Then
    answer = health(app_of("shop", "redis://:secret@two:6379/0"), *options)
    assert (answer.exit_code, OTHER in answer.output, "secret" in answer.output) == (1, True, False)
    for app in (app_of("shop-2", "redis://one:6379/0"), app_of("shop", "redis://two:6379/0", region="eu-west-1")):
        answer = health(app, *options)
        assert (answer.exit_code, "of this app runs on this machine, or" in answer.output) == (1, True)
    # When it is given the same broker
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:secret@one:6379/0")
    assert health(app_of("shop", "redis://:secret@two:6379/0"), *options).exit_code == 0
    file.remove()
    # Then
    assert "of this app runs on this machine, or" in health(app_of("shop", "redis://two:6379/0"), *options).output
