"""Receivers of Celery's signals."""

from __future__ import annotations

from celery import signals

from balog_celery.consumers import consumer_config

from .base import TOPIC, note, noting


def name_of(sender, more):
    request = more.get("request")
    return getattr(request, "name", None) or getattr(sender, "name", None) or str(sender)


def hear(name):
    def receive(sender=None, **more):
        note(f"signal {name}", name_of(sender, more))

    getattr(signals, name).connect(receive, weak=False)


for name in [
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_received",
    "task_revoked",
    "task_unknown",
    "task_rejected",
    "before_task_publish",
    "after_task_publish",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_init",
    "worker_ready",
    "worker_shutting_down",
    "worker_shutdown",
    "celeryd_after_setup",
    "after_setup_logger",
    "heartbeat_sent",
]:
    hear(name)


@signals.task_prerun.connect
def raises(sender, **_):
    if sender.name.endswith(".unheard"):
        raise ValueError("a receiver")


@consumer_config(TOPIC, cls_type="unheard", bind=True)
@noting
def unheard(self, event):
    pass
