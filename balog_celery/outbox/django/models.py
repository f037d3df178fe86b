"""The outbox as a Django model."""

from __future__ import annotations

from django.db import models

from ..message import MAX_ID, MAX_TOPIC
from ..store import TABLE


class OutboxMessage(models.Model):
    """The message of one event that waits to be sent, or that SQS can never take (``failed_at``, ``reason``)."""

    topic = models.CharField(max_length=MAX_TOPIC)
    message_group = models.CharField(max_length=MAX_ID, blank=True)
    deduplication_id = models.CharField(max_length=MAX_ID)
    body = models.TextField()
    attributes = models.TextField()
    delay = models.PositiveSmallIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    failed_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(default="", blank=True)

    class Meta:
        db_table = TABLE
        indexes = (models.Index(fields=("topic", "message_group", "id"), name="balog_outbox_group"),)

    def __str__(self) -> str:
        return f"{self.pk} for {self.topic}"
