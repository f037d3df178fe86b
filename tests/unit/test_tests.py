"""Tests look from outside: where they read private names or replace internals is listed here, and only shrinks."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: What the documentation of named tuples and of ``os`` says of names that begin with an underscore.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace"}
#: Contract tests are about private names; the doubles are read by nobody else.
EXEMPT = ("contract", "scripted_sqs/", "unit/celery_compat/")

#: Private names that tests read, with the number of reads, by the reason why behaviour does not show it.
PRIVATE_READS = {
    "a process has one of them, and a test must not leave its own behind": {
        "_state._tls": 2,
        "clients.clients._clients": 1,
        "connections._local": 3,
    },
    "another library's: its condition comes about in a process that dies or is forked only": {
        "HookedRequest.__base__._retry_worker_lost": 1,
        "cancelled._already_cancelled": 1,
        "one._store": 1,
        "server._server": 1,
    },
    "a connection whose state decides what is sent, before it is sent": {
        "calls._idle": 2,
        "queue._session": 2,
    },
    "what another process or broker would call": {
        "app.balog._routes": 1,
        "app.balog.engine()._dispatcher": 1,
        "channel._size": 1,
        "limits._start": 3,
        "marks._begin": 1,
        "tail._on_event": 1,
    },
}
#: What tests replace, with the number of times, by the reason why no double outside can act it.
REPLACED = {
    "a time or a size that a test cannot wait for or hold": {
        "Backoff.failed": 5,
        "Path.mkdir": 1,
        "back_pressure.INTERVAL": 4,
        "back_pressure.SERVED_INTERVAL": 1,
        "balog_celery.backoff.Backoff.failed": 1,
        "balog_celery.brokers.kombu_queue.TIMEOUT": 1,
        "balog_celery.cli.native._SAMPLE": 1,
        "balog_celery.dead_letters.scan._WAIT": 1,
        "balog_celery.dispatch.back_pressure.INTERVAL": 3,
        "balog_celery.dispatch.back_pressure.SERVED_INTERVAL": 2,
        "balog_celery.dispatch.hand_off_engine.MAX_BYTES": 1,
        "balog_celery.dispatch.hand_off_engine._SILENT_AFTER": 1,
        "balog_celery.engine.message_groups.MAX_HELD": 1,
        "balog_celery.engine.poller.MAX_PENDING": 1,
        "balog_celery.sqs.direct.RECEIVE_MARGIN": 1,
        "botocore.retries.standard.ExponentialBackoff.delay_amount": 6,
        "module.LARGEST": 1,
        "connections.SLOWEST": 1,
        "child.time": 1,
        "connections.time": 1,
        "exchange.time": 1,
        "direct.ANSWER_TIMEOUT": 1,
        "consumer.timer.call_after": 1,
        "idempotency.EXPIRES_AFTER": 2,
        "poller.MAX_WAITING": 1,
        "sender.Backoff": 2,
        "store_module.MAX_TRANSACTION": 1,
        "time.monotonic": 1,
        "time.sleep": 1,
        "visibility_module.CAPACITY": 1,
    },
    "a process has one of them, and a test must not leave its own behind": {
        "_state._tls.current_app": 1,
        "_state.default_app": 1,
        "clients.clients._clients": 1,
        "connections._local.key": 3,
        "lineage._consumed": 1,
        "tempfile.tempdir": 2,
        "state.should_terminate": 1,
    },
    "the second of two ways to do the same, which is chosen by what is installed or measured": {
        "clients.needs_client": 6,
        "balog_celery.sqs.clients.needs_client": 1,
        "importlib.util.find_spec": 2,
        "local_stack.valkey_binary": 1,
        "payload_check.plain_payload": 1,
    },
    "a broker, backend or library that fails in a way that no server fails on demand": {
        "ConsumerTask.apply_async": 2,
        "EventRequest.send_event": 2,
        "Publisher.publish": 1,
        "SQSQueue.start_delete": 2,
        "Task.apply_async": 1,
        "app.control.inspect": 2,
        "botocore.session.Session.get_credentials": 1,
        "kombu.transport.redis.QoS.append": 1,
        "memory.Transport.implements": 1,
        "project.app.backend.<record>": 2,
        "project.app.backend.mark_as_done": 1,
        "project.app.backend.mark_as_failure": 1,
        "publish.envelope": 1,
        "Path.lstat": 1,
        "queue.exists": 1,
        "socket.getaddrinfo": 1,
        "type(bury).apply_async": 3,
        "type(project.app.tasks['balog_celery.bury']).apply_async": 1,
        "type(project.task).apply_async": 1,
    },
    "where a command or a handler gets its queue, its process or its answer": {
        "Integration.connect": 3,
        "Integration.local": 1,
        "Integration.topics": 1,
        "balog_celery.cli.check.checks": 1,
        "balog_celery.cli.tail.Tail": 1,
        "balog_celery.worker.child.stop_warmly": 1,
        "commands.celery_command": 2,
        "click.confirm": 1,
        "consumers.shipped": 1,
        "hashlib.md5": 1,
        "messages.find": 2,
        "os.geteuid": 1,
        "sending.queue_of": 2,
        "subprocess.Popen": 2,
    },
    "a class's own hook or option, as a user's subclass would set it": {
        "handler.format": 1,
        "type(project.task).<hook>": 2,
        "type(project.task).acks_late": 1,
        "type(project.task).ignore_result": 1,
        "type(project.task).retry_on_worker_lost": 1,
        "type(task).fifo": 1,
    },
    "a fault inside the package, which no input is known to cause": {
        "Buffer.take": 1,
        "Decoded.messages": 1,
        "Delivery.__setattr__": 1,
    },
}


def _files() -> list[Path]:
    return [
        path
        for path in sorted(TESTS.rglob("*.py"))
        if not any(part in path.relative_to(TESTS).as_posix() for part in EXEMPT)
    ]


def private_reads(tree: ast.AST) -> Iterator[str]:
    """Yield the private attributes that code reads of anything but ``self`` and ``cls``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr in DOCUMENTED:
            continue
        owner = ast.unparse(node.value)
        if node.attr.startswith("_") and not node.attr.startswith("__") and owner not in ("self", "cls", "super()"):
            yield f"{owner}.{node.attr}"


def replaced(tree: ast.AST) -> Iterator[str]:
    """Yield what code replaces with pytest's ``monkeypatch``, by its dotted name or its owner."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            first, second = node.args[:2]
            if isinstance(first, ast.Constant):
                yield str(first.value)
            else:
                name = second.value if isinstance(second, ast.Constant) else f"<{ast.unparse(second)}>"
                yield f"{ast.unparse(first)}.{name}"


@pytest.mark.parametrize(
    ("find", "listed"),
    [(private_reads, PRIVATE_READS), (replaced, REPLACED)],
    ids=["private names", "replaced internals"],
)
def test_no_test_looks_inside_more_than_it_must(
    find: Callable[[ast.AST], Iterator[str]], listed: dict[str, dict[str, int]]
) -> None:
    """A new look inside fails, and one that is no longer needed must leave the list."""
    found = Counter(name for path in _files() for name in find(ast.parse(path.read_text())))
    assert found == Counter({name: count for names in listed.values() for name, count in names.items()})


@pytest.mark.parametrize(
    ("code", "reads"),
    [("a._b", ["a._b"]), ("self._b", []), ("a._replace(b=1)", []), ("a.__class__", []), ("a.b._c.d", ["a.b._c"])],
)
def test_a_private_read_is_found(code: str, reads: list[str]) -> None:
    """The rule sees attributes of others at any depth, and lets documented names pass."""
    assert list(private_reads(ast.parse(code))) == reads


def test_a_replacement_is_found() -> None:
    """By its name or by its owner."""
    code = 'monkeypatch.setattr("a.b", 1); patch.setattr(a, "b", 1); print(setattr)'
    assert Counter(replaced(ast.parse(code))) == Counter({"a.b": 2})
