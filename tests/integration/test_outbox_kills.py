"""Writers, relays and PostgreSQL are killed at any instant: each committed event arrives, in its group's order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from outbox_project import OutboxProject, drain, numbers_by_group

import servers

#: How many times something is killed.
KILLS = 10

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kind", ["django", "sqlalchemy"])
def test_every_committed_event_arrives_and_no_other(
    tmp_path: Path, sqs: servers.Sqs, postgresql: servers.PostgreSQL, database: str, kind: str
) -> None:
    """While writers, relays and PostgreSQL are killed again and again, exactly the committed events arrive."""
    with closing(sqs.client()) as client, ExitStack() as programs:
        client.create_queue(QueueName="counted.fifo", Attributes={"FifoQueue": "true"})
        client.create_queue(QueueName="counted")
        project = OutboxProject(tmp_path, kind, postgresql, database, "counted.fifo", "counted")
        writers = [programs.enter_context(project.program("writer")) for _ in range(2)]
        relays = [programs.enter_context(project.relay(sqs)) for _ in range(2)]
        for relay in relays:
            relay.wait_for("outbox relay started")
        chance = random.Random(kind)
        # PostgreSQL, and each program.
        killed = [None, writers[0], relays[0], writers[1], relays[1]]
        for kill in range(KILLS):
            target = len(project.committed()) + chance.randrange(5, 50)
            servers.wait_until(lambda target=target: len(project.committed()) >= target)
            program = killed[kill % len(killed)]
            if program is None:
                postgresql.restart()
            else:
                program.kill_group()
                program.start()
        for writer in writers:
            writer.kill_group()
        servers.wait_until(lambda: project.waiting() == 0, 120, "an empty outbox")
        committed = project.committed()
        in_order, unordered = drain(client, "counted.fifo"), drain(client, "counted")

    # Each committed event, and no other. SQS drops a FIFO topic's repetitions; on the standard topic there may be some.
    by_group = {group: [number for name, number in committed.values() if name == group] for group in "abc"}
    assert numbers_by_group(in_order) == {group: sorted(numbers) for group, numbers in by_group.items()}
    assert {record["header"]["id"] for record in [*in_order, *unordered]} == set(committed)
    assert min(map(len, by_group.values())) > 10


def test_a_worker_runs_a_relay_beside_it(
    tmp_path: Path, sqs: servers.Sqs, postgresql: servers.PostgreSQL, database: str, broker: servers.Valkey
) -> None:
    """A worker restarts its relay when that is killed; the relay ends with the worker, even a killed one."""
    with closing(sqs.client()) as client, ExitStack() as programs:
        client.create_queue(QueueName="counted.fifo", Attributes={"FifoQueue": "true"})
        client.create_queue(QueueName="counted")
        project = OutboxProject(tmp_path, "sqlalchemy", postgresql, database, "counted.fifo", "counted")
        with project.program("writer") as writer:
            servers.wait_until(lambda: project.waiting() > 10)
            writer.kill_group()
        port = servers.free_port()
        worker = programs.enter_context(project.worker(sqs, broker.url, port))
        servers.wait_until(lambda: project.waiting() == 0, what="an empty outbox")
        servers.wait_until(lambda: sent_rows(port) > 10, what="the relay's metrics at the worker's port")
        (first,) = relays_of(worker)
        os.kill(first, signal.SIGKILL)
        (second,) = servers.wait_until(lambda: set(relays_of(worker)) - {first}, what="another relay")
        worker.wait_for("the outbox relay ended with exit code -9")
        worker.signal(signal.SIGKILL)
        servers.wait_until(lambda: not servers.alive(second), what="the relay's end")


def test_the_state_of_a_relay_by_itself(
    tmp_path: Path, sqs: servers.Sqs, postgresql: servers.PostgreSQL, database: str
) -> None:
    """`balog health --outbox` and the metrics port of a relay without a worker show what waits.

    Another relay, for which the port is taken, runs without it.
    """
    project = OutboxProject(tmp_path, "sqlalchemy", postgresql, database, "nowhere.fifo", "nowhere")
    with project.health(sqs) as none:
        assert none.wait() == 1
        assert "no outbox relay of this app runs on this machine" in none.output
    with project.program("writer") as writer:
        servers.wait_until(lambda: project.waiting() > 10)
        writer.kill_group()
    waiting, port = project.waiting(), servers.free_port()
    with project.relay(sqs, port):

        def counted() -> float:
            found = metrics(port)
            return sum(value for name, value in found.items() if name.startswith("balog_outbox_waiting_rows"))

        servers.wait_until(lambda: counted() == waiting, what="the count of the rows")
        with project.health(sqs) as health:
            assert health.wait() == 0
            assert f": {waiting} rows pending (the oldest for " in health.output
        found = metrics(port)
        assert found["balog_outbox_sent_total"] == found["balog_outbox_problems"] == 0
        with project.relay(sqs) as other:
            other.wait_for("outbox relay started")
            said = f"the relay runs without metrics: balog_metrics_port = {port}: cannot listen on 127.0.0.1"
            assert said in other.output


def metrics(port: int) -> dict[str, float]:
    """The values of a port, by their names and labels; none while it is closed."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def sent_rows(port: int) -> float:
    return metrics(port).get("balog_outbox_sent_total", 0.0)


def relays_of(worker: servers.Program) -> list[int]:
    """The process ids of a worker's relays."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(worker.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "balog outbox" in line]
