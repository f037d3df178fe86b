"""The engine: receives messages, routes their events to consumers, and deletes the messages that are done.

``engine`` checks the queues and runs a ``topic_runner`` for each topic. Its ``poller`` receives messages; the
``pipeline`` decodes them, routes their events, and passes jobs to a dispatcher of ``dispatch``; ``undispatched`` ends
the messages and events that are not. ``batcher`` collects jobs for batch consumers; ``message_groups`` keeps the order
of FIFO queues. Meanwhile ``visibility`` extends the visibility timeouts of messages in flight; in the end
``acknowledger`` deletes or releases them. ``stats`` and ``status`` report to users and health checks. All of these use
``threads`` and ``outage``.
"""
