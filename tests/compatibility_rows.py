"""The rows and columns of the compatibility table, and which of them other tests show."""

from __future__ import annotations

HAND_OFF_REDIS, PUBLISH_REDIS = "hand-off, Redis", "publish, Redis"
HAND_OFF_RABBITMQ, PUBLISH_RABBITMQ = "hand-off, RabbitMQ", "publish, RabbitMQ"
COLUMNS = [HAND_OFF_REDIS, PUBLISH_REDIS, HAND_OFF_RABBITMQ, PUBLISH_RABBITMQ]

#: Features by group, in the order of the table.
ROWS: dict[str, list[str]] = {
    "pool": [
        "`prefork`",
        "`threads`",
        "`solo`",
        "`gevent`",
        "`eventlet`",
        "`celery-aio-pool`",
        "`-c 2`",
        "`-O fair`",
        "`--autoscale`",
        "`--max-tasks-per-child`",
        "`--max-memory-per-child`",
        "`-Q`",
        "`-X`",
        "`-B`",
        "several workers",
        "`celery multi`",
        "`--detach`",
    ],
    "control": [
        "`pool_grow`",
        "`pool_shrink`",
        "`pool_restart`",
        "`control autoscale`",
        "`add_consumer`",
        "`cancel_consumer`",
        "`control rate_limit`",
        "`control time_limit`",
        "`revoke`",
        "`revoke(terminate=True)`",
        "`control shutdown`",
        "a warm shutdown",
        "a cold shutdown, also after a warm one",
    ],
    "inspect": [
        "`inspect ping`",
        "`inspect active`",
        "`inspect reserved`",
        "`inspect scheduled`",
        "`inspect revoked`",
        "`inspect registered`",
        "`inspect stats`",
        "`inspect query_task`",
        "`inspect active_queues`",
        "`inspect conf`",
        "`inspect report`",
    ],
    "setting": [
        "`worker_prefetch_multiplier`",
        "`worker_disable_prefetch`",
        "`worker_hijack_root_logger`",
        "`worker_soft_shutdown_timeout`",
        "`worker_enable_prefetch_count_reduction`",
        "`task_acks_on_failure_or_timeout = False`",
        "`task_compression`",
        "`task_queues`",
        "`task_default_queue`",
        "`task_routes`, a dict",
        "`task_routes`, a glob",
        "`task_routes`, a function",
        "`task_annotations`",
        "`task_serializer = 'pickle'`",
        "`task_protocol = 1`",
        "`task_track_started`",
        "`task_always_eager`",
        "`task_create_missing_queues`",
        "`REMAP_SIGTERM`",
        "quorum queues with native delayed delivery",
    ],
    "result": [
        "`result_backend` Redis",
        "`result_backend` SQLAlchemy",
        "`result_backend` file system",
        "`result_backend` rpc",
        "`result_extended`",
        "a result that cannot be serialised",
    ],
    "task": [
        "`autoretry_for`",
        "`dont_autoretry_for`",
        "`retry_backoff`",
        "`retry_jitter`, `retry_backoff_max`",
        "`max_retries`",
        "`max_retries=None`",
        "`self.retry()`",
        "`self.retry(queue=...)`",
        "a published retry returns to its queue",
        "`Retry`",
        "`Ignore`",
        "`Reject(requeue=True)`",
        "`Reject(requeue=False)`",
        "`throws`",
        "`expires=...`",
        "`rate_limit=...`",
        "`soft_time_limit`",
        "`time_limit`",
        "`retry_on_worker_lost`",
        "`acks_late=False`",
        "`queue=...`",
        "`priority=...`",
        "`compression=...`",
        "`bind=True`",
        "`current_task`",
        "`shared_task`",
        "`base=...`, `__call__`",
        "`before_start`",
        "`on_success`",
        "`on_retry`",
        "`on_failure`",
        "`after_return`",
    ],
    "called by a consumer": [
        "`delay()`",
        "serializer `yaml`",
        "`group`",
        "`chain`",
        "`chord`",
        "`link`",
        "`link_error`",
        "stamping",
        "`self.replace()`",
    ],
    "request": [
        "`request.id`, `root_id`, `correlation_id`",
        "`request.hostname`, `timelimit`, `is_eager`, `called_directly`",
        "`request.delivery_info`",
        "`request.headers`",
        "`request.argsrepr`",
    ],
    "signal": [
        "`celeryd_after_setup`",
        "`after_setup_logger`",
        "`worker_init`",
        "`worker_ready`",
        "`worker_process_init`",
        "`worker_process_shutdown`",
        "`worker_shutting_down`",
        "`worker_shutdown`",
        "`heartbeat_sent`",
        "`before_task_publish`, `after_task_publish`",
        "`task_received`",
        "`task_prerun`",
        "`task_postrun`",
        "`task_success`",
        "`task_failure`",
        "`task_retry`",
        "`task_revoked`",
        "`task_unknown`",
        "`task_rejected`",
        "a receiver that raises",
    ],
    "event": [
        "`worker-heartbeat`",
        "`task-sent`",
        "`task-received`, `task-started`, `task-succeeded`",
        "`task-failed`",
        "`task-retried`",
        "`task-revoked`",
    ],
    "around it": [
        "`sentry-sdk`",
        "OpenTelemetry's instrumentation",
        "Flower",
        "Flask's task class",
    ],
}

_CONCURRENCY = "tests/integration/test_concurrency.py"
_WORKER = "tests/integration/test_worker.py::test_events_reach_every_consumer_and_leave_the_queue"
_ON_RABBITMQ = "tests/integration/test_worker.py::test_a_worker_on_rabbitmq_does_the_same"
_LIMIT = f"{_CONCURRENCY}::test_no_more_run_at_once_than_the_limit_allows_and_others_go_on"
_CLUSTER = f"{_CONCURRENCY}::test_all_workers_together_keep_a_limit_for_the_cluster"
_POOLS = "tests/integration/test_pools.py::test_a_pool_executes_as_many_events_at_once_as_it_can"
_COLD = "tests/integration/test_resilience.py::test_a_cold_shutdown_loses_nothing"
_QUORUM = "tests/integration/test_task_queues.py::test_a_retry_declares_what_delays_tasks_again"
_TRACE = "tests/integration/test_tracing.py::test_one_trace_leads_from_the_logger_to_every_task"
_SENTRY = "tests/integration/test_habits.py::test_sentry_shows_a_failing_consumer_once"
_HABITS = "tests/integration/test_habits.py::test_habits_of_celery_teams_hold_in_a_worker"
_SETTINGS = "tests/integration/test_celery_settings.py::test_settings_that_no_other_worker_has"

_REDIS, _RABBITMQ = [HAND_OFF_REDIS, PUBLISH_REDIS], [HAND_OFF_RABBITMQ, PUBLISH_RABBITMQ]

#: Features that other tests show, by column.
SHOWN_BY: dict[str, dict[str, str]] = {
    "threads": {**dict.fromkeys(_REDIS, _WORKER), **dict.fromkeys(_RABBITMQ, _ON_RABBITMQ)},
    "solo": {**dict.fromkeys(_REDIS, _WORKER), **dict.fromkeys(_RABBITMQ, _ON_RABBITMQ)},
    "gevent": {**dict.fromkeys(_REDIS, _LIMIT), **dict.fromkeys(_RABBITMQ, _ON_RABBITMQ)},
    "eventlet": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _LIMIT),
    "celery-aio-pool": {HAND_OFF_REDIS: _POOLS},
    "several workers": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _CLUSTER),
    "a cold shutdown, also after a warm one": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _COLD),
    "worker_soft_shutdown_timeout": {HAND_OFF_REDIS: _COLD},
    "REMAP_SIGTERM": dict.fromkeys(COLUMNS, _SETTINGS),
    "worker_disable_prefetch": dict.fromkeys([*_REDIS, HAND_OFF_RABBITMQ], _SETTINGS),
    "worker_hijack_root_logger": dict.fromkeys(COLUMNS, _SETTINGS),
    "quorum queues with native delayed delivery": {PUBLISH_RABBITMQ: _QUORUM},
    "result_backend file system": dict.fromkeys(COLUMNS, _SETTINGS),
    "sentry-sdk": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _SENTRY),
    "OpenTelemetry's instrumentation": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _TRACE),
    "Flower": {
        HAND_OFF_REDIS: "tests/integration/test_flower.py::test_the_tasks_page_shows_which_event_each_task_is_for"
    },
    "Flask's task class": dict.fromkeys([HAND_OFF_REDIS, PUBLISH_REDIS], _HABITS),
}

#: Features that worked when somebody tried them, and that no test tries there, by column.
BY_HAND: dict[str, list[str]] = {
    **dict.fromkeys(["eventlet", "several workers"], _RABBITMQ),
    "a cold shutdown, also after a warm one": _RABBITMQ,
    "worker_soft_shutdown_timeout": [PUBLISH_REDIS, *_RABBITMQ],
    "worker_disable_prefetch": [PUBLISH_RABBITMQ],
    **{key: [HAND_OFF_REDIS] for key in ["celery multi", "--detach"]},
    "celery-aio-pool": [PUBLISH_REDIS],
    **dict.fromkeys(["task_compression", "result_backend rpc"], _REDIS),
    **dict.fromkeys(["worker_enable_prefetch_count_reduction", "task_acks_on_failure_or_timeout = False"], _REDIS),
}

#: What nobody has tried, by group.
NOT_TRIED = {
    "setting": "`msgpack`, `worker_cancel_long_running_tasks_on_connection_loss`, "
    "`worker_deduplicate_successful_tasks`",
    "result": "django-db as `result_backend`",
    "signal": "`task_internal_error`",
    "around it": "ddtrace, celery-exporter, celery-batches, celery-redbeat, django-celery-beat, the worker of "
    "`celery.contrib.pytest`, Redis Sentinel, `rediss://`, SQS as Celery's own broker",
}
