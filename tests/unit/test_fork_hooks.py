"""Hooks that Python calls after a fork: they can never be removed, so no object may add one."""

from __future__ import annotations

import ast
import gc
import os
import threading
from pathlib import Path

from celery import Celery
from kombu import Connection
from prometheus_client import CollectorRegistry

import balog_celery
from balog_celery.brokers.connections import publish_confirmed
from balog_celery.metrics.server import MetricsServer

PACKAGE = Path(balog_celery.__file__).parent


def test_fork_hooks_are_registered_when_a_module_is_imported() -> None:
    """A second engine, app or fork adds none."""
    inside: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for node in ast.walk(function):
                    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                    if name in ("register_at_fork", "run_in_child"):
                        inside.append(f"{path.name}:{getattr(node, 'lineno', 0)}")
    assert not inside


def test_a_child_keeps_no_metrics_port_and_the_parent_does() -> None:
    """Of any of the servers of its parent."""
    servers = [MetricsServer("127.0.0.1", 0, CollectorRegistry(), list) for _ in range(2)]
    descriptors = [server._server.socket.fileno() for server in servers]
    # When
    child = os.fork()
    if not child:
        kept = 0
        for descriptor in descriptors:
            try:
                os.fstat(descriptor)
                kept += 1
            except OSError:
                pass
        os._exit(kept)
    # Then
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(os.fstat(descriptor) for descriptor in descriptors)
    for server in servers:
        server.stop()


def test_apps_that_publish_in_turn_keep_their_connections() -> None:
    """One for each app and thread, however often they take turns; those of an app that is gone are closed."""
    connections: set[int] = set()
    kept: list[Connection] = []

    def publish_in_turn() -> None:
        apps = [Celery(f"turn-{number}", broker="memory://", set_as_current=False) for number in range(2)]
        for _ in range(10):
            for app in apps:
                kept.append(publish_confirmed(app, 1.0, lambda producer: producer.connection))
        connections.update(map(id, kept))
        for app in apps:
            app.close()

    thread = threading.Thread(target=publish_in_turn)
    thread.start()
    thread.join(60)
    gc.collect()
    assert len(connections) == 2
