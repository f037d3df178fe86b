"""Senders while another thread of the process, the application's, imports boto3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import balog_celery

#: Sends in the middle of the import of boto3, in another thread, and ends that import when it is done.
PROGRAM = """
import logging, sys, threading
from importlib.machinery import PathFinder
from balog_celery import SQSHandler, SendError, send
from balog_celery.queues import SQSQueue

tried = threading.Event()

class Queue(SQSQueue):
    def send(self, messages):
        try:
            return super().send(messages)
        finally:
            tried.set()

handler = SQSHandler("q", queue=lambda: Queue("q"), flush_timeout=0)

def send_one():
    try:
        send({"cls_type": "x"}, topic="q", timeout=0.1)
    except SendError:
        print("send has ended")

def ship():
    handler.emit(logging.makeLogRecord({"msg": "hello"}))
    if tried.wait(20):
        print("the handler has tried")

def run_both():
    threads = [threading.Thread(target=one, daemon=True) for one in (send_one, ship)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

class InTheMiddle:
    def find_spec(self, name, path=None, target=None):
        if name != "boto3.compat":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run_both(), load(module))
        return spec

sys.meta_path.insert(0, InTheMiddle())
import boto3
print("imported", boto3.Session.__name__)
"""


def test_a_send_does_not_meet_the_applications_import_of_boto3() -> None:
    """A send and a handler's thread do not wait for an import of boto3 in another thread, nor spoil it."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-west-1"}
    path = {"PYTHONPATH": str(Path(balog_celery.__file__).parents[1])}
    env = {**os.environ, **keys, **path, "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert (sorted(lines[:-1]), lines[-1:]) == (["send has ended", "the handler has tried"], ["imported Session"]), (
        done.stderr
    )
