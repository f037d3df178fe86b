"""Errors in the configuration: one line that names the problem, and exit code 78."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

APP = """
import os
import celery, balog_celery
app = celery.Celery("proj", broker=os.environ.get("BROKER", "memory://"))
app.conf.balog_status_dir = "status"
{settings}
balog_celery.install(app, packages=["events"], region="us-east-1")
"""

EVENTS = """
from balog_celery.consumers import consumer_config

@consumer_config("orders", name="book")
def book(event): ...
"""

#: What is wrong, in the app's settings or in a scanned module, and what the line must name.
WRONG = {
    "unknown setting": ("app.conf.balog_regon = 'eu'", EVENTS, ("balog_regon", "did you mean balog_region")),
    "bad value": ("app.conf.balog_pollers = 0", EVENTS, ("balog_pollers", "0")),
    "unknown decoder": ("app.conf.balog_decoders = {'orders': 's33'}", EVENTS, ("balog_decoders", "'s33'", "'s3'")),
    "decoder of no topic": ("app.conf.balog_decoders = {'order': 's3'}", EVENTS, ("'order'", "'orders'")),
    "handler": ("app.conf.balog_default_event_handler = 'nope:f'", EVENTS, ("balog_default_event_handler", "'nope:f'")),
    "missing module": ("", "import nosuchmodule", ("'events'", "events.py, line 1", "nosuchmodule")),
    "exit": ("", "import sys\nsys.exit(3)", ("'events'", "events.py, line 2", "SystemExit: 3")),
    "syntax": ("", "x = 1\ndef (:", ("'events'", "events.py, line 2", "SyntaxError")),
    "decorator": ("", EVENTS.replace("name=", "rate_limt="), ("events.py, line 4", "rate_limt")),
    "transport": ("app.conf.broker_url = 'reddis://h'", EVENTS, ("broker_url", "'reddis://h'", "'redis'")),
    "operator raises": (
        "open('op.py', 'w').write('class Op:\\n    def __init__(self): raise KeyError(4)')\n"
        "app.conf.balog_operator = 'op:Op'",
        EVENTS,
        ("balog_operator", "op.py, line 2", "KeyError: 4"),
    ),
    "middleware raises": (
        "open('mw.py', 'w').write('1 / 0'); app.conf.balog_middleware = 'mw:f'",
        EVENTS,
        ("balog_middleware", "'mw:f'", "mw.py, line 1", "ZeroDivisionError"),
    ),
    "decoder raises": (
        "open('dec.py', 'w').write('1 / 0'); app.conf.balog_decoders = {'orders': 'dec:f'}",
        EVENTS,
        ("balog_decoders", "'dec:f'", "dec.py, line 1", "ZeroDivisionError"),
    ),
    "Redis of once": (
        "app.conf.balog_once_url = 'redis://:secret@h:port/1'",
        EVENTS.replace("name=", "once=True, name="),
        ("balog_once_url", "redis://:password@host:6379/1"),
    ),
    "status folder": ("app.conf.balog_status_dir = '/dev/null/x'", EVENTS, ("balog_status_dir", "'/dev/null/x'")),
    "outbox": (
        "app.conf.update(balog_outbox_relay=True, balog_outbox='nope:store')",
        EVENTS,
        ("balog_outbox", "'nope:store'"),
    ),
    "metrics": (
        "app.conf.update(balog_metrics_port=9, balog_metrics_host='192.0.2.1')",
        EVENTS,
        ("balog_metrics_port = 9", "192.0.2.1"),
    ),
    "serializer": ("app.conf.accept_content = ['nonsense']", EVENTS, ("accept_content", "'nonsense'")),
    "rate limit": (
        "app.conf.task_annotations = {'*': {'rate_limit': 'fast'}}",
        EVENTS,
        ("events.book", "rate_limit='fast'", "'10/m'"),
    ),
    "backend": ("app.conf.result_backend = 'reddis://h'", EVENTS, ("result_backend", "'reddis://h'")),
    "port of the backend": (
        "app.conf.result_backend = 'redis://:secret@h:port/0'",
        EVENTS,
        ("result_backend", "not a URL"),
    ),
    "endpoint": (
        "app.conf.balog_endpoint_url = 'ftp://h'",
        EVENTS,
        ("balog_endpoint_url", "'ftp://h'", "give one"),
    ),
    "port": ("app.conf.broker_url = 'redis://:secret@h:port/0'", EVENTS, ("broker_url", "port")),
}


#: Those that reach a worker's log in the same way as another one.
SAME_WAY = ("exit", "middleware raises", "decoder raises", "serializer", "rate limit", "port of the backend")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the app and its consumers."""
    return tmp_path


def write(folder: Path, settings: str, events: str) -> None:
    (folder / "proj.py").write_text(APP.format(settings=settings))
    (folder / "events.py").write_text(textwrap.dedent(events))


def run(folder: Path, *command: str, app: str = "proj") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", app, *command],
        cwd=folder, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    print(command, done.stdout, done.stderr)  # shown if the test failed
    return done


def assert_said_once(text: str, names: tuple[str, ...]) -> None:
    """Check that one line has all *names*, without frames of Celery, click or this package."""
    assert len([line for line in text.splitlines() if all(name in line for name in names)]) == 1
    assert "Traceback" not in text
    assert not [line for line in text.splitlines() if line.startswith("  File") and "site-packages" in line]
    assert "secret" not in text


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        *(("worker", wrong) for wrong in WRONG if wrong not in SAME_WAY),
        *(("balog engine", wrong) for wrong in ("unknown decoder", "missing module", "port", "status folder")),
        ("balog outbox", "outbox"),
    ],
)
def test_a_program_that_cannot_start_says_why_in_its_log(folder: Path, command: str, wrong: str) -> None:
    """Given a wrong configuration, when a worker or an engine starts, then its log ends with the reason, once."""
    settings, events, names = WRONG[wrong]
    write(folder, settings, events)
    options = ["-c", "1"] if command == "worker" else []
    done = run(folder, *command.split(), *options, "-l", "INFO", "-f", "%n%I.log")
    assert done.returncode == 78
    assert_said_once(done.stderr, names)
    log = folder / {"worker": "celery.log", "balog engine": "engine.log", "balog outbox": "outbox.log"}[command]
    assert_said_once(log.read_text(), names)
    last = log.read_text().splitlines()[-1]
    assert "CRITICAL" in last
    assert "cannot start" in last
    assert names[0] in last


def test_a_pool_of_greenlets_refuses_what_is_async(folder: Path) -> None:
    """Events would die where two meet; a consumer whose queue the worker does not serve is another worker's."""
    there = EVENTS.replace("def book", "async def book").replace('"book"', '"book", queue="there"')
    write(folder, "", f"{EVENTS.replace('def', 'async def').replace('book', 'call')}\n{there}")
    done = run(folder, "worker", "-P", "gevent", "-Q", "celery")
    assert done.returncode == 78
    assert_said_once(done.stderr, ("a pool of greenlets cannot run events.call, which", "-P prefork", "queue="))


@pytest.mark.parametrize("wrong", ["unknown setting", "missing module", "transport", "endpoint"])
def test_without_a_log_file_the_line_is_printed_once(folder: Path, wrong: str) -> None:
    """Without a log file the line is printed once, in the log's format."""
    settings, events, names = WRONG[wrong]
    write(folder, settings, events)
    done = run(folder, "worker", "-c", "1")
    assert done.returncode == 78
    assert_said_once(done.stdout + done.stderr, names)


def test_an_import_error_shows_the_last_frames_of_the_users_code(folder: Path) -> None:
    """An import error shows the last frames of the user's code once, without those of the scan."""
    write(folder, "", "def load():\n    import nosuchmodule\nload()")
    done = run(folder, "balog", "consumers")
    assert done.returncode == 78
    assert done.stderr.count("import nosuchmodule") == 1
    assert done.stderr.count('events.py", line') == 2
    assert "venusian" not in done.stderr


@pytest.mark.parametrize("wrong", WRONG)
def test_check_reports_what_the_engine_would_refuse(folder: Path, wrong: str) -> None:
    """`balog check` reports as FAIL what the engine would refuse at start."""
    settings, events, names = WRONG[wrong]
    write(folder, settings, events)
    done = run(folder, "balog", "check")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if all(name in line for name in names)]
    assert lines
    assert all(line.startswith("FAIL") for line in lines)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        *((command, wrong) for command in ("consumers", "tail orders") for wrong in ("missing module", "transport")),
        ("up", "missing module"),
    ],
)
def test_other_commands_end_with_the_same_line(folder: Path, command: str, wrong: str) -> None:
    """Other commands end with the same line and exit code."""
    settings, events, names = WRONG[wrong]
    write(folder, settings, events)
    done = run(folder, "balog", *command.split())
    assert done.returncode == 78
    assert_said_once(done.stderr, names)


def test_an_argument_of_install_is_told_as_a_setting_is(folder: Path) -> None:
    """Celery would print why the app cannot be imported, with all attempts to find it."""
    write(folder, "", EVENTS)
    app = folder / "proj.py"
    app.write_text(app.read_text().replace("region=", "regon="))
    done = run(folder, "worker", "-c", "1", "-f", "w.log")
    assert done.returncode == 78
    names = ("unknown setting balog_regon", "did you mean balog_region")
    assert_said_once(done.stderr, names)
    assert_said_once((folder / "w.log").read_text(), names)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = 1\ny = = 2", ("celeryconfig.py, line 2", "SyntaxError")),
        ("def url():\n    import nosuchmodule\nurl()", ("celeryconfig.py, line 2", "nosuchmodule")),
    ],
)
def test_a_celeryconfig_that_cannot_be_imported_is_one_line(folder: Path, source: str, names: tuple[str, ...]) -> None:
    """With the file and the line, for every command; also in the log file of a program that would start."""
    (folder / "celeryconfig.py").write_text(source)
    done = run(folder, "balog", "consumers", app="balog_celery")
    assert done.returncode == 78
    assert_said_once(done.stderr, names)
    done = run(folder, "worker", "-Ofair", "-c", "1", "--logfile=%n.log", app="balog_celery")
    assert done.returncode == 78
    assert_said_once(done.stderr, names)
    (log,) = folder.glob("*.log")
    assert log.name == "celery.log"
    assert_said_once(log.read_text(), ("CRITICAL", "the worker cannot start", *names))
