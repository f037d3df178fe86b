"""Configures `celery -A balog_celery` in this folder: Celery's settings, and balog_celery's, prefixed `balog_`.

With no broker_url and no balog_endpoint_url (nor their environment variables), a private broker and a local SQS run
beside the worker: for development only. In production, say:

    broker_url = "redis://redis.internal:6379/0"    # or RabbitMQ, or any transport of Celery's
    balog_region = "eu-west-1"                      # credentials come from boto3's own chain
"""

balog_packages = ["examples.metrics"]
balog_operator = "examples.metrics.operator:operator"
