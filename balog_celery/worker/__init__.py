"""What this package adds to a Celery worker.

``bootsteps`` start the engine beside the worker, and the local stack if the app uses it. ``hand_off_step`` opens the
hand-off while the worker has a broker. ``task_events`` sends the worker's events in groups, and ``instrumentation``
reports starts and ends of tasks to telemetry. Tasks come in from the broker or by hand-off; next, the pool runs them.
"""
