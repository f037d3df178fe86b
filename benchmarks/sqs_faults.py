"""Which SQS call goes wrong, and how: drawn from a seed, counted by kind.

The draws follow the seed; which call meets which draw depends on the timing of processes, and so differs from run to
run.
"""

from __future__ import annotations

import random
from collections import Counter

#: What may happen to a whole call, and how often.
CALL_FAULTS = {
    "error_500": 0.03,
    "error_503": 0.03,
    "throttled": 0.03,
    "dropped_before": 0.03,
    "dropped_after": 0.05,
    "delayed": 0.05,
}
#: Of what an outage may consist: every call of a few seconds, which the client's own quick retries do not outlast.
OUTAGE_FAULTS = ("error_500", "error_503", "throttled", "dropped_before", "dropped_after")
#: How often an entry of a batch is said to have failed, without and with having taken effect.
ENTRY_FAULTS = {"entry_not_done": 0.015, "entry_done": 0.015}
#: How often a received message stays visible to another receive at once.
TWICE = 0.05
#: How often a deleted message is delivered once more.
UNDEAD = 0.01
#: The pause between outages and the length of one, in seconds.
PAUSE = (3.0, 8.0)
OUTAGE = (1.0, 3.5)


class SqsFaults:
    """Draws faults while it is :attr:`on`.

    :param seed: of the draws.
    :param gap: how many times rarer than usual each of them is.
    """

    def __init__(self, seed: int, gap: float = 1.0) -> None:
        self.on = False
        self._gap = gap
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._outage_kind: str | None = None
        self._changes_at = 0.0

    def switch(self, on: bool, now: float) -> None:
        """Start or end all faults."""
        self.on = on
        self._outage_kind = None
        self._changes_at = now + self._gap * self._random.uniform(*PAUSE)

    def of_call(self, now: float) -> str | None:
        """What happens to a call that arrives now; counted."""
        if not self.on:
            return None
        self._advance(now)
        kind = self._outage_kind or self._drawn(CALL_FAULTS)
        if kind:
            self.counts[kind] += 1
        return kind

    def of_entry(self) -> str | None:
        """What happens to one entry of a batch; counted."""
        kind = self._drawn(ENTRY_FAULTS) if self.on else None
        if kind:
            self.counts[kind] += 1
        return kind

    def happens(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return self.on and self._random.random() * self._gap < probability

    def coin(self) -> bool:
        """Either way, as often."""
        return self._random.random() < 0.5

    def delay(self) -> float:
        """How long a delayed answer takes, in seconds."""
        return self._random.uniform(0.2, 2.0)

    def _advance(self, now: float) -> None:
        if now < self._changes_at:
            return
        if self._outage_kind is None:
            self._outage_kind = self._random.choice(OUTAGE_FAULTS)
            self._changes_at = now + self._random.uniform(*OUTAGE)
            self.counts["outage"] += 1
        else:
            self._outage_kind = None
            self._changes_at = now + self._gap * self._random.uniform(*PAUSE)

    def _drawn(self, table: dict[str, float]) -> str | None:
        draw = self._random.random() * self._gap
        for kind, probability in table.items():
            if draw < probability:
                return kind
            draw -= probability
        return None
