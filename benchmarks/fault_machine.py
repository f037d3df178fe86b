"""Faults of the machine and its installation: names, the disk, and the release of the package."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_sqs import FaultySqs
from fault_worker import Worker

#: Seconds for which names do not resolve, or the disk is full.
DOWN = (1.0, 6.0)
#: Seconds that an engine and a worker of different releases work together, and that a worker needs to start.
MIXED, STARTED = 3.0, 5.0
#: How many workers a rolling restart replaces.
ROLLED = 3
#: How many calls lose their connection when names stop resolving: connections that are open need no name.
CLOSED = 20

#: A double for a DNS server that does not answer: in all processes of the worker the name of SQS does not resolve while
#: a file exists. Each failed lookup is a byte in another file.
RESOLVER = """
import os
import socket

resolve = socket.getaddrinfo


def getaddrinfo(host, *args, **kwargs):
    if host in ("localhost", b"localhost") and os.path.exists({failing!r}):
        with open({lookups!r}, "a") as file:
            file.write(".")
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return resolve(host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
"""
#: A double for the next release: its messages have more fields, and each comes with one of an unknown kind.
NEXT_PROTOCOL = """

VERSION += 1
"""
NEXT_CHANNEL = """

_send, _later = Channel.send, {}


class _Novelty(tuple):
    pass


KIND_OF[_Novelty] = "novelty"


def _send_more(self, *messages, **options):
    more = []
    for message in messages:
        later = _later.setdefault(type(message), type("Later", (tuple,), {}))
        KIND_OF[later] = KIND_OF[type(message)]
        more.append(_Novelty([1, {"a": "message of a later release"}]))
        more.append(later((*message, {"field": "of a later release"})))
    return _send(self, *more, **options)


Channel.send = _send_more
"""


class Machine:
    """The names, the disk and the installation that a worker finds.

    :param folder: where it keeps its files.
    :param package: the package under test.
    :param other: a folder with another release of the package; None: a double for the next one.
    """

    def __init__(self, folder: Path, package: Path, other: Path | None) -> None:
        self._failing, self._lookups = folder / "names-fail", folder / "failed-lookups"
        site = folder / "site"
        site.mkdir()
        text = RESOLVER.format(failing=str(self._failing), lookups=str(self._lookups))
        (site / "sitecustomize.py").write_text(text)
        self._installed = folder / "installed"
        self._installed.symlink_to(package.parent)
        self._others = [other or _next_release(package, folder / "next"), package.parent]
        #: Where a worker's Python looks for modules.
        self.python_path = f"{site}:{self._installed}"

    @property
    def failed_lookups(self) -> int:
        """Return how often a name did not resolve."""
        return self._lookups.stat().st_size if self._lookups.exists() else 0

    def fail_names(self) -> None:
        """Have the name of SQS resolve no more."""
        self._failing.touch()

    def mend_names(self) -> None:
        """Have it resolve again."""
        self._failing.unlink()

    def install_other_release(self) -> None:
        """Install the other release: engines and workers that start from now on are of it."""
        release = self._others.pop(0)
        self._others.append(release)
        link = self._installed.with_name("installing")
        link.symlink_to(release)
        link.replace(self._installed)


def _next_release(package: Path, folder: Path) -> Path:
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for module, text in (("protocol", NEXT_PROTOCOL), ("channel", NEXT_CHANNEL)):
        with (folder / package.name / "dispatch" / f"{module}.py").open("a") as file:
            file.write(text)
    return folder


class MachineFaults:
    """Brings the faults about.

    :param did: is called with the name of each fault that happened.
    """

    def __init__(
        self, machine: Machine, worker: Worker, sqs: FaultySqs, draw: random.Random, did: Callable[[str], None]
    ) -> None:
        self._machine = machine
        self._worker = worker
        self._sqs = sqs
        self._random = draw
        self._did = did

    def fail_names(self, meanwhile: Callable[[], Iterator[float]] | None = None) -> Iterator[float]:
        """Have names not resolve for some seconds, and close connections, so that names are needed."""
        before = self._machine.failed_lookups
        self._machine.fail_names()
        self._sqs.get("/fault", {"hang_up": True, "times": CLOSED, "name": "closed_without_names"})
        if meanwhile is not None:
            yield from meanwhile()
        yield self._random.uniform(*DOWN)
        self._sqs.get("/release")
        self._machine.mend_names()
        if self._machine.failed_lookups > before:
            self._did("names_failed")

    def fill_disk(self) -> Iterator[float]:
        """Refuse the engine and the worker every byte in a file, log files included, for some seconds.

        It is the kernel's limit on the size of files (EFBIG) instead of a full disk (ENOSPC): that needs no privilege.
        Children that start meanwhile have it as well, and their functions fail.
        """
        pids = [*self._worker.processes(engine=True), self._worker.program.pid]
        for limit, wait in ((0, self._random.uniform(*DOWN)), (resource.RLIM_INFINITY, 0.0)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                    self._did("disk_full" if wait else "disk_has_room")
            yield wait

    def roll(self) -> Iterator[float]:
        """Restart three workers one after the other, each of another release than the former.

        The former worker first gets an engine of the new release, as it does if that is installed while it runs.
        """
        for _ in range(ROLLED):
            self._machine.install_other_release()
            for engine in self._worker.processes(engine=True):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(engine, signal.SIGKILL)
                    self._did("engine_of_another_release")
            yield MIXED
            former = self._worker.program
            self._worker.start()
            self._did("worker_of_another_release")
            yield STARTED
            former.signal(signal.SIGTERM)
