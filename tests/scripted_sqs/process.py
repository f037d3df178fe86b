"""Runs the scripted SQS in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import servers


class ScriptedSqs(servers.Server):
    """The scripted SQS in a process of its own. What is in it lives in its memory.

    :param arguments: of ``python -m scripted_sqs``.
    """

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.port, self.clean_port = servers.free_port(), servers.free_port()
        self._arguments = arguments

    @property
    def endpoint_url(self) -> str:
        """The endpoint whose calls may fail."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str | None]:
        """The environment variables by which boto3 finds it."""
        return {**servers.AWS_ENV, "AWS_ENDPOINT_URL_SQS": self.endpoint_url}

    def get(self, path: str, body: Any = None) -> Any:
        """Ask its control side; see ``scripted_sqs/__main__.py`` for the paths."""
        return self._ask(path, {}, body)

    def call(self, action: str, **asked: Any) -> Any:
        """Make a call of the SQS API that no fault befalls."""
        return self._ask("/", {"X-Amz-Target": f"AmazonSQS.{action}"}, asked)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/faults") is not None
        return False

    def _ask(self, path: str, headers: Mapping[str, str], body: Any) -> Any:
        url = f"http://127.0.0.1:{self.clean_port}{path}"
        content = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, content, dict(headers)), timeout=120) as response:
            return json.load(response)

    def _program(self) -> servers.Program:
        argv = [sys.executable, "-m", "scripted_sqs", "--port", self.port, "--clean-port", self.clean_port]
        env = {"PYTHONPATH": str(Path(__file__).parents[1])}
        return servers.Program([str(arg) for arg in (*argv, *self._arguments)], env=env, name="scripted_sqs")
