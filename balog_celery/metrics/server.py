"""Serves metrics and probes over HTTP: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from weakref import WeakSet
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from ..engine.status import problems
from ..errors import ConfigurationError
from ..forks import run_in_child

logger = logging.getLogger(__name__)

#: Given as a copy: the server adds to the list.
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"),)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Does not log requests, and does not wait without an end for one."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


#: The servers that have not been collected.
_servers: WeakSet[_Server] = WeakSet()


def _close_ports() -> None:
    # A child of the pool that outlives the worker must not keep the port.
    for server in list(_servers):
        server.socket.close()


run_in_child(_close_ports)


class MetricsServer:
    """Serves metrics and probes in a thread.

    ``/healthz`` is 200 while the process works, so that it is restarted when it does not: no engine hangs or has had a
    problem for a minute, nor has a relay. ``/readyz`` is 200 once an engine runs.

    :param host: the address to listen on.
    :param port: the port; 0: any free one.
    :param registry: the metrics.
    :param statuses: returns the status of the engine and of the relay.
    :param runs_engine: whether there should be an engine.
    :raises ConfigurationError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        statuses: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        runs_engine: bool = True,
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._statuses = statuses
        self._runs_engine = runs_engine
        kind = _ServerV6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, self._answer, server_class=kind, handler_class=_Quiet)
        except OSError as error:
            raise ConfigurationError(
                f"balog_metrics_port = {port}: cannot listen on {host} ({error}): set another port"
            ) from error
        self.port = int(self._server.server_port)
        _servers.add(self._server)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        if path not in ("/healthz", "/readyz"):
            start_response("404 Not Found", list(_PLAIN))
            return [b"/metrics, /healthz and /readyz are here\n"]
        statuses = list(self._statuses())
        if path == "/readyz":
            is_ready = not self._runs_engine or any("topics" in status for status in statuses)
            wrong = [] if is_ready else ["no engine runs yet"]
        else:
            wrong = [problem for status in statuses for problem in problems(status)]
        start_response("503 Service Unavailable" if wrong else "200 OK", list(_PLAIN))
        return [("\n".join(wrong or ["ok"]) + "\n").encode()]
