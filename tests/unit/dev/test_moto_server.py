"""The local SQS refuses what web pages of other sites make a browser send."""

from __future__ import annotations

from typing import Any

import pytest

from balog_celery.dev.moto_server import NoBrowsers

HOST = {"HTTP_HOST": "127.0.0.1:4566"}


def status(environ: dict[str, Any]) -> str:
    answers: list[str] = []
    app = NoBrowsers(lambda _environ, start_response: start_response("200 OK", []) or [])
    list(app(environ, lambda status, _headers: answers.append(status)))
    return answers[0]


@pytest.mark.parametrize(
    "environ",
    [
        HOST,
        {"HTTP_HOST": "localhost:4566"},
        {**HOST, "HTTP_ORIGIN": "http://127.0.0.1:4566"},
        {**HOST, "HTTP_SEC_FETCH_SITE": "same-origin"},
        {**HOST, "HTTP_SEC_FETCH_SITE": "none"},
    ],
)
def test_programs_and_its_own_page_are_served(environ: dict[str, str]) -> None:
    """A client of SQS, and a page that the server itself has served, are answered."""
    assert status(environ) == "200 OK"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTP_HOST": "evil.example:4566"},
        {"HTTP_HOST": "127.0.0.1.evil.example:4566"},
        {**HOST, "HTTP_ORIGIN": "https://evil.example"},
        {**HOST, "HTTP_ORIGIN": "null"},
        {**HOST, "HTTP_ORIGIN": "http://127.0.0.1:8000"},
        {**HOST, "HTTP_SEC_FETCH_SITE": "cross-site"},
    ],
)
def test_other_sites_are_refused(environ: dict[str, str]) -> None:
    """A name that leads to this machine, a form and a picture of another site are refused."""
    assert status(environ) == "403 Forbidden"
