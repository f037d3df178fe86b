"""A project with an outbox, on Django or on SQLAlchemy, whose writers and relays are real processes."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
from project import CELERY

import servers

#: What a writer's transaction does: takes the next number of a group under a lock, notes the event for the test, and
#: writes it into the outbox. Some transactions are rolled back, and some stay open for a while.
WRITER = """
import random, time

while True:
    group = random.choice(["a", "b", "c", ""])
    try:
        with transaction() as execute:
            number = execute("UPDATE counters SET n = n + 1 WHERE name = %s RETURNING n", (group,))
            payload = {"cls_type": "counted", "group": group, "number": number}
            topic = FIFO if group else STANDARD
            event_id = send(payload, topic=topic, group=group or None)
            execute("INSERT INTO noted VALUES (%s, %s, %s) RETURNING n", (event_id, group, number))
            time.sleep(random.choice([0, 0, 0, 0.01]))
            if random.random() < 0.3:
                raise LookupError("rolled back on purpose")
    except LookupError:
        pass
    except Exception as error:
        print("failed:", error, flush=True)
        time.sleep(0.1)
"""

DJANGO_SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["balog_celery.outbox.django"]
USE_TZ = True
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "NAME": {database!r},
        "USER": {user!r},
        "HOST": "127.0.0.1",
        "PORT": {port},
    }}
}}
"""

DJANGO_APP = """
import os
import django
from celery import Celery
import balog_celery

os.environ["DJANGO_SETTINGS_MODULE"] = "proj_settings"
app = Celery("proj", broker="memory://")
app.config_from_object("django.conf:settings", namespace="CELERY")
balog_celery.install(app, outbox="balog_celery.outbox.django:store")
"""

DJANGO_WRITER = """
import contextlib, os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "proj_settings"
django.setup()
from django.db import connection, transaction as transactions
from balog_celery.outbox.django import send_on_commit as send

@contextlib.contextmanager
def transaction():
    connection.close_if_unusable_or_obsolete()
    with transactions.atomic(), connection.cursor() as cursor:
        def execute(statement, parameters):
            cursor.execute(statement, parameters)
            return cursor.fetchone()[0]
        yield execute
"""

DJANGO_MIGRATE = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "proj_settings"
django.setup()
from django.core.management import call_command
call_command("migrate")
"""

SQLALCHEMY_DB = """
import sqlalchemy as sa
from balog_celery.outbox.sqlalchemy import SQLAlchemyStore, outbox_table

metadata = sa.MetaData()
outbox = outbox_table(metadata)
engine = sa.create_engine({url!r})
store = SQLAlchemyStore(engine, outbox)
"""

SQLALCHEMY_APP = """
from celery import Celery
import balog_celery

app = Celery("proj", broker="memory://")
balog_celery.install(app, outbox="proj_db:store")
"""

SQLALCHEMY_WRITER = """
import contextlib
from functools import partial
from sqlalchemy.orm import Session
from balog_celery.outbox.sqlalchemy import add
from proj_db import engine, outbox

@contextlib.contextmanager
def transaction():
    global send
    with Session(engine) as session, session.begin():
        send = partial(add, session, outbox)
        yield lambda statement, parameters: session.connection().exec_driver_sql(statement, parameters).scalar_one()
"""

SQLALCHEMY_MIGRATE = "from proj_db import engine, metadata; metadata.create_all(engine)"


class OutboxProject:
    """A project with an outbox: its files, its programs, and the events that its writers have committed.

    :param kind: ``"django"`` or ``"sqlalchemy"``.
    :param fifo: the topic of events with a group.
    :param standard: the topic of the others.
    """

    def __init__(
        self, folder: Path, kind: str, postgresql: servers.PostgreSQL, database: str, fifo: str, standard: str
    ) -> None:
        self._folder = folder
        self._url = postgresql.url(database=database)
        topics = f"FIFO, STANDARD = {fifo!r}, {standard!r}\n"
        if kind == "django":
            settings = DJANGO_SETTINGS.format(database=database, user=postgresql.USER, port=postgresql.port)
            files = {"proj_settings": settings, "proj": DJANGO_APP, "writer": DJANGO_WRITER, "migrate": DJANGO_MIGRATE}
        else:
            db = SQLALCHEMY_DB.format(url=postgresql.url("postgresql+psycopg", database))
            files = {"proj_db": db, "proj": SQLALCHEMY_APP, "writer": SQLALCHEMY_WRITER, "migrate": SQLALCHEMY_MIGRATE}
        files["writer"] += topics + WRITER
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        with self.program("migrate") as migrate:
            assert migrate.wait() == 0, migrate.output
        with psycopg.connect(self._url) as connection:
            connection.execute("CREATE TABLE counters (name text PRIMARY KEY, n integer NOT NULL)")
            connection.execute("CREATE TABLE noted (event_id text PRIMARY KEY, name text NOT NULL, n integer NOT NULL)")
            connection.execute("INSERT INTO counters VALUES ('a', 0), ('b', 0), ('c', 0), ('', 0)")

    def program(self, name: str) -> servers.Program:
        """A script of the project, not started."""
        return servers.Program([CELERY[0], f"{name}.py"], cwd=self._folder, name=name)

    def relay(self, sqs: servers.Sqs, metrics_port: int | None = None) -> servers.Program:
        """Return a relay that is not started."""
        argv = [*CELERY[: CELERY.index("-A")], "-A", "proj", "balog", "outbox", "--interval", "0.05"]
        self._install(metrics_port=metrics_port)
        return servers.Program(argv, cwd=self._folder, env=sqs.env, name="relay")

    def health(self, sqs: servers.Sqs) -> servers.Program:
        """Return a health check of relays that is not started."""
        argv = [*CELERY[: CELERY.index("-A")], "-A", "proj", "balog", "health", "--outbox"]
        return servers.Program(argv, cwd=self._folder, env=sqs.env, name="health")

    def _install(self, **settings: object) -> None:
        """Give the app more settings."""
        given = "".join(f"{name}={value!r}, " for name, value in settings.items() if value is not None)
        app = (self._folder / "proj.py").read_text()
        (self._folder / "proj.py").write_text(app.replace("outbox=", f"{given}outbox="))

    def worker(self, sqs: servers.Sqs, broker: str, metrics_port: int) -> servers.Program:
        """A worker that runs a relay beside it, not started."""
        self._install(metrics_port=metrics_port, outbox_relay=True)
        app = (self._folder / "proj.py").read_text().replace('"memory://"', repr(broker))
        (self._folder / "proj.py").write_text(app)
        argv = [*CELERY[: CELERY.index("-A")], "-A", "proj", "worker", "--no-engine", "-c", "1", "-l", "INFO"]
        return servers.Program(argv, cwd=self._folder, env=sqs.env, name="worker")

    def committed(self) -> dict[str, tuple[str, int]]:
        """The group and the number of each event that was committed, by its id."""
        with psycopg.connect(self._url) as connection:
            return {row[0]: (row[1], row[2]) for row in connection.execute("SELECT * FROM noted")}

    def waiting(self) -> int:
        """How many rows are in the outbox."""
        with psycopg.connect(self._url) as connection:
            (count,) = connection.execute("SELECT count(*) FROM balog_outbox").fetchone() or (0,)
            return int(count)


def drain(client: Any, topic: str) -> list[dict[str, Any]]:
    """Receive and delete the records of a queue, and return them in SQS's order."""
    url = client.get_queue_url(QueueName=topic)["QueueUrl"]
    found: list[dict[str, Any]] = []
    while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"):
        found += [json.loads(message["Body"]) for message in messages]
        entries = [{"Id": str(index), "ReceiptHandle": one["ReceiptHandle"]} for index, one in enumerate(messages)]
        client.delete_message_batch(QueueUrl=url, Entries=entries)
    return found


def numbers_by_group(records: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of the events of each group, in the order of *records*."""
    groups: dict[str, list[int]] = defaultdict(list)
    for record in records:
        groups[record["payload"]["group"]].append(record["payload"]["number"])
    return groups
