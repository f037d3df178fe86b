"""A process that forks while its sender imports boto3: the children can send."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import balog_celery

#: Forks at instants all over the import, and has each child import what it needs to send.
PROGRAM = """
import os, sys, threading, time
from balog_celery.sqs.imports import import_botocore

threading.Thread(target=import_botocore).start()
children = []
for _ in range(15):
    time.sleep(0.01)
    child = os.fork()
    if not child:
        try:
            from botocore import xform_name
            import boto3
            boto3.client("sqs", region_name="eu-west-1")
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    children.append(child)
print(sum(os.waitpid(child, 0)[1] == 0 for child in children))
"""


def test_a_child_that_is_forked_during_the_import_can_send() -> None:
    """Every child can make a client, whenever it was forked."""
    env = {**os.environ, "PYTHONPATH": str(Path(balog_celery.__file__).parents[1]), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == "15\n", done.stderr
