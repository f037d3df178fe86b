"""The outbox as a Django app."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """Its tables' names begin with ``balog_``."""

    name = "balog_celery.outbox.django"
    label = "balog_outbox"
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"
