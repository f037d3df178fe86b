"""The pages about dead letters, and what users do with those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ..dead_letters.reader import DeadLetter
from ..events.serialization import MAX_NAME
from ..tasks.naming import task_id
from ..text import printable
from . import dead_letters
from .access import Role
from .history import history_of
from .security import audit, require, user_of
from .site import Site

#: The most dead letters in a page.
_SHOWN = 100


class DeadPages:
    """The views of one site. Each takes a request, and a form if it answers one."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def groups(self, request: Request) -> Response:
        """Show the dead letters by consumer and error."""
        text, scan = request.query_params.get("q", "").strip(), self._site.scan
        with_bodies = user_of(request).role >= Role.READER
        return self._site.render(
            request,
            "dead.html",
            title="Dead letters",
            text=text,
            scan=scan,
            groups=[] if scan is None else scan.groups(text, with_bodies=with_bodies),
            jobs=self._site.jobs.all(),
            queued=sum(int(history.last.dead or 0) for history in self._site.sampler.topics.values()),
        )

    def scan(self, request: Request, form: FormData) -> Response:
        """Read the dead letters."""
        self._site.scan = dead_letters.scan(self._site.app)
        audit(request, "scan", looked=len(self._site.scan.found))
        return RedirectResponse("/dead", 303)

    def group(self, request: Request) -> Response:
        """Show the dead letters of one group."""
        scan = self._site.scan
        found = None if scan is None else scan.group(request.path_params["key"])
        if found is None:
            raise HTTPException(404, "There is no such group in the last scan. Scan again.")
        return self._site.render(
            request, "group.html", title="Dead letters", group=found, members=found.members[:_SHOWN], scan=scan
        )

    def one(self, request: Request) -> Response:
        """Show one dead letter."""
        scan = self._site.scan
        found = None if scan is None else scan.by_message(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "There is no such dead letter in the last scan. Scan again.")
        audit(request, "show", event=found.id, message=found.message.message_id)
        task = task_id(found.event.header.id, found.consumer) if found.event is not None and found.consumer else ""
        return self._site.render(
            request,
            "dead_letter.html",
            title="Dead letter",
            dead=found,
            task=task,
            traceback=self._traceback(task),
            history=history_of(
                found,
                self._site.sampler.activity.steps(printable(found.id, MAX_NAME)),
                [job for job in self._site.jobs.all() if job.is_of(found)],
            ),
        )

    def _traceback(self, task: str) -> str:
        """Return the traceback of a task, if the result backend has it."""
        if not task:
            return ""
        try:
            return str(self._site.app.AsyncResult(task).traceback or "")
        except Exception:  # of the backend's client; a disabled one raises, too
            return ""

    def act(self, request: Request, form: FormData) -> Response:
        """Replay, delete or export the selected dead letters."""
        selected = self._selected(form)
        ids = frozenset(one.message.message_id for one in selected)
        action = str(form.get("action", ""))
        if not ids:
            raise HTTPException(400, "Select at least one dead letter.")
        if action == "export":
            audit(request, "export", count=len(ids))
            headers = {"Content-Disposition": 'attachment; filename="dead-letters.jsonl"'}
            return PlainTextResponse(dead_letters.export(selected), headers=headers)
        require(request, Role.OPERATOR)
        if action == "replay" or action == "dry-run":
            return self._replay(request, selected, _rate(form), dry_run=action == "dry-run")
        if action != "drop":
            raise HTTPException(400, "There is no such action.")
        if form.get("confirmed") != "yes":
            return self._site.render(request, "confirm.html", title="Delete dead letters?", selected=selected)
        return self._drop(request, ids)

    def _selected(self, form: FormData) -> list[DeadLetter]:
        scan = self._site.scan
        if scan is None:
            return []
        if key := form.get("group"):
            found = scan.group(str(key))
            return [] if found is None else found.members
        return [one for given in form.getlist("id") if (one := scan.by_message(str(given))) is not None]

    def _replay(
        self, request: Request, selected: Sequence[DeadLetter], rate: float | None, *, dry_run: bool
    ) -> Response:
        job = self._site.jobs.start(user_of(request).name, selected, rate, dry_run=dry_run)
        action = "dry-run" if dry_run else "replay"
        audit(request, action, job=job.number, count=len(selected), rate=rate or "unlimited")
        return RedirectResponse(f"/jobs/{job.number}", 303)

    def _drop(self, request: Request, ids: frozenset[str]) -> Response:
        audit(request, "drop", count=len(ids), messages=",".join(sorted(ids)))
        deleted = dead_letters.delete(self._site.app, ids)
        audit(request, "dropped", count=deleted)
        if self._site.scan is not None:
            self._site.scan = self._site.scan.without(ids)
        return self._site.render(
            request, "dropped.html", title="Dead letters deleted", deleted=deleted, missing=len(ids) - deleted
        )

    def job(self, request: Request) -> Response:
        """Show the progress of a replay."""
        return self._site.render(request, "job.html", title="Replay", job=self._job(request))

    def stop(self, request: Request, form: FormData) -> Response:
        """Stop a replay."""
        job = self._job(request)
        job.stop()
        audit(request, "stop", job=job.number)
        return RedirectResponse(f"/jobs/{job.number}", 303)

    def _job(self, request: Request) -> Any:
        job = self._site.jobs.get(request.path_params["number"])
        if job is None:
            raise HTTPException(404, "There is no such replay. The page was started again, or it was long ago.")
        return job


def _rate(form: FormData) -> float | None:
    given = str(form.get("rate", "")).strip()
    if not given:
        return None
    try:
        rate = float(given)
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate >= 0.01):
        raise HTTPException(400, "The rate is a number of events per second, at least 0.01.")
    return rate
