"""The documentation's quick start, page on testing and page on Django, followed step by step."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from documents import ROOT, Shell, code_blocks, commands

import servers
from sample_events import event_text

pytestmark = pytest.mark.timeout(300)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def block(name: str, containing: str) -> str:
    """The first Python block of a page that has this text."""
    return next(text for text in code_blocks(page(name), "python") if containing in text)


def test_the_quick_start(tmp_path: Path) -> None:
    """The files and commands of the quick start work, in order, on a machine without configuration."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "events.py").write_text(block("index.md", "book_order"))
    (tmp_path / "celeryconfig.py").write_text(block("index.md", "balog_packages"))
    (tmp_path / "produce.py").write_text(block("index.md", "shop.web"))
    install, work, produce, send = commands(page("index.md"))
    assert install == "pip install 'balog_celery[local]'"
    with Shell(tmp_path) as shell:
        worker = shell.start(f"{work} -c 1", ready="engine started")
        shell.run(produce)
        shell.run(send)
        worker.wait_for("order 1041", 60)


def test_the_page_on_tests(tmp_path: Path) -> None:
    """The tests that the page on testing shows pass, with a consumer that fits them."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    consumer = re.sub(r"    print\(.*", '    ask_the_bank(event["payload"]["order"])', block("index.md", "book_order"))
    (tmp_path / "shop" / "events.py").write_text(consumer + "\n\ndef ask_the_bank(order):\n    pass\n")
    producers, consumers, plugin = code_blocks(page("testing.md"), "python")
    (tmp_path / "test_producers.py").write_text(producers)
    (tmp_path / "test_consumers.py").write_text(consumers)
    (tmp_path / "conftest.py").write_text(plugin)
    with Shell(tmp_path) as shell:
        assert "3 passed" in shell.run("python -m pytest -p no:cacheprovider")


MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["orders"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
"""

MODELS = """
from django.db import models

class Order(models.Model):
    number = models.IntegerField(unique=True)
"""


def test_the_page_on_django(tmp_path: Path, sqs: servers.Sqs, broker: servers.Valkey) -> None:
    """The worker of the guide's Django project writes an order into its database and uses its settings."""
    pytest.importorskip("django")
    settings = block("adopt.md", "CELERY_BALOG_REGION").replace("redis://redis.internal:6379/0", broker.url)
    files = {
        "proj/__init__.py": "from .celery import app\n",
        "proj/celery.py": block("adopt.md", "autodiscover_tasks"),
        "proj/settings.py": SETTINGS + settings + "CELERY_BALOG_WAIT_TIME = 1\n" + block("adopt.md", "LOGGING = {"),
        "orders/__init__.py": "",
        "orders/models.py": MODELS,
        "orders/events.py": block("adopt.md", "from orders.models"),
        "manage.py": MANAGE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with closing(sqs.client(region="eu-west-1")) as client:
        url = client.create_queue(QueueName="shop-orders")["QueueUrl"]
        client.create_queue(QueueName="shop-orders-dead")
        client.send_message(QueueUrl=url, MessageBody=event_text("e", "order-placed", order=1041))
        # The environment's region is another: the project's own settings say which.
        with Shell(tmp_path, {**sqs.env, "AWS_DEFAULT_REGION": "us-west-2"}) as shell:
            shell.run("python manage.py makemigrations orders")
            shell.run("python manage.py migrate")
            worker = shell.start("celery -A proj worker -l INFO -c 1", ready="engine started")
            worker.wait_for("succeeded in", 60)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        assert database.execute("SELECT number FROM orders_order").fetchall() == [(1041,)]


def test_the_page_on_flask(tmp_path: Path, sqs: servers.Sqs, broker: servers.Valkey) -> None:
    """The consumer of the guide's Flask project runs in the application's context."""
    pytest.importorskip("flask")
    (tmp_path / "shop").mkdir()
    application = block("adopt.md", "FlaskTask").replace("redis://redis.internal:6379/0", broker.url)
    (tmp_path / "shop" / "__init__.py").write_text(application + "app.conf.balog_wait_time = 1\n")
    (tmp_path / "shop" / "events.py").write_text(block("adopt.md", "current_app"))
    with closing(sqs.client()) as client:
        url = client.create_queue(QueueName="shop-orders")["QueueUrl"]
        client.create_queue(QueueName="shop-orders-dead")
        client.send_message(QueueUrl=url, MessageBody=event_text("e", "order-placed", order=1041))
    with Shell(tmp_path, sqs.env) as shell:
        worker = shell.start("celery -A shop worker -l INFO -c 1", ready="engine started")
        worker.wait_for("thank you for order 1041", 60)
