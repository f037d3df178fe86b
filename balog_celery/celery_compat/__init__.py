"""What this package uses of Celery, kombu and billiard beyond their documentation, by names of its own.

``tasks`` serves every process that publishes or executes tasks, ``worker`` only a worker's main process. Each function
says why it is needed, and has a test in ``tests/unit/celery_compat``, which fails first after an upgrade, as do
those in ``tests/unit/test_celery_contract.py``. No other module may use such a name.
"""
