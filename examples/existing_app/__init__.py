"""A Celery app with a task of its own, that adopts balog_celery."""
