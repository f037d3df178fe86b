"""The local SQS: moto's server, in threads of the calling process."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
from pathlib import Path

from ..errors import BalogError
from .paths import write_atomically

#: What a boto3 client of the local SQS needs besides the endpoint. Queues of another region are other queues.
DUMMY_CREDENTIALS = {
    "aws_access_key_id": "local",
    "aws_secret_access_key": "local",
    "region_name": "us-east-1",
}


def serve_sqs(port_file: Path, timeout: float) -> str:
    """Serve SQS, and return its endpoint once it answers.

    :param port_file: keeps the port, so that the next server gets the same one.
    :param timeout: how long the first answer may take, in seconds.
    :raises BalogError: it does not answer.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", _previous_port(port_file), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
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
