"""The engines of an app: those that workers report, and those on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from celery import Celery

from ..engine.status import problems

#: How long workers may take to answer, in seconds.
_TIMEOUT = 2.0


class EngineReport(NamedTuple):
    """An engine.

    :param name: the worker beside which it runs, or its process.
    :param topics: the status of each topic.
    :param problems: one line each.
    """

    name: str
    topics: Mapping[str, Mapping[str, Any]]
    problems: list[str]


def engine_reports(app: Celery) -> list[EngineReport]:
    """Return the engines that workers report to ``inspect balog``, and those that run on this machine without a worker.

    :raises Exception: the error of the broker's client, if the broker cannot be reached.
    """
    local = {_identity(status): status for status in app.balog.statuses()}
    reports = []
    for answer in app.control.broadcast("balog", reply=True, timeout=_TIMEOUT) or ():
        for worker, reply in answer.items():
            if isinstance(reply, dict) and "problems" in reply:
                status = reply["engine"] or {"topics": {}}
                local.pop(_identity(status), None)
                reports.append(EngineReport(worker, status["topics"], reply["problems"]))
    reports += [
        EngineReport(f"{status['host']}, process {status['pid']}", status["topics"], problems(status))
        for status in local.values()
    ]
    return sorted(reports, key=lambda report: report.name)


def _identity(status: Mapping[str, Any]) -> tuple[object, object]:
    return status.get("host"), status.get("pid")
