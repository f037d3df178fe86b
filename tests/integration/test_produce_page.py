"""The page on producing: every recipe runs, and ends as its host ends it."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, Shell, code_blocks, commands
from project import Topic

import servers

PAGE = (ROOT / "docs" / "produce.md").read_text()


def block(containing: str) -> str:
    """Return the first Python block with this text."""
    return next(text for text in code_blocks(PAGE, "python") if containing in text)


def command(beginning: str, port: int) -> str:
    """Return the command line that begins so, for a free port."""
    return next(line for line in commands(PAGE) if line.startswith(beginning)).replace("8000", str(port))


@pytest.fixture
def shell(tmp_path: Path, sqs: servers.Sqs) -> Iterator[Shell]:
    """A shell in a folder, with the queues of the page."""
    with closing(sqs.client()) as client:
        for name in ("shop-log", "shop-orders"):
            client.create_queue(QueueName=name)
    with Shell(tmp_path, sqs.env) as shell:
        yield shell


def count(sqs: servers.Sqs, name: str) -> int:
    with closing(sqs.client()) as client:
        return Topic.count(client, client.get_queue_url(QueueName=name)["QueueUrl"])


def post(port: int, order: int) -> None:
    """Place an order, once the server listens."""

    def posted() -> Any:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/orders/{order}", method="POST")
            return urllib.request.urlopen(request, timeout=30).status == 200
        except ConnectionError:
            return False
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                return False
            raise

    servers.wait_until(posted, 60, "an answer")


def test_a_script(shell: Shell, tmp_path: Path, sqs: servers.Sqs) -> None:
    """A script's logged and sent events are in the queues."""
    (tmp_path / "script.py").write_text(block("shop.report") + block("send_many"))
    shell.run("python script.py")
    assert (count(sqs, "shop-log"), count(sqs, "shop-orders")) == (1, 26)


def in_lifespan(text: str) -> str:
    """Return the application with its handler made by the lifespan, and with a thread that never ends."""
    handler = [line for line in text.splitlines() if line.startswith("logging.getLogger")]
    lifespan = ["@asynccontextmanager", "async def lifespan(app):", *(f"    {line}" for line in handler), "    yield"]
    begin = ["import threading", "from contextlib import asynccontextmanager"]
    stuck = ["threading.Thread(target=threading.Event().wait).start()"]
    rest = text.replace("\n".join(handler), "").replace("FastAPI()", "FastAPI(lifespan=lifespan)")
    return "\n".join([*begin, *lifespan, *stuck, rest])


@pytest.mark.parametrize(
    ("change", "more", "status"),
    [(str, "", -signal.SIGTERM), (in_lifespan, "", -signal.SIGTERM), (in_lifespan, " --workers 2", 0)],
)
def test_fastapi_under_uvicorn(
    shell: Shell, tmp_path: Path, sqs: servers.Sqs, change: Callable[[str], str], more: str, status: int
) -> None:
    """Under uvicorn no record is lost when SIGTERM follows the last answer; the signal still ends the process."""
    pytest.importorskip("fastapi")
    (tmp_path / "web.py").write_text(change(block("FastAPI")))
    port = servers.free_port()
    server = shell.start(command("uvicorn", port) + more)
    for order in range(3):
        post(port, order)
    server.signal(signal.SIGTERM)
    assert server.wait() == status
    assert (count(sqs, "shop-log"), count(sqs, "shop-orders")) == (3, 3)


def test_uvicorn_that_a_program_runs(shell: Shell, tmp_path: Path, sqs: servers.Sqs) -> None:
    """Under a program that runs uvicorn the records are sent by the handler that uvicorn restores."""
    pytest.importorskip("fastapi")
    port = servers.free_port()
    run = f"import uvicorn\nif __name__ == '__main__':\n    uvicorn.run(app, port={port})\n"
    (tmp_path / "web.py").write_text(block("FastAPI") + run)
    server = shell.start("python web.py")
    post(port, 1)
    server.signal(signal.SIGTERM)
    server.wait()
    assert (count(sqs, "shop-log"), count(sqs, "shop-orders")) == (1, 1)


@pytest.mark.parametrize("more", ["", " --preload", " --worker-class gthread", " --max-requests 1"])
def test_flask_under_gunicorn(shell: Shell, tmp_path: Path, sqs: servers.Sqs, more: str) -> None:
    """Under gunicorn stopped and replaced workers lose no record."""
    pytest.importorskip("gunicorn")
    (tmp_path / "web.py").write_text(block("Flask"))
    port = servers.free_port()
    server = shell.start(command("gunicorn", port) + more)
    for order in range(3):
        post(port, order)
    server.signal(signal.SIGTERM)
    server.wait()
    assert (count(sqs, "shop-log"), count(sqs, "shop-orders")) == (3, 3)


def test_django(shell: Shell, tmp_path: Path, sqs: servers.Sqs) -> None:
    """Django's LOGGING ships records, and an event is sent on commit."""
    pytest.importorskip("django")
    (tmp_path / "settings.py").write_text(
        block('"loggers"') + "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
    )
    script = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from balog_celery import get_logger
get_logger("shop.views").info("seen", payload={"cls_type": "order-seen"})

class Order:
    pk = 1041
    def save(self):
        pass

class Bad(Order):
    def save(self):
        raise ValueError

place(Order())
try:
    place(Bad())
except ValueError:
    pass
"""
    place = block("on_commit")
    (tmp_path / "script.py").write_text(script.replace("\nclass Order", f"\n{place}\n\nclass Order"))
    shell.run("python script.py")
    assert (count(sqs, "shop-log"), count(sqs, "shop-orders")) == (1, 1)


def test_celery(shell: Shell, tmp_path: Path, sqs: servers.Sqs, broker: servers.Valkey) -> None:
    """One line in a Celery app ships its worker's log."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "events.py").write_text(block("caused_by"))
    text = block("ship_logs_to").replace("redis://redis.internal:6379/0", broker.url)
    (tmp_path / "shop" / "celery.py").write_text(text)
    worker = shell.start("celery -A shop worker -l INFO -c 1", ready=" ready.")
    worker.wait_for("engine started")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert count(sqs, "shop-log") >= 2


def test_lambda(shell: Shell, tmp_path: Path, sqs: servers.Sqs) -> None:
    """In Lambda the flush before the freeze sends all records."""
    (tmp_path / "function.py").write_text(block("def handler"))
    (tmp_path / "runtime.py").write_text(
        "import os, signal, function\n"
        "for order in range(2):\n"
        "    function.handler({'order': order}, None)\n"
        "    print('frozen', order, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    runtime = shell.start("python runtime.py", ready="frozen 0")
    assert count(sqs, "shop-log") == 1

    def thawed() -> bool:  # a signal to go on that comes before the one to stop does nothing
        runtime.signal(signal.SIGCONT)
        return "frozen 1" in runtime.output

    servers.wait_until(thawed)
    runtime.signal(signal.SIGKILL)
    runtime.wait()
    assert count(sqs, "shop-log") == 2
