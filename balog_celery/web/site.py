"""What the pages share: the app, what was collected of it, and how a page is rendered."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

from celery import Celery
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ..errors import BalogError
from ..text import duration, printable_lines
from . import charts
from .access import Access, Role
from .dead_letters import Scan
from .jobs import Job, Jobs
from .masking import Masking
from .sampler import Sampler
from .security import Tokens, require, session_of, set_session, user_of
from .story import flower_address

#: What an endpoint of Starlette is.
Endpoint = Callable[[Request], Awaitable[Response]]


class Site:
    """The web page of one app.

    :param app: the app, with its consumers loaded.
    :param access: finds the users.
    :param sampler: collects numbers.
    :param flower: the address of Flower; None: there are no hyperlinks to it.
    """

    def __init__(self, app: Celery, access: Access, sampler: Sampler, flower: str | None) -> None:
        self.app = app
        self.access = access
        self.sampler = sampler
        self.flower = flower
        self.tokens = Tokens()
        self.masking = Masking(app.balog.settings.web_mask)
        self.jobs = Jobs(app, self._ended)
        #: The last scan of dead letters, which all users share.
        self.scan: Scan | None = None
        self._templates = _environment(self)

    def _ended(self, job: Job) -> None:
        if not job.tally.dry_run and not job.kept and not job.missing and self.scan is not None:
            self.scan = self.scan.without(job.message_ids)

    def render(self, request: Request, name: str, status: int = 200, **context: Any) -> Response:
        """Return a page."""
        session = session_of(request)
        user = user_of(request)
        text = self._templates.get_template(name).render(
            request=request,
            user=user,
            may_read=user.role >= Role.READER,
            may_act=user.role >= Role.OPERATOR,
            token=self.tokens.issue(request, session),
            **context,
        )
        # An event may hold lone surrogates, which UTF-8 cannot.
        response = HTMLResponse(text.encode("utf-8", "backslashreplace"), status)
        set_session(request, response, session)
        return response

    def page(self, role: Role, view: Callable[[Request], Response]) -> Endpoint:
        """Return the endpoint of a page for users with *role*."""

        async def endpoint(request: Request) -> Response:
            require(request, role)
            return await run_in_threadpool(self._answer, request, lambda: view(request))

        return endpoint

    def action(self, role: Role, act: Callable[[Request, FormData], Response]) -> Endpoint:
        """Return the endpoint of a form for users with *role*; the form must hold a good token."""

        async def endpoint(request: Request) -> Response:
            form = await request.form()
            self.tokens.check(request, form.get("token", ""))
            require(request, role)
            return await run_in_threadpool(self._answer, request, lambda: act(request, form))

        return endpoint

    def _answer(self, request: Request, answer: Callable[[], Response]) -> Response:
        try:
            return answer()
        except BalogError as error:
            return self.render(request, "error.html", 502, title="It did not work", text=str(error))

    def refused(self, request: Request, error: Exception) -> Response:
        """Return the page of an error."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = error.detail if isinstance(error, HTTPException) else "Unexpected error: see the log."
        if not hasattr(request.state, "user"):
            return HTMLResponse(text, status)
        return self.render(request, "error.html", status, title=f"Error {status}", text=text)


def _environment(site: Site) -> Environment:
    environment = Environment(
        loader=PackageLoader("balog_celery.web"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, ago=_ago, utc=_utc, seconds=_seconds, pretty=site.masking.pretty)
    environment.filters["masked"] = site.masking.text
    environment.filters["masked_field"] = site.masking.field
    environment.globals.update(
        sparkline=charts.sparkline, bars=charts.bars, flower=lambda found: flower_address(site.flower, found)
    )
    return environment


def _finalize(value: Any) -> Any:
    """Escape what could reorder or hide text on the page: a sender may write anything. HTML is this package's own."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else duration(value)


def _ago(value: datetime | None) -> str:
    return "–" if value is None else f"{_seconds((datetime.now(timezone.utc) - value).total_seconds())} ago"


def _utc(value: datetime | None) -> str:
    return "–" if value is None else re.sub(r"\+00:00$", "", value.isoformat(" ", "seconds")) + " UTC"
