"""The Celery tasks that call consumers, one task for each consumer.

A task message comes in from the broker, or from the engine beside the worker, and the pool executes it:
``consumer`` and ``batch`` decode the events and call the function, ``base`` publishes and retries, ``dead_letter``
handles failures, ``local_retry`` defines retries in the worker, and ``idempotency`` remembers which events are done.
``outcome`` finds how an attempt ended, and ``request`` settles the message by it. ``routes`` registers the tasks.
"""
