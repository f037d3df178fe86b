"""How an event gets from the engine to the function: in this process, by the broker, or straight to a worker.

``dispatcher`` has the protocol of all dispatchers, and calls functions in the engine itself. ``publish`` puts tasks on
the broker, and ``back_pressure`` pauses it while the broker has enough. With hand-off, ``hand_off_engine`` and
``hand_off_worker`` exchange the messages of ``protocol`` over a ``channel``; ``local_tasks`` has the worker's tasks in
flight, and ``hand_off_message`` shows them to Celery. Jobs come in from the engine; next, the worker runs them as
``tasks``.
"""
