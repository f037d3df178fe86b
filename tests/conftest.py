"""Configuration and fixtures of all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import _state
from hypothesis import HealthCheck, settings
from kombu.transport import memory

from balog_celery.producer import lineage
from balog_celery.sqs.clients import clients

# A slow machine is no fault of the code's, and a test that has passed shall pass again.
settings.register_profile("balog", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("balog")


# In the background of a shell, and under nohup, these signals are ignored, and what the tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

_CONFIGURATION = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_PROFILE"]
_PROXIES = ["http_proxy", "https_proxy", "all_proxy"]


@contextmanager
def _own_clients() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name in [*_CONFIGURATION, *_PROXIES, *map(str.upper, _PROXIES)]:
            patched.delenv(name, raising=False)
        clients.forget()
        yield
        clients.forget()


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> None:
    """Let the garbage collector pass over what earlier modules left: it would stop all threads for up to a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_consumed_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the topics that earlier tests consumed, because a process withholds its log from them."""
    monkeypatch.setattr(lineage, "_consumed", set())


@pytest.fixture(autouse=True)
def _no_current_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the apps that earlier tests made, because ``send`` has its settings from Celery's current app."""
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state._tls, "current_app", None)


@pytest.fixture(autouse=True)
def _empty_memory_broker() -> None:
    """Forget what earlier tests left in queues of ``memory://``, which all connections of a process share."""
    memory.Channel.queues.clear()


@pytest.fixture
def own_clients() -> Iterator[None]:
    """AWS clients of this test only, without this machine's configuration."""
    with _own_clients():
        yield


@pytest.fixture(scope="module")
def shared_clients() -> Iterator[None]:
    """The same, for all tests of a module: to make a client takes longer than most of them."""
    with _own_clients():
        yield
