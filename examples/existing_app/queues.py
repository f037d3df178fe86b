"""Creates the queues that the app listens to. In production that is Terraform's work, or CloudFormation's."""

from balog_celery.queues import SQSQueue

if __name__ == "__main__":
    for name in ("shop-orders", "shop-orders-dead"):
        SQSQueue(name).create()
