"""Operating a running system: check it, follow it, create its queues, and replay events.

The commands of ``cli`` call these modules. They may use all stages of an event's life; ``replay`` sends an event back
to the first.
"""
