"""Message brokers, through kombu: connections with timeouts that never lose a message silently.

Tasks are published with ``connections``, which raises an error unless the broker confirms that it has the message.
``kombu_queue`` is the other direction: a broker's queue as a source of events, which an engine polls like a queue of
``sqs``; ``session`` and ``redis_receive`` are its parts. ``kombu_compat`` has the private names of kombu.
"""
