"""The pages on the outbox and on contracts, followed step by step."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from documents import ROOT, Shell, code_blocks, commands
from outbox_project import drain

import servers

pytestmark = pytest.mark.timeout(300)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def block(name: str, containing: str) -> str:
    """The first Python block of a page that has this text."""
    return next(text for text in code_blocks(page(name), "python") if containing in text)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def orders(sqs: servers.Sqs, count: int) -> list[int]:
    """The orders of the events in the queue, once there are *count*."""
    with closing(sqs.client()) as client:
        found: list[int] = []
        while len(found) < count:
            found += [record["payload"]["order"] for record in drain(client, "shop-orders")]
        return sorted(found)


DJANGO_SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "NAME": {database!r},
        "USER": {user!r},
        "HOST": "127.0.0.1",
        "PORT": {port},
    }},
    "archive": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "archive.sqlite3"}},
}}
CELERY_BROKER_URL = "memory://"
"""

PLACE = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
django.setup()
from django.db import transaction
from balog_celery.outbox.django import send_on_commit
from balog_celery.outbox.django.models import OutboxMessage
from orders.services import place_order

place_order(1041)
try:
    with transaction.atomic():
        place_order(1042)
        raise LookupError
except LookupError:
    pass

# The transaction of another alias, whatever its database.
with transaction.atomic(using="archive"):
    send_on_commit({"cls_type": "order-placed", "order": 1}, topic="shop-orders", using="archive")
try:
    with transaction.atomic(using="archive"):
        send_on_commit({"cls_type": "order-placed", "order": 2}, topic="shop-orders", using="archive")
        raise LookupError
except LookupError:
    pass
print("archived", OutboxMessage.objects.using("archive").count())
"""

MODELS = """
from django.db import models

class Order(models.Model):
    number = models.IntegerField(unique=True)
"""

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def test_the_outbox_of_a_django_project(
    tmp_path: Path, sqs: servers.Sqs, postgresql: servers.PostgreSQL, database: str
) -> None:
    """The guide's Django outbox is migrated, written in transactions, and relayed.

    Its model needs no further migration.
    """
    with closing(sqs.client()) as client:
        client.create_queue(QueueName="shop-orders")
    adopted = next(text for text in code_blocks(page("adopt.md"), "python") if "autodiscover_tasks" in text)
    settings = DJANGO_SETTINGS.format(database=database, user=postgresql.USER, port=postgresql.port)
    files = {
        "proj/__init__.py": "from .celery import app\n",
        "proj/celery.py": adopted.replace('packages=["orders.events"]', ""),
        "proj/settings.py": settings + block("outbox.md", "INSTALLED_APPS"),
        "orders/__init__.py": "",
        "orders/models.py": MODELS,
        "orders/services.py": block("outbox.md", "send_on_commit({"),
        "manage.py": MANAGE,
        "place.py": PLACE,
    }
    write(tmp_path, files)
    relay = next(line for line in commands(page("outbox.md")) if line.startswith("celery -A proj"))
    with Shell(tmp_path, sqs.env) as shell:
        shell.run("python manage.py makemigrations orders")
        assert "No changes detected" in shell.run("python manage.py makemigrations balog_outbox --check")
        shell.run("python manage.py migrate")
        shell.run("python manage.py migrate --database archive")
        assert "archived 1" in shell.run("python place.py")
        relaying = shell.start(relay, ready="outbox relay started")
        assert orders(sqs, 1) == [1041]
        relaying.signal(15)
        assert relaying.wait() == 0


SQLALCHEMY_PLACE = """
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from shop.db import Base, engine
from shop import orders, async_orders

Base.metadata.create_all(engine)
orders.place_order(1041)
try:
    orders.place_order(1041)
except Exception as error:
    print("refused", type(error).__name__)

async def main():
    async_engine = create_async_engine(engine.url)
    await async_orders.place_order(async_engine, 1043)
    await async_engine.dispose()

asyncio.run(main())
"""


def test_the_outbox_of_an_sqlalchemy_application(
    tmp_path: Path, sqs: servers.Sqs, postgresql: servers.PostgreSQL, database: str
) -> None:
    """The guide's SQLAlchemy outbox is written in both kinds of session and relayed.

    Failed rows are listed, retried, dropped.
    """
    with closing(sqs.client()) as client:
        client.create_queue(QueueName="shop-orders")
    address = postgresql.url("postgresql+psycopg", database)
    files = {
        "shop/__init__.py": "",
        "shop/db.py": block("outbox.md", "outbox_table(").replace(
            "postgresql+psycopg://shop@db.internal/shop", address
        ),
        "shop/orders.py": block("outbox.md", "import Session"),
        "shop/async_orders.py": block("outbox.md", "import AsyncSession"),
        "place.py": SQLALCHEMY_PLACE,
        "celeryconfig.py": 'broker_url = "memory://"\n' + block("outbox.md", "balog_outbox ="),
    }
    write(tmp_path, files)
    (relay,) = re.findall(r"`(celery -A balog_celery balog outbox)`", page("outbox.md"))
    (count,) = [line.strip() for line in page("outbox.md").splitlines() if line.startswith("    SELECT topic")]
    with Shell(tmp_path, sqs.env) as shell, psycopg.connect(postgresql.url(database=database)) as connection:
        assert "refused IntegrityError" in shell.run("python place.py")
        assert [(row[0], row[1]) for row in connection.execute(count)] == [("shop-orders", 2)]
        connection.commit()
        shell.start(relay, ready="outbox relay started")
        assert orders(sqs, 2) == [1041, 1043]
        connection.execute(
            "INSERT INTO balog_outbox (topic, message_group, deduplication_id, body, attributes, failed_at, reason) "
            "SELECT 'nowhere', '', 'd', '{}', '{}', now(), 'too odd' FROM generate_series(1, 3)"
        )
        connection.commit()
        failed = json.loads(shell.run(f"{relay} failed --json"))
        assert [(row["topic"], row["reason"]) for row in failed] == [("nowhere", "too odd")] * 3
        assert "too odd" in shell.run(f"{relay} failed")
        assert "retried 1 row" in shell.run(f"{relay} retry {failed[0]['id']}")
        assert json.loads(shell.run(f"{relay} drop --all --json")) == {"dropped": 2}
        assert [row[0] for row in connection.execute("SELECT id FROM balog_outbox")] == [failed[0]["id"]]


def test_the_contract_of_an_application(tmp_path: Path) -> None:
    """The guide's contract is written, and its breaking changes are named as the page shows."""
    declared = block("contracts.md", "@produces")
    files = {
        "shop/__init__.py": "",
        "shop/orders.py": declared.replace("order: int", "order: int | str"),
        "shop/operator.py": block("adopt.md", "ShopOperator"),
        "celeryconfig.py": 'balog_packages = ["shop"]\nbalog_operator = "shop.operator:operator"\n',
    }
    write(tmp_path, files)
    export, check, *_ = [line.replace("proj", "balog_celery") for line in commands(page("contracts.md"))]
    with Shell(tmp_path) as shell:
        shell.run(export)
        document = json.loads((tmp_path / "contract" / "asyncapi.json").read_text())
        assert "shop-orders-prod" in document["channels"]
        assert (tmp_path / "contract" / "order-placed.schema.json").exists()
        assert "no change breaks consumers" in shell.run(check)
        changed = declared.replace("note: str | None = None", "customer: str")
        (tmp_path / "shop" / "orders.py").write_text(changed)
        program = shell.start(check)
        assert program.wait() == 1
        assert sorted(program.output.splitlines()) == sorted(
            line.strip() for line in page("contracts.md").splitlines() if line.startswith("    order-placed: ")
        )
