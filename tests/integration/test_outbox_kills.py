"""Writers, relays and PostgreSQL are killed at any instant: each committed event arrives, in its group's order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
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
        worker = programs.enter_context(project.worker(sqs, broker.url))
        servers.wait_until(lambda: project.waiting() == 0, what="an empty outbox")
        (first,) = relays_of(worker)
        os.kill(first, signal.SIGKILL)
        (second,) = servers.wait_until(lambda: set(relays_of(worker)) - {first}, what="another relay")
        worker.wait_for("the outbox relay ended with exit code -9")
        worker.signal(signal.SIGKILL)
        servers.wait_until(lambda: not servers.alive(second), what="the relay's end")


def relays_of(worker: servers.Program) -> list[int]:
    """The process ids of a worker's relays."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(worker.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "balog outbox" in line]
