"""The app: three lines are new, the two imports not counted."""

from celery import Celery

import balog_celery

celery_app = Celery("shop", config_source="examples.existing_app.config")


@celery_app.task
def add(x: int, y: int) -> int:
    """A task that was there before."""
    return x + y


balog_celery.install(celery_app, packages=["examples.existing_app.events"])
