"""The log of a worker and its engine, with the documentation's own lines in its configuration."""

from __future__ import annotations

from documents import ROOT, code_blocks
from project import Project, Start, Topic

import servers
from balog_celery.events.records import FacilityRecord, decode
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]


def records(program: servers.Program) -> list[FacilityRecord]:
    """Every line after the banner; one that is no record is an error."""
    # What follows the last line break is a line that is being written.
    lines = program.output.rpartition("\n")[0].splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith("{")), len(lines))
    return [decode(line) for line in lines[begin:] if line]


def test_the_schema_formatter_formats_all_that_a_worker_logs(start: Start, project: Project, topic: Topic) -> None:
    """SchemaFormatter writes the lines of worker, engine, tasks and tracebacks as records, and names the event."""
    for block in code_blocks((ROOT / "docs" / "observing.md").read_text(), "python"):
        project.add(block)
    topic.send(event_text("e1", values=METRIC), event_text("e2", "doomed"))
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("failed permanently on event e2", 60)

    def logged(channel: str, text: str) -> FacilityRecord | None:
        found = [one for one in records(worker) if one.header.channel == channel and text in one.payload.message]
        return found[0] if found else None

    shown = f"<Event e1 cls_type=metrics topic={topic.name}>"
    for channel, text in [
        ("celery.apps.worker", "ready."),
        ("balog_celery.engine.engine", "engine started"),
        ("celery.worker.strategy", f"received: ({shown},)"),
        ("celery.app.trace", "proj.consumers.first"),
        ("balog_celery.tasks.dead_letter", "failed permanently on event e2"),
    ]:
        found = servers.wait_until(lambda: logged(channel, text), 40, f"{text} of {channel}")  # noqa: B023
        assert found.payload.cls_type == "log"
    raised = servers.wait_until(lambda: logged("celery.app.trace", "ValueError"), 40, "the failure")
    assert raised.payload.severity == "error"
    assert "in doomed" in raised.payload.exc_text
