"""Builds the ASGI application of the web page, and serves it."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import uvicorn
from celery import Celery
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import BalogError
from ..text import printable
from .access import Access, Role
from .dead_pages import DeadPages
from .pages import Pages
from .pause_pages import PausePages
from .sampler import Sampler
from .security import Guard, SecurityHeaders
from .site import Site

logger = logging.getLogger(__name__)

#: The names of a machine for itself.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::")


def create_app(
    app: Celery,
    access: Access,
    *,
    hosts: Collection[str] = (),
    interval: float = 30.0,
    flower: str | None = None,
) -> Starlette:
    """Return the ASGI application of the web page.

    :param app: the Celery app, with its consumers loaded.
    :param access: finds the users.
    :param hosts: the names under which it is served, beside those of the loopback interface.
    :param interval: the time between samples, in seconds.
    :param flower: the address of Flower.
    """
    sampler = Sampler(app, interval)
    site = Site(app, access, sampler, flower)
    pages, dead, pauses = Pages(site), DeadPages(site), PausePages(site)
    names = frozenset(name.lower() for name in (*_LOOPBACK, *hosts))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sampler.start()
        yield
        sampler.stop()

    return Starlette(
        routes=[
            Route("/", site.page(Role.VIEWER, pages.topics)),
            Route("/consumers", site.page(Role.VIEWER, pages.consumers)),
            Route("/consumers", site.action(Role.VIEWER, pages.explain), methods=["POST"]),
            Route("/event", site.page(Role.VIEWER, pages.event)),
            Route("/dead", site.page(Role.VIEWER, dead.groups)),
            Route("/dead/scan", site.action(Role.READER, dead.scan), methods=["POST"]),
            Route("/dead/groups/{key}", site.page(Role.READER, dead.group)),
            Route("/dead/messages/{id}", site.page(Role.READER, dead.one)),
            Route("/dead/actions", site.action(Role.READER, dead.act), methods=["POST"]),
            Route("/pauses", site.action(Role.OPERATOR, pauses.act), methods=["POST"]),
            Route("/jobs/{number:int}", site.page(Role.VIEWER, dead.job)),
            Route("/jobs/{number:int}/stop", site.action(Role.OPERATOR, dead.stop), methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("balog_celery.web", "static")])),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=_as_in_requests(names), www_redirect=False),
            Middleware(Guard, access=access, hosts=names),
        ],
        exception_handlers={HTTPException: site.refused, Exception: site.refused},
        lifespan=lifespan,
    )


def _as_in_requests(names: Collection[str]) -> list[str]:
    """Return *names* as a ``Host`` header has them: addresses of IPv6 in brackets."""
    return [f"[{name}]" if ":" in name else name for name in sorted(names)]


def serve(
    app: Celery,
    access: Access,
    host: str,
    port: int,
    *,
    hosts: Collection[str] = (),
    interval: float = 30.0,
    flower: str | None = None,
) -> None:
    """Serve the web page until SIGTERM or Ctrl-C.

    :param host: the address to listen on.
    :param port: the port.
    :raises BalogError: it cannot listen there.
    """
    own = () if host in _ANY else (host.strip("[]"),)
    application = create_app(app, access, hosts=(*hosts, *own), interval=interval, flower=flower)
    # Without proxy headers: the address of a proxy decides whether the name that it sends is trusted.
    config = uvicorn.Config(
        application, log_config=None, access_log=False, proxy_headers=False, server_header=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    # Opened here: uvicorn would log why it cannot, and exit with a code of its own.
    sockets = _listen(host.strip("[]"), port)
    logger.info("the web page is at http://%s:%d", f"[{host}]" if ":" in host else host, port)
    uvicorn.Server(config).run(sockets)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on the addresses of *host*; those of a family that this machine lacks are left out.

    :raises BalogError: one is in use, or there is none.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                sockets.append(socket.create_server(address, family=family))
            except OSError as error:
                failure = error
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
        if failure is not None and not sockets:
            raise failure
    except OSError as error:
        for one in sockets:
            one.close()
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
        raise BalogError(
            f"the page cannot listen on --host {printable(host)} --port {port}: {reason}: choose another, or stop what "
            "uses it"
        ) from error
    return sockets
