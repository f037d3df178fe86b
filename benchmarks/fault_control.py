"""Faults by Celery's control commands: pools that grow and shrink, rate limits, and pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from celery import Celery
from fault_brokers import Broker
from fault_project import QUEUES, TOPIC

#: Seconds for which a pool is larger, or a consumer paused.
WHILE = (0.5, 4.0)
#: Seconds to wait for a worker's answer.
ANSWER = 2.0
#: Seconds that a worker may take to restart.
RESTART = 60.0
#: The consumers whose rate is limited.
LIMITED = ("flaky", "ordered", "plain")


class Command(NamedTuple):
    """A control command."""

    name: str
    arguments: dict[str, Any]


#: The commands that pause a worker, each with the one that undoes it.
PAUSES = [
    *((Command("cancel_consumer", {"queue": one}), Command("add_consumer", {"queue": one})) for one in QUEUES),
    (Command("balog_pause", {"names": [TOPIC]}), Command("balog_resume", {"names": [TOPIC]})),
]


class Commands:
    """Sends the commands to one worker. A command that no worker carried out is not counted.

    :param did: is called with the name of each change that happened.
    """

    def __init__(self, broker: Broker, draw: random.Random, did: Callable[[str], None]) -> None:
        self._broker = broker
        self._random = draw
        self._did = did

    def scale(self) -> Iterator[float]:
        """Give the worker two more children, and remove them again; move the range of one that scales by itself."""
        yield from self._do_and_undo(
            [
                (Command("pool_grow", {"n": 2}), Command("pool_shrink", {"n": 2})),
                (Command("autoscale", {"max": 5, "min": 3}), Command("autoscale", {"max": 3, "min": 1})),
            ]
        )

    def limit_rate(self) -> Iterator[float]:
        """Let consumers start one task a second, and then any number again."""
        yield from self._do_and_undo(
            [
                (
                    Command("rate_limit", {"task_name": f"proj.consumers.{name}", "rate_limit": "1/s"}),
                    Command("rate_limit", {"task_name": f"proj.consumers.{name}", "rate_limit": "0"}),
                )
                for name in LIMITED
            ]
        )

    def pause(self) -> Iterator[float]:
        """Have the worker read none of its queues and no topic, and then all of them again."""
        yield from self._do_and_undo(PAUSES)

    def _do_and_undo(self, commands: list[tuple[Command, Command]]) -> Iterator[float]:
        """Send commands, wait, and undo those that were carried out: a worker that restarts answers after a while."""
        undo: list[Command] = []
        give_up_at = time.monotonic() + RESTART
        while commands and time.monotonic() < give_up_at:
            answers = [(pair, self._send(pair[0])) for pair in commands]
            undo += [pair[1] for pair, is_done in answers if is_done]
            commands = [pair for pair, is_done in answers if is_done is None]
            yield 0.5
        yield self._random.uniform(*WHILE)
        give_up_at = time.monotonic() + RESTART
        while undo and time.monotonic() < give_up_at:
            undo = [command for command in undo if not self._send(command)]
            yield 0.5

    def _send(self, command: Command) -> bool | None:
        """Return whether a worker carried it out; None if none answered."""
        with Celery(broker=self._broker.url) as app, app.connection_for_write() as connection:
            options = {"connection": connection, "reply": True, "timeout": ANSWER, "limit": 1}
            answers = app.control.broadcast(command.name, arguments=command.arguments, **options) or []
        carried_out = any("ok" in answer for worker in answers for answer in worker.values())
        if carried_out:
            self._did(command.name)
        return carried_out if answers else None
