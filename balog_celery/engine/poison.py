"""Poison messages: those with which this package's own code fails on every receive."""

from __future__ import annotations

from collections import OrderedDict

#: How many messages are remembered.
_REMEMBERED = 10_000


class PoisonMessages(OrderedDict[str, int]):
    """By message id, how often this package's code failed with a message alone; 0 if it failed with several together.

    Used where a broker does not count the receives of a message. Not thread-safe.
    """

    def suspect(self, message_id: str) -> None:
        """Note a failure with several messages, of which this is one."""
        self._add(message_id, 0)

    def failed(self, message_id: str) -> int:
        """Note a failure with this message alone. Return the number of such failures."""
        return self._add(message_id, 1)

    def _add(self, message_id: str, failures: int) -> int:
        failures += self.get(message_id, 0)
        self[message_id] = failures
        if len(self) > _REMEMBERED:
            self.popitem(last=False)
        return failures
