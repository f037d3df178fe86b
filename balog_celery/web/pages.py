"""The pages about topics, consumers and events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from ..cli.consumers import describe_consumer
from ..cli.explain import explain_body
from ..errors import BalogError, DecodeError
from ..sqs.addresses import queue_name
from ..text import printable
from .lineage import lineage_of
from .security import MAX_REQUEST
from .site import Site
from .story import TaskReport, shown_id, tasks_of


class Pages:
    """The views of one site. Each takes a request, and a form if it answers one."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def topics(self, request: Request) -> Response:
        """Show the topics and the engines."""
        sampler, text = self._site.sampler, request.query_params.get("q", "").strip()
        histories = {topic: one for topic, one in sampler.topics.items() if text.lower() in topic.lower()}
        engines = {
            topic: [
                (report.name, report.topics[name], [one for one in report.problems if f"topic {name}:" in one])
                for report in sampler.engines
                if (name := printable(queue_name(topic))) in report.topics
            ]
            for topic in histories
        }
        return self._site.render(
            request,
            "topics.html",
            title="Topics",
            histories=histories,
            engines=engines,
            sampler=sampler,
            text=text,
            paused=sampler.paused(),
        )

    def consumers(self, request: Request) -> Response:
        """Show the consumers, and a form for an event."""
        sample = request.query_params.get("sample")
        return self._consumers(request, body="" if sample is None else _sample(sample), topic="", answers=None)

    def explain(self, request: Request, form: FormData) -> Response:
        """Show which consumers get the event in the form."""
        body, topic = str(form.get("body", "")).strip()[:MAX_REQUEST], str(form.get("topic", ""))
        topic = topic if topic in self._site.app.balog.topics() else ""
        answers = explain_body(self._site.app, 1, body, topic or None) if body else []
        return self._consumers(request, body=body, topic=topic, answers=answers)

    def _consumers(self, request: Request, *, body: str, topic: str, answers: list[dict[str, Any]] | None) -> Response:
        balog = self._site.app.balog
        return self._site.render(
            request,
            "consumers.html",
            title="Consumers",
            consumers=[describe_consumer(self._site.app, consumer) for consumer in balog.hub],
            topics=sorted(balog.topics()),
            paused=self._site.sampler.paused(),
            tasks={consumer.task_name: self._site.sampler.activity.of(consumer.task_name) for consumer in balog.hub},
            samples=sorted({name for consumer in balog.hub for name in consumer.cls_types or ()}),
            body=body,
            topic=topic,
            answers=answers,
            records=self._records(body, topic) if answers else [],
        )

    def _records(self, body: str, topic: str) -> list[str]:
        """Return the records that the events in *body* become."""
        topics = list(self._site.app.balog.topics())
        try:
            events = self._site.app.balog.reader(topic or (topics[0] if len(topics) == 1 else ""))(body)
        except DecodeError:
            return []  # explain has the reason
        return [text for _, text in events]

    def event(self, request: Request) -> Response:
        """Show where an event is: its tasks in workers, and its dead letters."""
        event_id = shown_id(request.query_params.get("id", ""))
        tasks: list[TaskReport] = []
        problem = ""
        if event_id:
            try:
                tasks = tasks_of(self._site.app, event_id)
            except BalogError as error:
                problem = str(error)
        scan = self._site.scan
        dead = [] if scan is None or not event_id else scan.of_event(event_id)
        lineage = lineage_of(event_id, self._site.sampler.activity, scan) if event_id else None
        return self._site.render(
            request,
            "event.html",
            title=f"Event {event_id}" if event_id else "Event",
            event_id=event_id,
            tasks=tasks,
            steps=self._site.sampler.activity.steps(event_id),
            dead=dead,
            lineage=lineage,
            scan=scan,
            problem=problem,
        )


def _sample(cls_type: str) -> str:
    """Return a record of that type."""
    name = f"{cls_type[:-1]}example" if cls_type.endswith("*") else cls_type
    now = datetime.now(timezone.utc).isoformat()
    record: Mapping[str, Any] = {
        "schema": "0.0.1",
        "header": {"id": "example", "channel": "example", "timestamp": now, "context": {}},
        "payload": {"cls_type": name},
    }
    return json.dumps(record, indent=2)
