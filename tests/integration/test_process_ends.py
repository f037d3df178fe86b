"""SQSHandler in processes that end in every way: records are in the queue, or their loss is reported."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documents import ROOT
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text

#: What every script begins with. Records linger for longer than any test: only an end sends them.
BEGIN = """
import logging, multiprocessing, os, signal, sys, threading, time
import billiard
from balog_celery import SQSHandler, flush, get_logger

logger = get_logger("app")

def set_up(**more):
    logging.getLogger("app").addHandler(SQSHandler(os.environ["TOPIC"], **{"linger": 3600, **more}))
    logging.getLogger("app").setLevel(logging.INFO)

def log(count=3):
    for number in range(count):
        logger.info("done", payload={"cls_type": "test", "number": number})

def wait():
    print("ready", flush=True)
    threading.Event().wait(60)
"""

Run = Callable[..., servers.Program]


@pytest.fixture
def run(tmp_path: Path, topic: Topic, sqs: servers.Sqs) -> Iterator[Run]:
    """Return a function that starts a script, or a command in its folder."""
    programs: list[servers.Program] = []

    def start(code: str, *command: str, patch: str = "", **env: str) -> servers.Program:
        path = tmp_path / "script.py"
        path.write_text(patch + BEGIN + textwrap.dedent(code))
        argv = [sys.executable, *command] if command else [sys.executable, str(path)]
        program = servers.Program(argv, env={**sqs.env, "TOPIC": topic.name, **env}, cwd=tmp_path)
        programs.append(program)
        return program.start()

    yield start
    for program in programs:
        print(program.output)  # shown if the test failed
        program.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("os.kill(os.getpid(), signal.SIGINT)", 1)],
)
def test_a_script_that_ends(run: Run, topic: Topic, end: str, code: int) -> None:
    """A script sends its buffer at its last line, an exit, an exception and Ctrl-C."""
    assert run(f"set_up(); log(); {end}").wait() == code
    assert topic.left() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("logging_thread", ["log()", "t = threading.Thread(target=log); t.start(); t.join()"])
def test_a_script_that_a_signal_ends(run: Run, topic: Topic, logging_thread: str, number: signal.Signals) -> None:
    """A script that SIGTERM or SIGHUP ends sends its buffer and still dies by the signal."""
    program = run(f"set_up(); {logging_thread}; wait()")
    program.wait_for("ready")
    program.signal(number)
    assert program.wait() == -number
    assert topic.left() == 3


GEVENT = "from gevent import monkey; monkey.patch_all()"
EVENTLET = "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()"


@pytest.mark.parametrize("patch", [GEVENT, EVENTLET], ids=["gevent", "eventlet"])
def test_a_script_of_greenlets_that_a_signal_ends(run: Run, topic: Topic, patch: str) -> None:
    """An idle hub cannot wait for SQS at SIGTERM: gevent sends from a greenlet, eventlet reports what is lost."""
    program = run("set_up(); log(); print('ready', flush=True); time.sleep(60)", patch=patch)
    program.wait_for("ready")
    program.signal(signal.SIGTERM)
    assert program.wait() == -signal.SIGTERM
    sent = 3 if patch == GEVENT else 0
    assert topic.left() == sent
    assert ("3 records were not sent before the end" in program.output) == (not sent)


def test_what_greenlets_log_in_a_process_that_gevent_patches_late(run: Run, topic: Topic) -> None:
    """Records of greenlets are shipped if gevent patches after the import, as in gunicorn with ``--preload``."""
    program = run(
        """
        set_up(linger=0)
        from gevent import monkey; monkey.patch_all()
        log(1)
        logging.getLogger("app").handlers[0].flush(60)
        log(1)
        """
    )
    assert program.wait() == 0
    assert topic.left() == 2


def test_an_application_that_handles_sigterm_itself(run: Run, topic: Topic) -> None:
    """An application's own SIGTERM handler stays, installed before or later, and ends the process."""
    for first, then in [("set_up()", "own()"), ("own()", "set_up()")]:
        program = run(
            f"""
            def own():
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            {first}; {then}; log(); wait()
            """
        )
        program.wait_for("ready")
        program.signal(signal.SIGTERM)
        assert program.wait() == 7
    assert topic.left() == 6


def test_records_that_are_logged_while_the_process_ends(run: Run, topic: Topic) -> None:
    """Records of atexit functions, and those of a MemoryHandler that logging flushes late, are sent."""
    program = run(
        """
        import atexit, logging.handlers
        memory = logging.handlers.MemoryHandler(100)  # made first, so that logging closes it last
        atexit.register(log)
        set_up()
        atexit.register(log)
        (handler,) = logging.getLogger("app").handlers
        memory.setTarget(handler)
        logging.getLogger("memory").addHandler(memory)
        log()
        logging.getLogger("memory").warning("late")
        """
    )
    assert program.wait() == 0
    assert topic.left() == 10


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_what_cannot_be_sent_in_time_is_reported(run: Run, end: str) -> None:
    """The end of the process waits for the handler's flush_timeout, and reports the unsent records."""
    closed = f"http://127.0.0.1:{servers.free_port()}"
    program = run(
        f"set_up(flush_timeout=0.2); log(); print('end', flush=True); {end}",
        AWS_ENDPOINT_URL_SQS=closed,
        AWS_MAX_ATTEMPTS="1",
    )
    program.wait_for("end")
    began = time.monotonic()
    program.wait()
    assert time.monotonic() - began < 4.9  # the default would be 5 and more
    assert "3 records were not sent before the end (3 dropped and 0 refused so far)" in program.output


def test_every_loss_is_reported_in_the_end(run: Run, topic: Topic) -> None:
    """Every loss is in the report at the end, even if another report was just written."""
    program = run("set_up(capacity=2); log(9)")
    assert program.wait() == 0
    assert "the buffer is full (1 dropped" in program.output
    assert f"({9 - topic.left()} dropped and 0 refused so far)" in program.output


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", "SIGTERM and SIGHUP would end this process"),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", " SIGTERM would end this process"),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", ""),
    ],
)
def test_a_handler_that_only_other_threads_use(run: Run, topic: Topic, before: str, told: str) -> None:
    """Python has signals handled by the main thread alone: a handler that it has not made says what they do."""
    program = run(
        f"""
        def use():
            set_up()
            log()

        {before}
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        """
    )
    assert program.wait() == 0
    assert told in program.output
    assert program.output.count("would end this process without sending") == bool(told)
    assert topic.left() == 3


def test_a_worker_of_a_server_that_loads_the_application_before_it_forks(run: Run, topic: Topic) -> None:
    """Threads of a worker as gunicorn's, with ``--preload``, log without a warning: it handles SIGTERM, not SIGHUP."""
    program = run(
        """
        set_up()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        if not os.fork():
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            thread = threading.Thread(target=log)
            thread.start()
            thread.join()
            sys.exit(0)
        os.wait()
        """
    )
    assert (program.wait(), program.output) == (0, "")
    assert topic.left() == 3


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_what_threads_log_until_the_interpreter_stops_them(run: Run, end: str) -> None:
    """Records of daemon threads that log on after logging's own shutdown are sent, or reported at the very end."""
    program = run(
        f"""
        class Queue:
            is_fifo = False
            def send(self, messages):
                os.write(1, b"S" * len(messages))
                return []

        def log_on():
            while True:
                log(1)
                os.write(1, b"L")

        set_up(linger=0, capacity=100, queue=Queue())
        log(100)
        while not flush(60): pass
        for _ in range(2):
            threading.Thread(target=log_on, daemon=True).start()
        (handler,) = logging.getLogger("app").handlers
        while handler.stats()["sent"] < 200: pass
        {end}
        """
    )
    program.wait()
    told = [int(number) for number in re.findall(r"\((\d+) dropped", program.output)]
    # A call that has not returned was not written down.
    assert program.output.count("L") + 100 <= program.output.count("S") + max(told, default=0)


def test_what_os_exit_ends_must_be_flushed(run: Run, topic: Topic) -> None:
    """Before os._exit, balog_celery.flush sends the buffer."""
    assert run("set_up(); log(); assert flush(); os._exit(5)").wait() == 5
    assert topic.left() == 3


def test_a_killed_process_loses_its_buffer_at_most(run: Run, topic: Topic) -> None:
    """A killed process loses at most its buffer, not what was flushed before."""
    program = run("set_up(); log(); [h.flush(60) for h in logging.getLogger('app').handlers]; log(2); wait()")
    program.wait_for("ready")
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert topic.left() == 3


CHILDREN = """
def child(end):
    {in_child}
    log()
    if end == "exit":
        sys.exit(4)
    if end == "terminated":
        started.set()
        threading.Event().wait(60)

def initialize(event):
    global started
    started = event

def run(event, end):
    initialize(event)
    child(end)

if __name__ == "__main__":
    {in_parent}
    context = {library}.get_context("{method}")
    event = context.Event()
    end = os.environ["END"]
    process = context.Process(target=run, args=(event, end))
    process.start()
    if end == "terminated":
        assert event.wait(60)
        process.terminate()
    process.join(60)
    print("exit code", process.exitcode)
"""
ENDS = {"return": 0, "exit": 4, "terminated": -signal.SIGTERM}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("library", "method"),
    [
        ("multiprocessing", "fork"),
        ("multiprocessing", "spawn"),
        ("multiprocessing", "forkserver"),
        ("billiard", "fork"),
    ],
)
def test_children(run: Run, topic: Topic, library: str, method: str, end: str) -> None:
    """Children of multiprocessing and billiard that return, exit or are terminated send their buffers."""
    in_parent, in_child = ("set_up(); log()", "pass") if method == "fork" else ("pass", "set_up()")
    code = CHILDREN.format(library=library, method=method, in_parent=in_parent, in_child=in_child)
    program = run(code, END=end)
    assert program.wait() == 0
    assert re.search(rf"exit code {ENDS[end]}\b", program.output)
    assert topic.left() == (6 if method == "fork" else 3)
    assert "not sent" not in program.output


@pytest.mark.parametrize("pool", ["multiprocessing.Pool(2)", "ProcessPoolExecutor(2)"])
def test_pools_of_processes(run: Run, topic: Topic, pool: str) -> None:
    """Process pools send their buffers when the with block terminates or joins them."""
    program = run(
        f"""
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            set_up()
            with {pool} as pool:
                list(pool.map(log, [1] * 5))
        """
    )
    assert program.wait() == 0
    assert topic.left() == 5


LOGGING_CONSUMER = """
import logging, os
from balog_celery import SQSHandler, get_logger

logging.getLogger("proj").addHandler(SQSHandler(os.environ["OUT"], linger=3600))
logging.getLogger("proj").setLevel(logging.INFO)


@consumer_config(topic=TOPIC, cls_type="shipping")
def shipping(event):
    get_logger(__name__).info("done", payload={"cls_type": "shipped", "of": event["header"]["id"]})
    note("shipping", event["header"]["id"])
"""


@pytest.mark.parametrize("config", ["", "worker_max_tasks_per_child = 1", "worker_pool = 'threads'"])
def test_children_of_a_celery_worker(
    start: Start, project: Project, topic: Topic, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    """Children of a Celery worker send their buffers when stopped or replaced; so do its threads."""
    out = topic.client.create_queue(QueueName=f"{topic.name}-out")["QueueUrl"]
    monkeypatch.setenv("OUT", f"{topic.name}-out")
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.write(LOGGING_CONSUMER)
    project.add(config)
    topic.send(*(event_text(f"e{number}", "shipping") for number in range(12)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: len(runs) == 12)
    stop(worker)
    assert Topic.count(topic.client, out) == 12


def test_producers_that_are_killed_at_random() -> None:
    """Of producers that are killed at random, SIGTERM loses nothing unreported and SIGKILL at most the buffer."""
    command = [sys.executable, str(ROOT / "benchmarks" / "producer_loss.py"), "--records", "300", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGTERM" in done.stdout
    assert "SIGKILL" in done.stdout
    assert done.stdout.endswith("unreported=0\n")
