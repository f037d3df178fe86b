"""Pauses and resumes topics and consumers, as ``celery control balog_pause`` and ``balog_resume`` do."""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..text import printable
from .questions import ask
from .security import audit
from .site import Site

#: How long workers may take to answer, in seconds.
_TIMEOUT = 2.0
_VERBS = ("pause", "resume")


class Answer(NamedTuple):
    """What a worker answered.

    :param worker: its node name.
    :param text: what it has done, or why it has not.
    :param is_done: whether it has done it.
    """

    worker: str
    text: str
    is_done: bool


class PausePages:
    """The views of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def act(self, request: Request, form: FormData) -> Response:
        """Pause or resume a topic or a consumer in all workers, and show what each has answered."""
        verb, name = str(form.get("action", "")), str(form.get("name", ""))
        balog = self._site.app.balog
        if verb not in _VERBS or name not in {*balog.topics(), *(consumer.task_name for consumer in balog.hub)}:
            raise HTTPException(400, "There is no such action, topic or consumer.")
        audit(request, verb, name=name)
        answers = sorted(ask(lambda: self._answers(verb, name)))
        audit(request, f"{verb}d", name=name, workers=sum(answer.is_done for answer in answers))
        return self._site.render(request, "paused.html", title=f"{verb.title()} {name}", verb=verb, answers=answers)

    def _answers(self, verb: str, name: str) -> list[Answer]:
        replies: list[dict[str, Any]] = self._site.app.control.broadcast(
            f"balog_{verb}", arguments={"names": [name]}, reply=True, timeout=_TIMEOUT
        )
        return [
            Answer(
                printable(worker), printable(reply.get("ok") or reply.get("error") or "unknown command"), "ok" in reply
            )
            for one in replies or ()
            for worker, reply in one.items()
        ]
