"""The local stack with real processes that start, end and are killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from celery import Celery
from kombu import Connection, Queue

from balog_celery import install
from balog_celery.dev import local_stack
from balog_celery.dev.moto_server import DUMMY_CREDENTIALS
from balog_celery.dev.transport import TRANSPORT_OPTIONS
from balog_celery.errors import BalogError
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, OutgoingMessage
from servers import Program, alive, wait_until

HOLD = """
import json, signal, sys
from balog_celery.dev import local_stack
stack = local_stack.hold(sys.argv[1])
print(json.dumps({"pid": stack.pid, "endpoint_url": stack.endpoint_url}), flush=True)
print("holding", flush=True)
signal.pause()
"""

#: Takes two of the messages of the queue "work" and never acknowledges them.
CONSUME = """
import signal, sys
from kombu import Connection, Queue
from balog_celery.dev import local_stack
from balog_celery.dev.transport import TRANSPORT_OPTIONS
stack = local_stack.hold(sys.argv[1])
options = dict(TRANSPORT_OPTIONS)
if sys.argv[2] == "named":
    options.update(local_stack.consumer_options(sys.argv[1]))
connection = Connection(stack.broker_url, transport_options=options)
channel = connection.channel()
channel.basic_qos(0, 2, False)
taken = []
with connection.Consumer(Queue("work"), channel=channel, callbacks=[lambda body, message: taken.append(body)]):
    while len(taken) < 2:
        connection.drain_events(timeout=20)
print(f"taken {taken}", flush=True)  # in one write
signal.pause()
"""

FORK = """
import os, signal, sys, time
from balog_celery.dev import local_stack
local_stack.hold(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        local_stack.consumer_options(sys.argv[1])
    except RuntimeError:
        print(f"the child holds nothing {os.getpid()}", flush=True)  # in one write
    signal.pause()
signal.pause()
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stack; everything that was started in it ends with the test."""
    state_dir = tmp_path / ".balog"
    yield state_dir
    local_stack.release(state_dir)
    wait_until(lambda: not processes(state_dir), what="the end of the stack")


def processes(state_dir: Path) -> list[int]:
    """The ids of the guardian and of Valkey of that folder."""
    listing = subprocess.run(
        ["ps", "-eww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    ours = (
        f"balog_celery.dev.guardian {state_dir}",
        f"valkey-server unixsocket:{local_stack.broker_url(state_dir)[15:]}",
    )
    lines = [line.split(None, 2) for line in listing.splitlines() if any(text in line for text in ours)]
    return [int(pid) for pid, state, _ in lines if not state.startswith("Z")]


def program(script: str, *args: str | Path) -> Program:
    """A Python script in a process of its own."""
    root = str(Path(local_stack.__file__).absolute().parents[1])
    return Program([sys.executable, "-c", script, *args], env={"PYTHONPATH": root}, name="script")


def holding(process: Program) -> dict[str, Any]:
    """Yield the stack that a process which runs HOLD has got."""
    found: dict[str, Any] = json.loads(process.wait_for("holding").splitlines()[0])
    return found


def broker(stack: local_stack.LocalStack) -> redis.Redis:
    """A client of the stack's Valkey."""
    return redis.Redis(unix_socket_path=stack.broker_url.removeprefix("redis+socket://"), socket_timeout=5)


def broker_answers(stack: local_stack.LocalStack) -> bool:
    """Whether the stack's Valkey answers a PING."""
    try:
        with broker(stack) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def sqs(stack: local_stack.LocalStack) -> Any:
    """A client of the stack's SQS."""
    return boto3.client("sqs", endpoint_url=stack.endpoint_url, **DUMMY_CREDENTIALS)


def gone(state_dir: Path) -> bool:
    """Whether nothing of a stack is left but its data."""
    return not processes(state_dir) and not (state_dir / "local.json").exists()


def test_it_is_a_broker_and_an_sqs(state_dir: Path) -> None:
    """Broker and SQS answer as soon as the stack is held, at the addresses that it reports."""
    stack = local_stack.hold(state_dir)
    assert stack.broker_url == local_stack.broker_url(state_dir)
    assert broker_answers(stack)
    with closing(sqs(stack)) as client:
        url = client.create_queue(QueueName="events")["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody="hello")
        (message,) = client.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == "hello"


def test_its_sqs_has_an_s3_beside_it_for_large_bodies(state_dir: Path) -> None:
    """A project with a payload bucket works with the local stack, whose S3 has the bucket."""
    local_stack.hold(state_dir)
    app = install(Celery("proj"), local=True, state_dir=str(state_dir), payload_bucket="payloads")
    queue = app.balog.connect("events")
    queue.create()
    large = "x" * (MAX_MESSAGE_BYTES + 1)
    assert queue.send([OutgoingMessage(large)]) == []
    assert [message.body for message in queue.receive(1, 5)] == [large]


def test_holding_twice_is_holding_once(state_dir: Path) -> None:
    """Holding the stack twice needs one release only."""
    assert local_stack.hold(state_dir) == local_stack.hold(state_dir) == local_stack.find(state_dir)
    local_stack.release(state_dir)
    wait_until(lambda: gone(state_dir), what="the end of the stack")
    assert local_stack.find(state_dir) is None


def test_another_process_finds_it(state_dir: Path) -> None:
    """Another process finds the stack by its folder, also by a relative path."""
    stack = local_stack.hold(state_dir)
    script = (
        "from balog_celery.dev.local_stack import find; stack = find('.balog'); print(stack.pid, stack.endpoint_url)"
    )
    process = program(script)
    process.cwd = state_dir.parent
    with process:
        assert process.wait() == 0, process.output
        assert process.output.split() == [str(stack.pid), stack.endpoint_url]


def test_processes_that_start_at_once_share_one_stack(state_dir: Path) -> None:
    """Processes that start at once share one stack: the later ones wait for the first."""
    with program(HOLD, state_dir) as one, program(HOLD, state_dir) as two, program(HOLD, state_dir) as three:
        assert holding(one) == holding(two) == holding(three)
        assert len(processes(state_dir)) == 2


def test_it_lives_until_its_last_user_has_gone(state_dir: Path) -> None:
    """The stack outlives the process that started it, until its last user has ended."""
    with program(HOLD, state_dir) as first:
        found = holding(first)
        stack = local_stack.hold(state_dir)
        assert stack.pid == found["pid"]
    wait_until(lambda: len(list((state_dir / "users").iterdir())) == 1, what="the first to be forgotten")
    assert local_stack.find(state_dir) == stack
    assert broker_answers(stack)
    local_stack.release(state_dir)
    wait_until(lambda: gone(state_dir), what="the end of the stack")


def test_it_ends_when_its_only_user_is_killed(state_dir: Path) -> None:
    """The stack ends when its only user is killed, because the kernel releases the lock."""
    with program(HOLD, state_dir) as user:
        holding(user)
        user.signal(signal.SIGKILL)
        wait_until(lambda: gone(state_dir), what="the end of the stack")
    assert not (state_dir / "valkey.sock").exists()


def test_whoever_comes_while_it_ends_gets_a_new_one(state_dir: Path) -> None:
    """A process that starts while the stack ends gets a new, complete one."""
    for _ in range(3):
        with program(HOLD, state_dir) as user:
            holding(user)
        stack = local_stack.hold(state_dir)
        assert broker_answers(stack)
        with closing(sqs(stack)) as client:
            client.list_queues()
        local_stack.release(state_dir)


def test_a_forked_child_does_not_hold_it(state_dir: Path) -> None:
    """A forked child, such as one that outlives its worker, does not keep the stack alive."""
    with program(FORK, state_dir) as parent:
        child = int(parent.wait_for("the child holds nothing").split()[-1])
        assert local_stack.find(state_dir) is not None
        parent.signal(signal.SIGKILL)
        wait_until(lambda: gone(state_dir), what="the end of the stack")
        assert alive(child)


def test_a_killed_guardian_is_replaced(state_dir: Path) -> None:
    """After a killed guardian the next user gets a new one with the same data and address, and one Valkey."""
    stack = local_stack.hold(state_dir)
    with broker(stack) as client:
        client.set("key", "value")
        wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    os.kill(stack.pid, signal.SIGKILL)
    wait_until(lambda: local_stack.find(state_dir) is None, what="the end of the guardian")
    again = local_stack.hold(state_dir)
    assert again.pid != stack.pid
    assert again.endpoint_url == stack.endpoint_url
    with broker(again) as client:
        assert client.get("key") == b"value"
    assert len(processes(state_dir)) == 2


def test_a_left_over_valkey_is_ended_first(state_dir: Path) -> None:
    """A Valkey of a killed guardian is ended first, even if it hangs: two servers would write to the same files."""
    stack = local_stack.hold(state_dir)
    with broker(stack) as client:
        valkey = int(client.info("server")["process_id"])
    os.kill(valkey, signal.SIGSTOP)
    os.kill(stack.pid, signal.SIGKILL)
    wait_until(lambda: local_stack.find(state_dir) is None, what="the end of the guardian")
    again = local_stack.hold(state_dir)
    assert broker_answers(again)
    assert not alive(valkey)


def test_a_killed_valkey_comes_back(state_dir: Path) -> None:
    """A killed Valkey is restarted at the same address with its data."""
    stack = local_stack.hold(state_dir)
    with broker(stack) as client:
        client.set("key", "value")
        # It may put off writing for as long as the disk is busy.
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
    wait_until(lambda: broker_answers(stack), what="Valkey")
    with broker(stack) as client:
        assert client.get("key") == b"value"
    assert local_stack.find(state_dir) == stack


def test_the_guardian_ends_cleanly_when_it_is_told_to(state_dir: Path) -> None:
    """SIGTERM ends the guardian with its servers, and Ctrl-C does not."""
    stack = local_stack.hold(state_dir)
    os.kill(stack.pid, signal.SIGINT)
    os.kill(stack.pid, signal.SIGTERM)
    wait_until(lambda: gone(state_dir), what="the end of the stack")


def test_it_ends_when_its_folder_is_removed(state_dir: Path) -> None:
    """The stack ends when its folder is removed, as no process could find it again."""
    local_stack.hold(state_dir)
    # What is written meanwhile may bring a folder back, so until it succeeds.
    wait_until(lambda: subprocess.run(["rm", "-rf", str(state_dir)]).returncode == 0)
    wait_until(lambda: not processes(state_dir), what="the end of the stack")
    assert broker_answers(local_stack.hold(state_dir))


def test_only_this_user_can_reach_the_broker(state_dir: Path) -> None:
    """Other users cannot reach the broker's folder and socket, and git ignores them."""
    local_stack.hold(state_dir)
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((state_dir / "valkey.sock").stat().st_mode) == 0o600
    assert (state_dir / ".gitignore").read_text() == "*\n"
    readable = [path.name for path in state_dir.iterdir() if path.name != ".gitignore" and path.stat().st_mode & 0o077]
    assert readable == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_beyond_this_machine(state_dir: Path) -> None:
    """The stack listens on one port of the loopback interface only, and refuses the pages of other sites."""
    stack = local_stack.hold(state_dir)
    sockets = set()
    for pid in processes(state_dir):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has been closed meanwhile
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd)):
                    sockets.add(match[1])
    tables = [*Path("/proc/net/tcp").read_text().splitlines(), *Path("/proc/net/tcp6").read_text().splitlines()]
    listening = [fields[1] for fields in map(str.split, tables) if fields[3] == "0A" and fields[9] in sockets]
    address = socket.inet_aton("127.0.0.1")[::-1] if sys.byteorder == "little" else socket.inet_aton("127.0.0.1")
    port = int(stack.endpoint_url.rpartition(":")[2])
    assert listening == [f"{address.hex().upper()}:{port:04X}"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request("POST", "/moto-api/reset", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 403


@pytest.mark.parametrize("name", ["long-" * 20, "with space"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    """A folder whose path is too long for a socket, or does not fit into a URL, gets its socket elsewhere."""
    folder = tmp_path / name
    folder.mkdir()
    state_dir = folder / ".balog"
    stack = local_stack.hold(state_dir)
    try:
        assert broker_answers(stack)
        with Connection(stack.broker_url, transport_options=TRANSPORT_OPTIONS) as connection:
            connection.connect()
        socket_folder = Path(stack.broker_url.removeprefix("redis+socket://")).parent
        assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
    finally:
        local_stack.release(state_dir)
        wait_until(lambda: gone(state_dir), what="the end of the stack")
    assert not socket_folder.exists()


def test_a_start_that_fails_says_why(state_dir: Path) -> None:
    """A failed start leaves nothing running, and its error has the end of the log."""
    (state_dir / "appendonlydir").mkdir(parents=True)
    (state_dir / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(BalogError, match=r"(?s)did not start.*local\.log.*[Mm]anifest"):
        local_stack.hold(state_dir)
    assert gone(state_dir)
    with pytest.raises(RuntimeError, match="does not hold"):
        local_stack.consumer_options(state_dir)


@pytest.mark.parametrize("kind", ["named", "plain"])
def test_tasks_of_a_killed_consumer_come_back(state_dir: Path, kind: str) -> None:
    """Tasks of a killed consumer come back in order: at once if it was named, else at the next start of the stack."""
    stack = local_stack.hold(state_dir)
    with Connection(stack.broker_url, transport_options=TRANSPORT_OPTIONS) as connection:
        with connection.Producer() as producer:
            for number in range(4):
                producer.publish(number, routing_key="work", declare=[Queue("work")])
        with program(CONSUME, state_dir, kind) as consumer:
            assert "taken [0, 1]" in consumer.wait_for("taken")
            consumer.signal(signal.SIGKILL)
            consumer.wait()
        if kind == "plain":
            local_stack.release(state_dir)
            wait_until(lambda: gone(state_dir), what="the end of the stack")
            local_stack.hold(state_dir)
    with Connection(stack.broker_url, transport_options=TRANSPORT_OPTIONS) as connection:
        queue = Queue("work")(connection.default_channel)
        wait_until(lambda: queue.queue_declare(passive=True).message_count == 4, what="the tasks")
        messages = [queue.get() for _ in range(4)]
        assert [message.payload for message in messages] == [0, 1, 2, 3]
        assert [message.headers.get("redelivered", False) for message in messages] == [True, True, False, False]
        for message in messages:
            message.ack()


def test_tasks_of_a_living_consumer_are_left_alone(state_dir: Path) -> None:
    """Tasks of a living consumer are not restored, even if the guardian is replaced meanwhile."""
    stack = local_stack.hold(state_dir)
    with Connection(stack.broker_url) as connection, connection.Producer() as producer:
        for number in range(2):
            producer.publish(number, routing_key="work", declare=[Queue("work")])
    with program(CONSUME, state_dir, "named") as consumer:
        consumer.wait_for("taken")
        os.kill(stack.pid, signal.SIGKILL)
        wait_until(lambda: local_stack.find(state_dir) is None, what="the end of the guardian")
        with broker(local_stack.hold(state_dir)) as client:
            assert client.llen("work") == 0
            (index,) = client.keys("unacked_index:*")
            assert client.zcard(index) == 2
