"""Signals that reach a forked child: it ends by them, as it would without this package."""

from __future__ import annotations

import contextlib
import os
import signal
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
from balog_celery.producer.repeated_signals import is_pool_worker

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
    process = subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
    assert not errors
    return output


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
def test_a_worker_of_a_pool_ends_by_a_signal_that_comes_right_before_a_wait(
    method: str, made_by: str, tmp_path: Path
) -> None:
    """Python would call the handler after the wait; here, nothing of Python's runs between the signal and the wait."""
    output = run(
        f"""
import ctypes, functools, multiprocessing.pool, operator

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
    child = context.Process(target=wait_for, args=(semaphore,), name="ForkPoolWorker-1")
    child.start()
    child.join(20)
    print(child.exitcode)
    child.kill()
""",
        tmp_path / "script.py",
    )
    assert output == "-15\n"


def test_pools_name_their_workers() -> None:
    """By this they are told from other children."""
    output = run(
        """
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(is_pool_worker), is_pool_worker())
"""
    )
    assert output.split() == ["True", "False"]


def child_of_multiprocessing(code: str, name: str = "ForkPoolWorker-1", given: str = "log_to_sqs()") -> str:
    """Run *code* in a child of a process that logs to SQS; return the output, with the child's exit code at its end.

    :param name: the child's, as a pool names its workers.
    :param given: what the parent does before.
    """
    return run(
        f"""
import multiprocessing.pool

def run():
{textwrap.indent(textwrap.dedent(code), "    ")}

{given}
child = multiprocessing.get_context("fork").Process(target=run, name={name!r})
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
    output = child_of_multiprocessing(
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        log_to_sqs()
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.set_blocking(reader, False)
        print(os.read(reader, 1) == bytes([signal.SIGUSR1]), signal.set_wakeup_fd(-1) == writer, flush=True)
        """,
        given="pass",
    )
    assert output.split() == ["True", "True", "0"]


def test_blocked_signals_stay_blocked() -> None:
    """No thread of the package takes a signal that the child waits for by sigwait."""
    output = child_of_multiprocessing(
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGUSR1)
        print(signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1, flush=True)
        """
    )
    assert output.split() == ["True", "0"]


@pytest.mark.parametrize("given", ["log_to_sqs()", "pass"], ids=["handler", "no-handler"])
def test_other_children_are_as_without_the_package(given: str) -> None:
    """They have no thread more, and nothing learns of their signals."""
    output = child_of_multiprocessing(
        """
        print(len(os.listdir("/proc/self/task")), signal.set_wakeup_fd(-1), flush=True)
        """,
        name="Process-1",
        given=given,
    )
    assert output.split() == ["1", "-1", "0"]


def test_a_handler_that_raises_during_a_fork_leaves_no_signal_blocked() -> None:
    """SIGALRM comes at any point of a fork; SIGTERM must end the process afterwards."""
    output = run(
        """
import random

log_to_sqs()

class Late(Exception):
    pass

def late(*_):
    raise Late

signal.signal(signal.SIGALRM, late)
sys.unraisablehook = lambda _: None
for _ in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002))
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    except Late:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    )
    assert output == "set()\n"


def test_an_error_of_a_callback_leaves_the_others() -> None:
    """Each is called, and signals are let through."""
    output = run(
        """
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
sys.unraisablehook = lambda _: None
run_in_child(lambda: os.kill(os.getpid(), signal.SIGTERM))
run_in_child(lambda: 1 / 0)
run_in_child(lambda: print("forgotten", flush=True))
exit_code_of(fork(lambda: None))
"""
    )
    assert output.split() == ["forgotten", "handled"]


def test_signals_without_a_handler_do_not_wait() -> None:
    """Threads that start in a child's callbacks would block them for good, and so would the programs they start."""
    output = run(
        """
def show():
    print(*sorted(signal.Signals(number).name for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)

run_in_child(show)
exit_code_of(fork(lambda: None))
log_to_sqs()
exit_code_of(fork(lambda: None))
"""
    )
    assert output == "\nSIGHUP SIGTERM\n"
