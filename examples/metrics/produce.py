"""What produces the events: run it, and it prints them, one a line."""

from balog_celery import configure, get_logger

balogger = get_logger("myproj.jobs")


def main() -> None:
    """Log what three runs of a job did."""
    configure(context={"application": "myproj", "application_version": "1.0"})
    for run in (1, 2, 3):
        balogger.info(
            "done",
            payload={
                "cls_type": "metrics",
                "values": [{"name": "total", "value": 100 * run}, {"name": "failed", "value": run}],
            },
        )


if __name__ == "__main__":
    main()
