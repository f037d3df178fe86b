"""The local SQS: moto's server, in threads of the calling process."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import BalogError
from .paths import write_atomically

#: What a boto3 client of the local SQS needs besides the endpoint. Queues of another region are other queues.
DUMMY_CREDENTIALS = {
    "aws_access_key_id": "local",
    "aws_secret_access_key": "local",
    "region_name": "us-east-1",
}


class NoBrowsers:
    """A WSGI application that refuses what web pages of other sites make a browser send to *app*.

    Such a page may guess the port. With a name of its own for this machine it could even read the answers, hence the
    check of the host.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        is_own = environ.get("HTTP_ORIGIN") in (None, f"http://{host}")
        is_foreign = environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin")
        if host.partition(":")[0] in ("127.0.0.1", "localhost") and is_own and not is_foreign:
            return self._app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"The local SQS is for programs on this machine, not for web pages."]


def serve_sqs(port_file: Path, timeout: float) -> str:
    """Serve SQS, and return its endpoint once it answers.

    :param port_file: keeps the port, so that the next server gets the same one.
    :param timeout: how long the first answer may take, in seconds.
    :raises BalogError: it does not answer.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug import serving

    app = NoBrowsers(DomainDispatcherApplication(create_backend_app))
    host = "127.0.0.1"
    server = serving.make_server(
        host, _previous_port(port_file), app, threaded=True, request_handler=MotoRequestHandler
    )
    threading.Thread(target=server.serve_forever, name="local SQS", daemon=True).start()
    port = server.server_port
    write_atomically(port_file, str(port))
    # The first request is slow, because it loads the service: let it be this one.
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    scope = f"{DUMMY_CREDENTIALS['aws_access_key_id']}/20000101/{DUMMY_CREDENTIALS['region_name']}/sqs/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "AmazonSQS.ListQueues",
    }
    with contextlib.closing(connection):
        connection.request("POST", "/", "{}", headers)
        response = connection.getresponse()
        if response.status != 200:
            raise BalogError(f"the local SQS answered {response.status}: {response.read(500)!r}")
    return f"http://{host}:{port}"


def _previous_port(port_file: Path) -> int:
    """Return the previous port if it is free, so that noted URLs stay valid; else 0."""
    try:
        port = int(port_file.read_text())
        with socket.create_server(("127.0.0.1", port)):
            return port
    except (OSError, ValueError, OverflowError):
        return 0
