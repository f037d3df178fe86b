"""The users of the web page: who they are, and what they may see and do."""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from celery.utils.imports import cwd_in_path, symbol_by_name
from starlette.requests import Request

from ..errors import ConfigurationError
from ..signatures import why_not
from ..text import printable

logger = logging.getLogger(__name__)

#: How many addresses are told of whose header is ignored.
_MAX_WARNED = 100
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_BASIC = re.compile(r"basic:(?P<user>[^:]+):(?P<kind>env|file):(?P<where>.+)")


class Role(enum.IntEnum):
    """What a user may do. Each role may do what those before it may."""

    #: May see topics, consumers, and how many dead letters there are, but no event.
    VIEWER = 1
    #: May see and export events.
    READER = 2
    #: May replay and delete dead letters, and pause and resume topics and consumers.
    OPERATOR = 3


class User(NamedTuple):
    """A user of one request."""

    name: str
    role: Role


#: Returns the name, or the name and the role, of the user who sent a request; None if it is not known.
Authenticate = Callable[[Request], "str | tuple[str, str] | None"]


class Access:
    """Finds the user of a request.

    :param authenticate: None: there is no authentication, and each request has the default role.
    :param roles: the role of each user; "" is the default.
    :param read_only: no user is an operator.
    :param asks_password: whether a browser is asked for a password.
    """

    def __init__(
        self,
        authenticate: Authenticate | None,
        roles: Mapping[str, Role],
        *,
        read_only: bool = False,
        asks_password: bool = False,
    ) -> None:
        self._authenticate = authenticate
        self._roles = dict(roles)
        self._highest = Role.READER if read_only else Role.OPERATOR
        self.asks_password = asks_password

    def user_of(self, request: Request) -> User | None:
        """Return the user who sent *request*; None if it is not authenticated."""
        if self._authenticate is None:
            return User("anonymous", min(self._roles[""], self._highest))
        found = self._authenticate(request)
        if not found:
            return None
        name, role = (found, None) if isinstance(found, str) else found
        given = self._roles.get(name, self._roles[""]) if role is None else role_named(role)
        return User(printable(name, 100), min(given, self._highest))


def role_named(name: str) -> Role:
    """Return the role of that name.

    :raises ConfigurationError: there is none.
    """
    try:
        return Role[name.upper()]
    except KeyError:
        names = ", ".join(role.name.lower() for role in Role)
        raise ConfigurationError(f"there is no role {printable(name)}: the roles are {names}") from None


def read_access(
    auth: Sequence[str], roles: Sequence[str], proxies: Sequence[str], host: str, *, read_only: bool
) -> Access:
    """Return the access that the options of ``balog web`` describe.

    :param auth: ``basic:USER:env:VARIABLE``, ``basic:USER:file:PATH``, ``header:NAME`` or ``module:callable``.
    :param roles: ``USER=ROLE``, or ``ROLE`` for all other users.
    :param proxies: the addresses and networks whose header is trusted.
    :param host: the address to listen on.
    :raises ConfigurationError: one of them is wrong, or other machines could reach the page without authentication.
    """
    if not auth and not read_only and not is_loopback(host):
        raise ConfigurationError(
            f"--host {printable(host)} can be reached from other machines: give --auth or --read-only, "
            "or listen on 127.0.0.1"
        )
    trusted = [*map(_network, proxies)]
    default = Role.VIEWER if auth or not is_loopback(host) else Role.OPERATOR
    table = {"": default}
    for one in roles:
        user, _, role = one.rpartition("=")
        table[user] = role_named(role)
    passwords = {match["user"]: _password(match) for one in auth if (match := _BASIC.fullmatch(one))}
    others = [one for one in auth if not _BASIC.fullmatch(one)]
    if not auth:
        return Access(None, table, read_only=read_only)
    ways: list[Authenticate] = [_basic(passwords)] if passwords else []
    ways += [_authenticator(one, trusted) for one in others]

    def authenticate(request: Request) -> Any:
        return next((user for way in ways if (user := way(request))), None)

    return Access(authenticate, table, read_only=read_only, asks_password=bool(passwords))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach *host*, an address or ``localhost``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _password(match: re.Match[str]) -> bytes:
    kind, where = match["kind"], match["where"]
    try:
        found = os.environ.get(where, "") if kind == "env" else Path(where).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the password file {printable(where)} cannot be read: {error}") from error
    if not found:
        place = f"environment variable {where}" if kind == "env" else f"file {where}"
        raise ConfigurationError(f"--auth: the {printable(place)} holds no password for {printable(match['user'])}")
    return found.encode()


def _basic(passwords: Mapping[str, bytes]) -> Authenticate:
    def authenticate(request: Request) -> str | None:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, given = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        # A user who does not exist takes as long as one who does.
        is_right = hmac.compare_digest(passwords.get(name, b""), given.encode())
        return name if is_right and name in passwords else None

    return authenticate


def _authenticator(given: str, proxies: Sequence[_Network]) -> Authenticate:
    kind, _, header = given.partition(":")
    if kind == "header" and header:
        return _by_header(header, proxies)
    if kind == "basic":
        raise ConfigurationError(
            f"--auth {printable(given)}: write basic:USER:env:VARIABLE or basic:USER:file:PATH; a password on the "
            "command line could be read by other users"
        )
    try:
        with cwd_in_path():
            found = symbol_by_name(given)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"--auth {printable(given)} cannot be imported: {error}") from error
    if wrong := why_not(found, "request"):
        raise ConfigurationError(f"--auth {printable(given)}: {wrong}: name a function that takes the request")
    return found  # type: ignore[no-any-return]


def _by_header(header: str, proxies: Sequence[_Network]) -> Authenticate:
    warned: set[str] = set()

    def authenticate(request: Request) -> str | None:
        name = request.headers.get(header)
        if not name:
            return None
        # Anyone else who can connect could write any name into the header.
        host = request.client.host if request.client is not None else ""
        if any(_is_in(host, network) for network in proxies):
            return name
        if host not in warned and len(warned) < _MAX_WARNED:
            warned.add(host)
            logger.warning(
                "%s sent the header %s, and is no --trusted-proxy: the header is ignored",
                printable(host) or "a client without an address",
                printable(header),
            )
        return None

    return authenticate


def _network(proxy: str) -> _Network:
    """Return the addresses that a value of ``--trusted-proxy`` names.

    :raises ConfigurationError: it is no address, and no network.
    """
    try:
        network = ipaddress.ip_network(proxy.strip("[]"), strict=False)
    except ValueError:
        raise ConfigurationError(
            f"--trusted-proxy {printable(repr(proxy))} is no address: give one such as 10.0.0.5, or a network such as "
            "10.0.0.0/8"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def _is_in(host: str, network: _Network) -> bool:
    """Return whether *host* is in *network*; one of IPv4 may be written as one of IPv6, ``::ffff:10.0.0.5``."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # such as the path of a socket
        return False
    return address in network or (getattr(address, "ipv4_mapped", None) or address) in network
