"""Signals that reach a forked child: it ends by them, as it would without this package."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import balog_celery

#: On one processor a child rarely runs before its parent has sent it the signal.
BEGIN = """
import logging, multiprocessing, os, signal, sys, threading, time
from balog_celery import SQSHandler
from balog_celery.engine.termination import stopping_on_sigterm
from balog_celery.forks import run_in_child

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

def log_to_sqs():
    logging.getLogger("app").addHandler(SQSHandler("events"))

def fork(child):
    pid = os.fork()
    if not pid:
        child()
        os._exit(0)
    return pid

def exit_code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(code: str, path: Path | None = None) -> str:
    """Run a script, from a file if *path* is given, and return its output."""
    env = {**os.environ, "PYTHONPATH": str(Path(balog_celery.__file__).parents[1]), "AWS_DEFAULT_REGION": "eu-west-1"}
    source = ["-c", BEGIN + code]
    if path is not None:
        path.write_text(BEGIN + code)
        source = [str(path)]
    # A fork of a process with threads is deprecated since Python 3.12.
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", *source]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("call", ["forks()", "thread = threading.Thread(target=forks); thread.start(); thread.join()"])
@pytest.mark.parametrize("given", ["log_to_sqs()", "pass"], ids=["handler", "no-handler"])
def test_a_child_ends_by_a_signal_that_comes_right_after_the_fork(name: str, call: str, given: str) -> None:
    """Python would forget the signal, so that whoever terminates the child waits for it without an end."""
    output = run(
        f"""
{given}

def forks():
    for _ in range(20):
        child = fork(lambda: time.sleep(20))
        os.kill(child, signal.{name})
        print(signal.Signals(-exit_code_of(child)).name)

{call}
"""
    )
    assert output.split() == [name] * 20


def test_pools_of_processes_end() -> None:
    """A pool ends its children by SIGTERM, and waits for them."""
    output = run(
        """
log_to_sqs()
for _ in range(30):
    with multiprocessing.get_context("fork").Pool(2):
        pass
print("ended")
"""
    )
    assert output == "ended\n"


def test_a_child_handles_signals_when_it_has_forgotten_its_parent() -> None:
    """A handler of a signal would act on what is the parent's."""
    output = run(
        """
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
run_in_child(lambda: os.kill(os.getpid(), signal.SIGTERM))
run_in_child(lambda: print("forgotten", flush=True))
exit_code_of(fork(lambda: None))
"""
    )
    assert output.split() == ["forgotten", "handled"]


@pytest.mark.parametrize("blocked", [[], ["SIGTERM"], ["SIGTERM", "SIGHUP", "SIGINT"]])
def test_a_fork_leaves_the_blocked_signals_as_they_were(blocked: list[str]) -> None:
    """Parent and child block the signals that the parent has blocked before, if it has any."""
    output = run(
        f"""
def show():
    print(*sorted(signal.Signals(number).name for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)

signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in {blocked}])
exit_code_of(fork(show))
show()
"""
    )
    assert output == (" ".join(sorted(blocked)) + "\n") * 2


@pytest.mark.parametrize("given", ["log_to_sqs()", "pass"], ids=["handler", "no-handler"])
def test_sigterm_stops_an_engine_and_ends_the_children_of_its_consumers(given: str) -> None:
    """A consumer may have a process pool; its children do not run the engine."""
    output = run(
        f"""
{given}
with stopping_on_sigterm(lambda: print("stopped", flush=True)):
    children = []
    thread = threading.Thread(target=lambda: children.append(fork(lambda: time.sleep(20))))
    thread.start()
    thread.join()
    os.kill(children[0], signal.SIGTERM)
    print(exit_code_of(children[0]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    )
    assert output.split() == ["-15", "stopped"]


@pytest.mark.parametrize(
    ("method", "made_by"), [("fork", "parent"), ("fork", "child"), ("spawn", "child"), ("forkserver", "child")]
)
def test_a_child_of_multiprocessing_ends_by_a_signal_that_comes_right_before_a_wait(
    method: str, made_by: str, tmp_path: Path
) -> None:
    """Python would call the handler after the wait; here, nothing of Python's runs between the signal and the wait."""
    output = run(
        f"""
import ctypes, functools, operator

def wait_for(semaphore):
    if {made_by!r} == "child":
        log_to_sqs()
    steps = [functools.partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGTERM), semaphore.acquire]
    list(map(operator.methodcaller("__call__"), steps))

if __name__ == "__main__":
    if {made_by!r} == "parent":
        log_to_sqs()
    context = multiprocessing.get_context({method!r})
    semaphore = context.Semaphore(0)
    child = context.Process(target=wait_for, args=(semaphore,))
    child.start()
    child.join(20)
    print(child.exitcode)
    child.kill()
""",
        tmp_path / "script.py",
    )
    assert output == "-15\n"


def child_of_multiprocessing(code: str) -> str:
    """Run *code* in a child of a process that logs to SQS; return the output, with the child's exit code at its end."""
    return run(
        f"""
def run():
{textwrap.indent(textwrap.dedent(code), "    ")}

log_to_sqs()
child = multiprocessing.get_context("fork").Process(target=run)
child.start()
child.join(60)
print(child.exitcode)
"""
    )


def test_a_handler_of_ones_own_is_called_once() -> None:
    """A signal is repeated only for the handler that sends what is buffered."""
    output = child_of_multiprocessing(
        """
        signal.signal(signal.SIGTERM, lambda *_: print("called", flush=True))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        """
    )
    assert output.split() == ["called", "0"]


def test_a_signal_of_a_child_is_not_repeated_to_its_parent() -> None:
    """Child and parent have the same pipes after a fork."""
    output = child_of_multiprocessing(
        """
        child = fork(lambda: time.sleep(20))
        os.kill(child, signal.SIGTERM)
        print(exit_code_of(child), flush=True)
        time.sleep(0.2)
        """
    )
    assert output.split() == ["-15", "0"]


def test_who_learns_of_signals_already_goes_on_to() -> None:
    """A loop of asyncio has its signals by the same means."""
    output = run(
        """
def run():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    log_to_sqs()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    print(os.read(reader, 1) == bytes([signal.SIGUSR1]), signal.set_wakeup_fd(-1) == writer, flush=True)

child = multiprocessing.get_context("fork").Process(target=run)
child.start()
child.join(60)
print(child.exitcode)
"""
    )
    assert output.split() == ["True", "True", "0"]
