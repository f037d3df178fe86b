"""What SQS allows."""

from __future__ import annotations

#: How many messages of a queue may be in flight, standard or FIFO: "Amazon SQS standard queue quotas" and "Amazon SQS
#: FIFO queue quotas" in the developer guide, read in 2026-11.
IN_FLIGHT = 120_000

#: A month of 30 days, in seconds.
MONTH = 30 * 86_400

#: The visibility timeout of a new queue, in seconds. An engine extends it after each third.
VISIBILITY = 30.0
