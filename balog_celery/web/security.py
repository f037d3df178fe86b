"""Guards the pages: host, user, headers, tokens against forged requests, and the audit log."""

from __future__ import annotations

import logging
import secrets
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..text import printable
from .access import Access, Role, User

logger = logging.getLogger(__name__)

#: The largest request, in bytes: an event that a user pastes.
MAX_REQUEST = 2_097_152
#: How long a form may be sent after its page was shown, in seconds.
_TOKEN_AGE = 12 * 3600
_COOKIE = "balog_web"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityHeaders:
    """Adds security headers to every response, errors included. Pages are not cached: they may hold events."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Guard:
    """Lets only known users through, and no request that is too large or that another site sent.

    :param hosts: the names under which the page is served.
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: frozenset[str]) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            if refused := self._refuse(request):
                await refused(scope, receive, send)
                return
            user = await run_in_threadpool(self._access.user_of, request)
            if user is None:
                await self._unknown()(scope, receive, send)
                return
            request.state.user = user
        await self._app(scope, receive, send)

    def _refuse(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Method not allowed", 405)
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is not None and (urlsplit(origin).hostname or "") not in self._hosts:
                return PlainTextResponse("This request came from another site.", 403)
            length = request.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MAX_REQUEST:
                return PlainTextResponse(f"A request has {MAX_REQUEST} bytes at most.", 413)
        return None

    def _unknown(self) -> Response:
        if not self._access.asks_password:
            return PlainTextResponse("You are not authenticated.", 403)
        challenge = {"WWW-Authenticate": 'Basic realm="balog", charset="UTF-8"'}
        return PlainTextResponse("A user name and a password are needed.", 401, challenge)


class Tokens:
    """Makes and checks the tokens in forms. A token is good for one browser and one user.

    The key lives as long as the process: after a restart, pages must be loaded again.
    """

    def __init__(self) -> None:
        self._serializer = URLSafeTimedSerializer(secrets.token_bytes(32), salt="balog-web-form")

    def issue(self, request: Request, session: str) -> str:
        """Return the token for forms in the answer to *request*."""
        return self._serializer.dumps([session, user_of(request).name])

    def check(self, request: Request, token: object) -> None:
        """Check the token that came with *request*.

        :raises HTTPException: it is not good.
        """
        try:
            session, name = self._serializer.loads(str(token), max_age=_TOKEN_AGE)
        except (BadData, ValueError, TypeError):
            session, name = "", ""
        cookie = request.cookies.get(_COOKIE, "")
        if not cookie or not secrets.compare_digest(session.encode(), cookie.encode()) or name != user_of(request).name:
            raise HTTPException(403, "This form is too old, or came from another site. Load the page again.")


def session_of(request: Request) -> str:
    """Return the random text that identifies the browser; a new one at its first request."""
    return request.cookies.get(_COOKIE) or secrets.token_urlsafe(24)


def set_session(request: Request, response: Response, session: str) -> None:
    """Have the browser send *session* with its next requests, if it does not already."""
    if request.cookies.get(_COOKIE) != session:
        secure = request.url.scheme == "https"
        response.set_cookie(_COOKIE, session, secure=secure, httponly=True, samesite="strict", path="/")


def user_of(request: Request) -> User:
    """Return the user who sent *request*."""
    user: User = request.state.user
    return user


def require(request: Request, role: Role) -> None:
    """Check that the user has *role*.

    :raises HTTPException: the role is lower.
    """
    if user_of(request).role < role:
        raise HTTPException(
            403, f"This needs the role {role.name.lower()}; yours is {user_of(request).role.name.lower()}."
        )


def audit(request: Request, action: str, **about: object) -> None:
    """Log an action: who, from where, what. No content of an event may be in *about*."""
    user, client = user_of(request), request.client.host if request.client is not None else "?"
    details = " ".join(f"{name}={printable(value)}" for name, value in about.items())
    logger.info(
        "audit: user=%s role=%s from=%s action=%s %s", user.name, user.role.name.lower(), client, action, details
    )
