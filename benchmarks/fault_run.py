"""One run with faults: when events are sent, and when the run ends."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

from fault_account import Account
from fault_brokers import Broker
from fault_director import Director
from fault_project import make_events
from fault_sqs import FaultySqs, Producer

#: How many messages the queue may hold before feeding waits.
BACKLOG = 2000
#: Faults go on until this share of all pairs has ended: what is done after them shows little.
MOSTLY = 0.8
#: The least time that feeding takes, in seconds: a shorter one would end before much has gone wrong.
SPREAD = 20.0
#: Events are at rest if for this many seconds no consumer ran and no dead letter was made.
REST = 2.0
#: Seconds between two lines that tell how far the run is.
PROGRESS = 30.0


class Run:
    """Feeds events and runs the director until all pairs have ended, progress has stopped, or time is up."""

    def __init__(
        self, options: argparse.Namespace, sqs: FaultySqs, broker: Broker, director: Director, account: Account
    ) -> None:
        self.options = options
        self._sqs = sqs
        self._broker = broker
        self._director = director
        self._account = account
        self._producer = Producer(sqs, ours="nonsense" in options.faults)
        processes = options.pool == "prefork"
        self._events = make_events(options.events, options.faults, options.seed, processes=processes)
        self._started = time.monotonic()
        self._deadline = self._started + options.seconds
        self._looked_at = 0.0
        self._tell_at = self._started + PROGRESS
        self._look_at_dead_at = 0.0
        self._look_at_broker_at = 0.0
        self._room = 0
        #: When a consumer last ran or a dead letter was made, and when the number of ended pairs last grew.
        self._moved_at = self._progress_at = self._started
        self._moves = account.moves
        self._ended = 0
        self.seconds_with_faults = 0.0
        #: Where what is open is, if nothing has ended for as long as ``--grace`` says.
        self.hangs: dict[str, Any] | None = None
        director.at_rest = self._at_rest

    def until_all_is_sent(self) -> None:
        """Feed everything with faults, carry out all actions, and wait until most pairs have ended."""
        self._sqs.get("/faults/on")
        while time.monotonic() < self._deadline - self.options.grace and self._stuck < self.options.grace:
            self._director.tick(act=True)
            self._look()
            fed = self._feed()
            acted = self._director.begun >= self._director.wanted and not self._director.busy
            if fed and acted and self._mostly_ended:
                break
        self._sqs.get("/faults/off")
        self.seconds_with_faults = self.seconds

    def until_all_has_ended(self) -> None:
        """Wait without faults until all pairs have ended."""
        self._progress_at = time.monotonic()
        while time.monotonic() < self._deadline:
            self._director.tick(act=False)
            self._look()
            self._producer.send_again()
            if self._director.busy:
                continue
            if self._nothing_left():
                return
            if self._stuck > self.options.grace:
                self.hangs = {
                    "for_seconds": round(self._stuck, 1),
                    "topic": self._sqs.held(),
                    "broker": self._broker.depths(),
                    "unsent": len(self._producer.unsent),
                }
                return

    @property
    def seconds(self) -> float:
        """Return how long the run took."""
        return round(time.monotonic() - self._started, 1)

    @property
    def unsent(self) -> list[str]:
        """Return the bodies whose sends are not confirmed."""
        return self._producer.unsent

    @property
    def _quiet(self) -> float:
        """Return for how many seconds no consumer has run and no dead letter was made."""
        return time.monotonic() - self._moved_at

    @property
    def _stuck(self) -> float:
        """Return for how many seconds no pair has ended, although some are open."""
        return time.monotonic() - self._progress_at

    @property
    def _mostly_ended(self) -> bool:
        return self._ended >= MOSTLY * len(self._account.expected)

    def _at_rest(self) -> bool:
        return self._quiet > REST and not self.unsent and not any(self._sqs.held().values())

    def _nothing_left(self) -> bool:
        """Return whether SQS and the broker are empty, so nothing more can come. The call takes time."""
        now = time.monotonic()
        if self._quiet < REST or now < self._look_at_broker_at:
            return False
        self._look_at_broker_at = now + REST
        return self._at_rest() and not any(self._broker.depths().values())

    def _feed(self) -> bool:
        """Send some more events, as the director's progress and the backlog allow; return whether all are sent."""
        self._producer.send_again()
        # A share before the first action, and one after the beginning of each.
        share = min(1.0, (self._director.begun + 1) / (self._director.wanted + 1), self.seconds / SPREAD)
        allowed = self.options.events * share
        if self._room <= 0:
            self._room = BACKLOG - sum(self._sqs.held().values())
        taken = len(self._account.kinds)
        if self._director.wants_rest or taken >= allowed or self._room <= 0:
            time.sleep(0.05)
            return taken == self.options.events and not self.unsent
        some = list(itertools.islice(self._events, 10))
        self._room -= len(some)
        for event in some:
            self._account.send(event)
        self._producer.send(some)
        return False

    def _look(self) -> None:
        """Read the ledger and the dead letters, a few times a second."""
        now = time.monotonic()
        if now < self._looked_at + 0.25:
            time.sleep(0.01)
            return
        self._looked_at = now
        self._account.read_ledger()
        if now >= self._look_at_dead_at:
            self._account.read_dead(self._sqs.dead())
            # All of them are read each time, so it must not become what takes the time.
            self._look_at_dead_at = now + 20 * (time.monotonic() - now)
        if self._moves != self._account.moves:
            self._moves, self._moved_at = self._account.moves, now
        ended = len(self._account.ended)
        if ended != self._ended or ended >= len(self._account.expected) or self._director.wants_rest:
            self._ended, self._progress_at = ended, now
        if now >= self._tell_at:
            self._tell_at = now + PROGRESS
            self._tell()

    def _tell(self) -> None:
        """Show how far the run is."""
        account, director = self._account, self._director
        print(
            f"{self.seconds:.0f} s: {len(account.kinds)} of {self.options.events} events sent, "
            f"{self._ended} of {len(account.expected)} pairs ended, {director.begun} faults begun of at least "
            f"{director.wanted}, nothing ended for {self._stuck:.0f} s",
            file=sys.stderr,
            flush=True,
        )
