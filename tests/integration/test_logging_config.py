"""SQSHandler under logging.config, which closes all existing handlers, in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Topic

import servers

Run = Callable[[str], str]

BEGIN = """
import gc, logging, logging.config, logging.handlers, os, queue, sys, time
from balog_celery import SQSHandler, flush
TOPIC = os.environ["TOPIC"]
root = logging.getLogger()
root.setLevel(logging.INFO)
"""


@pytest.fixture
def run(tmp_path: Path, topic: Topic, sqs: servers.Sqs) -> Run:
    """Return a function that runs a script, for which any output on standard error is an error."""

    def run(code: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(BEGIN + textwrap.dedent(code))
        env = {**os.environ, **sqs.env, "TOPIC": topic.name}
        done = subprocess.run([sys.executable, str(path)], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


NOTHING = 'logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})'
DJANGO = """
from django.conf import settings
settings.configure(LOGGING={"version": 1, "disable_existing_loggers": False})
import django
django.setup()
"""
FILE = """
open("logging.ini", "w").write('''
[loggers]
keys=root
[handlers]
keys=
[formatters]
keys=
[logger_root]
level=INFO
handlers=
''')
handlers = root.handlers[:]
logging.config.fileConfig("logging.ini", disable_existing_loggers=False)
root.handlers[:] = handlers  # fileConfig, unlike the others, also takes them away
"""
UVICORN = """
import uvicorn
uvicorn.Config("app:app")
"""


@pytest.mark.parametrize("configure", [NOTHING, DJANGO, FILE, UVICORN], ids=["dict", "django", "file", "uvicorn"])
def test_a_handler_that_was_closed_ships_on(run: Run, topic: Topic, configure: str) -> None:
    """A closed handler sends its buffer without delaying the configuration, and opens again."""
    output = run(
        f"""
root.addHandler(SQSHandler(TOPIC, linger=3600, flush_timeout=60))
logging.info("before")
began = time.monotonic()
{configure}
assert time.monotonic() - began < 30, "it waited for the flush"
logging.info("after")
print(root.handlers)
"""
    )
    assert "SQSHandler" in output
    assert topic.left() == 2


def test_configuring_does_not_wait_for_a_send_under_way(run: Run, topic: Topic) -> None:
    """Configuring logging does not wait for a send under way, which may need logging's lock."""
    run(
        """
        root.addHandler(SQSHandler(TOPIC, linger=0, flush_timeout=60))
        for number in range(300):
            logging.info("before")
            began = time.monotonic()
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
            assert time.monotonic() - began < 30
        """
    )
    assert topic.left() == 300


CONFIG = """
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"record": {"()": "balog_celery.SchemaFormatter"}},
    "handlers": {
        "sqs": {"class": "balog_celery.SQSHandler", "topic": TOPIC, "linger": 3600, "formatter": "record"},
        "memory": {"class": "logging.handlers.MemoryHandler", "capacity": 100, "target": "sqs", "level": "WARNING"},
    },
    "root": {"handlers": ["sqs"], "level": "INFO"},
    "loggers": {"memory": {"handlers": ["memory"], "propagate": False}},
}
logging.config.dictConfig(CONFIG)
"""


def test_a_handler_that_a_configuration_makes(run: Run, topic: Topic) -> None:
    """A configuration makes the handler by name, each time a new one; an incremental one finds it."""
    run(
        CONFIG
        + """
for number in range(3):
    logging.info("done")
    logging.getLogger("memory").warning("kept")
    logging.config.dictConfig(CONFIG)
incremental = {"version": 1, "incremental": True, "handlers": {"sqs": {"level": "ERROR"}}}
logging.config.dictConfig(incremental)
logging.info("below the level")
logging.error("done")
"""
    )
    assert topic.left() == 7


@pytest.mark.parametrize("capacity", [3, 300])
def test_what_a_memory_handler_keeps_until_the_end(run: Run, topic: Topic, capacity: int) -> None:
    """What a MemoryHandler of the root logger keeps is shipped at exit, although botocore logs to it meanwhile."""
    run(
        f"""
        memory = {{"class": "logging.handlers.MemoryHandler", "capacity": {capacity}, "target": "sqs"}}
        sqs = {{"class": "balog_celery.SQSHandler", "topic": TOPIC, "linger": 3600, "flush_timeout": 60}}
        root = {{"handlers": ["memory"], "level": "INFO"}}
        logging.config.dictConfig({{"version": 1, "handlers": {{"sqs": sqs, "memory": memory}}, "root": root}})
        for number in range(4):
            logging.info("done")
        """
    )
    assert topic.left() == 4


def test_a_handler_that_only_a_memory_handler_refers_to_ships_at_the_end(run: Run, topic: Topic) -> None:
    """Also where the garbage collector runs after logging has closed the MemoryHandler, which forgets its target."""
    run(
        """
        memory = logging.handlers.MemoryHandler(300, target=SQSHandler(TOPIC, linger=3600, flush_timeout=60))
        close, memory.close = memory.close, lambda: (close(), gc.collect())
        root.addHandler(memory)
        logging.info("done")
        """
    )
    assert topic.left() == 1


ALEMBIC = """
[loggers]
keys = root,sqlalchemy,alembic
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARNING
handlers = console
[logger_sqlalchemy]
level = WARNING
handlers =
qualname = sqlalchemy.engine
[logger_alembic]
level = INFO
handlers =
qualname = alembic
[handler_console]
class = StreamHandler
args = (sys.stdout,)
level = NOTSET
formatter = generic
[formatter_generic]
format = %(levelname)-5.5s [%(name)s] %(message)s
datefmt = %H:%M:%S
"""
SHOP = """
[loggers]
keys = root,shop
[handlers]
keys = sqs
[formatters]
keys =
[logger_root]
handlers =
[logger_shop]
level = INFO
handlers = sqs
qualname = shop
[handler_sqs]
class = balog_celery.SQSHandler
args = ("{topic}",)
kwargs = {"linger": 3600, "flush_timeout": 60}
"""


def test_files_of_a_logging_configuration(run: Run, topic: Topic, tmp_path: Path) -> None:
    """Alembic's file closes a handler and disables its logger, another file makes one; each record is shipped."""
    (tmp_path / "alembic.ini").write_text(ALEMBIC)
    (tmp_path / "shop.ini").write_text(SHOP.replace("{topic}", topic.name))
    run(
        """
        shop = logging.getLogger("shop")
        shop.addHandler(SQSHandler(TOPIC, linger=3600, flush_timeout=60))
        shop.error("before")
        logging.config.fileConfig("alembic.ini")
        shop.error("disabled by fileConfig, as it does by default")
        shop.disabled = False
        shop.error("after")
        for number in range(2):
            logging.config.fileConfig("shop.ini")
            shop.error("of its own file")
        """
    )
    assert topic.left() == 4


AIRFLOW = """
line = {"format": "[%(asctime)s] {%(filename)s:%(lineno)d} %(levelname)s - %(message)s"}
console = {"class": "logging.StreamHandler", "formatter": "airflow", "stream": "ext://sys.stdout", "filters": ["mask"]}
task = {"class": "logging.FileHandler", "formatter": "airflow", "filename": "task.log", "filters": ["mask"]}
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"airflow": line},
    "filters": {"mask": {"()": "logging.Filter"}},
    "handlers": {
        "console": console,
        "task": task,
        "sqs": {"class": "balog_celery.SQSHandler", "topic": TOPIC, "linger": 3600, "flush_timeout": 60},
    },
    "loggers": {"airflow.task": {"handlers": ["task", "sqs"], "level": "INFO", "propagate": False}},
    "root": {"handlers": ["console"], "level": "INFO", "filters": ["mask"]},
}
logger = logging.getLogger("airflow.task")
logging.config.dictConfig(CONFIG)
logger.info("of the parent")
if os.fork() == 0:
    logging.config.dictConfig(CONFIG)
    logger.info("of the task")
    logging.shutdown()
    os._exit(0)
os.wait()
logging.config.dictConfig(CONFIG)
logger.info("of the parent")
"""


def test_a_configuration_of_airflow_s_shape(run: Run, topic: Topic) -> None:
    """Airflow configures again in a forked task, which ends by os._exit after logging.shutdown: all is shipped."""
    run(AIRFLOW)
    assert topic.left() == 3


def test_a_queue_handler_s_listener_ships(run: Run, topic: Topic) -> None:
    """The listener of a QueueHandler ships records from its own thread, all of them before its stop."""
    run(
        """
        records = queue.SimpleQueue()
        root.addHandler(logging.handlers.QueueHandler(records))
        listener = logging.handlers.QueueListener(records, SQSHandler(TOPIC, linger=3600, flush_timeout=60))
        listener.start()
        for number in range(25):
            logging.info("done")
        listener.stop()
        """
    )
    assert topic.left() == 25


def test_logging_s_own_shutdown_sends(run: Run, topic: Topic) -> None:
    """``logging.shutdown`` sends the buffer of a script that then calls os._exit."""
    run(
        """
        root.addHandler(SQSHandler(TOPIC, linger=3600, flush_timeout=60))
        logging.info("done")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
        """
    )
    assert topic.left() == 1
