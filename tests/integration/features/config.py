"""The configuration of both workers, in place of ``celeryconfig.py``."""

from __future__ import annotations

import os

from kombu import Exchange, Queue

TOPIC = os.environ["TOPIC"]
IS_FIRST = os.environ["WORKER"] == "first"


def direct(name: str) -> Queue:
    """Return a queue with an exchange of its own."""
    return Queue(name, Exchange(name), routing_key=name)


balog_wait_time = 1
balog_drain = 10
balog_status_dir = os.environ["STATUS_DIR"]
broker_url = os.environ["BROKER"]
balog_dispatch = os.environ["DISPATCH"]
result_backend = os.environ["BACKEND"]
task_default_queue = f"{TOPIC}-tasks"
task_queues = [direct(f"{TOPIC}-{name}") for name in ("tasks", "other", "served", "excluded")]
# The second one, too: it is told in pickle what the first one has revoked.
accept_content = ["json", "pickle", "yaml"]
if IS_FIRST:
    balog_packages = ["features.base", "features.ends", "features.calls", "features.routes", "features.heard"]
    task_routes = [
        {"features.routes.routed_by_name": f"{TOPIC}-other", "features.routes.globbed_*": {"queue": f"{TOPIC}-other"}},
        lambda name, *_, **__: {"queue": f"{TOPIC}-other"} if name == "features.routes.chosen" else None,
    ]
    task_annotations = {"features.routes.annotated": {"max_retries": 77}}
    # Tasks that wait for their rate limit are among those that Celery fetches.
    worker_prefetch_multiplier = 16
    task_track_started = True
    task_send_sent_event = True
    task_compression = "gzip"
    task_serializer = "pickle"
    result_extended = True
    worker_pool_restarts = True
    worker_max_memory_per_child = 300_000  # KiB
    beat_schedule = {"tick": {"task": "features.calls.tick", "schedule": 1.0}}
else:
    balog_packages = ["features.base", "features.second"]
    task_protocol = 1
    task_always_eager = True
    worker_prefetch_multiplier = 1
