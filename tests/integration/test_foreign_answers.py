"""No event is lost while something other than SQS answers: a portal, a service mesh, a wrong default host."""

from __future__ import annotations

import http.client
import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from project import CELERY, Project, Topic

import servers
from balog_celery import SQSHandler
from balog_celery.sqs.clients import clients
from sample_events import event_text
from scripted_sqs.raw import serving


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        action = self.headers["X-Amz-Target"].rpartition(".")[2]
        status, content = self.server.instead(action) or self._forward(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _forward(self, body: bytes) -> tuple[int, bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.request("POST", self.path, body, dict(self.headers))
            response = upstream.getresponse()
            return response.status, response.read()
        finally:
            upstream.close()

    def log_message(self, *_: object) -> None: ...


class Proxy(ThreadingHTTPServer):
    """A proxy before an SQS server that answers *action* itself until the test ends that."""

    daemon_threads = True

    def __init__(self, upstream: str, action: str, answers: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = urlsplit(upstream).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.foreign = threading.Event()
        self.foreign.set()
        self.answered = 0
        self._action = action
        self._answers = answers

    def instead(self, action: str) -> tuple[int, bytes] | None:
        """Return the answer to give in the place of SQS; None lets SQS answer."""
        if action != self._action or not self.foreign.is_set():
            return None
        self.answered += 1
        return 200, self._answers[self.answered % len(self._answers)]


@pytest.fixture
def proxy(sqs: servers.Sqs) -> Iterator[Proxy]:
    """A proxy that answers sends with a web page, nothing, an empty object, or half of the true answer."""
    answers = [b"<html>Sign in</html>", b"{}", b"", json.dumps({"Successful": [], "Failed": None}).encode()]
    with serving(Proxy(sqs.endpoint_url, "SendMessageBatch", answers)) as proxy:
        yield proxy
        clients.forget()


def test_a_dead_letter_is_not_lost(proxy: Proxy, project: Project, topic: Topic, sqs: servers.Sqs) -> None:
    """Undecodable bodies and failed events stay in the topic until SQS confirms their dead letters."""
    project.add(f"balog_endpoint_url = {proxy.endpoint!r}\nbalog_visibility_timeout = 3")
    topic.send("not an event", event_text("doomed-1", "doomed"))
    env = {**project.env, **sqs.env}
    with servers.Program([*CELERY, "worker", "-c", "1"], env=env, cwd=project.folder) as worker:
        try:
            servers.wait_until(lambda: proxy.answered >= 8, what="sends that somebody else answers")
            assert topic.dead() == []
            assert topic.left() == 2
            assert " is in " not in worker.output
            proxy.foreign.clear()
            servers.wait_until(lambda: topic.left() == 0, timeout=120, what="an empty topic")
        finally:
            print(worker.output)
        assert "the answer did not come from SQS" in worker.output
    dead = topic.dead()
    assert {letter["reason"] for letter in dead} == {"undecodable", "failed"}
    assert {letter["body"] for letter in dead} == {"not an event", event_text("doomed-1", "doomed")}


def test_a_record_is_not_lost(proxy: Proxy, queue_name: str, topic: Topic) -> None:
    """A record counts as sent once, when SQS confirms it."""
    handler = SQSHandler(queue_name, endpoint_url=proxy.endpoint, linger=0.0)
    handler.handle(logging.LogRecord("app", logging.INFO, __file__, 1, "hello", (), None))
    servers.wait_until(lambda: proxy.answered >= 4, what="sends that somebody else answers")
    assert handler.stats() == {"sent": 0, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 1}
    assert topic.left() == 0
    proxy.foreign.clear()
    assert handler.flush(60)
    handler.close()
    assert handler.stats() == {"sent": 1, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}
    assert topic.left() == 1


@pytest.mark.parametrize("command", [["check"], ["topics"], ["dead", "list"], ["send", "events.jsonl"]], ids=str)
def test_a_command_says_that_something_else_answers(sqs: servers.Sqs, project: Project, command: list[str]) -> None:
    """A command reports in one line that another server answers, and what to check."""
    (project.folder / "events.jsonl").write_text(event_text() + "\n")
    with serving(Proxy(sqs.endpoint_url, "GetQueueUrl", [b"<html>It works!</html>"])) as proxy:
        project.add(f"balog_endpoint_url = {proxy.endpoint!r}")
        argv = [sys.executable, "-m", "celery", "-A", "balog_celery", "balog", *command]
        with servers.Program(argv, env={**project.env, **sqs.env}, cwd=project.folder) as program:
            assert program.wait(60) == 1
            assert "the answer did not come from SQS" in program.output
            assert "Traceback" not in program.output
