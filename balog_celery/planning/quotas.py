"""What SQS allows."""

from __future__ import annotations

#: How many messages of a queue may be in flight, standard or FIFO: "Amazon SQS standard queue quotas" and "Amazon SQS
#: FIFO queue quotas" in the developer guide, read in 2026-11.
IN_FLIGHT = 120_000

#: How many calls of a kind a FIFO queue takes in a second, each of up to ten messages, unless it is set to high
#: throughput: "Amazon SQS message quotas" in the developer guide, read in 2026-11. With high throughput each
#: part of the queue takes as many, and all of them up to 70,000, by region.
FIFO_CALLS = 300

#: A month of 30 days, in seconds.
MONTH = 30 * 86_400

#: The visibility timeout of a new queue, in seconds. An engine extends it after each third.
VISIBILITY = 30.0
