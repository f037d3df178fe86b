"""Reads the commands and the code out of the documents, and runs the commands as a reader would, in a shell."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import Self

import servers
from balog_celery.pytest_plugin import missing

ROOT = Path(__file__).resolve().parents[2]

#: What decides where boto3 and Celery go: none of it may come from the machine that the tests run on.
_FOREIGN = re.compile(r"(AWS|CELERY|BALOG|FLOWER|MYPROJ|VIRTUAL_ENV|PYTHONPATH|BROKER_URL)")
#: What a copy of the repository leaves out: what is made by working in it.
_MADE = shutil.ignore_patterns(
    ".git",
    ".venv",
    ".balog",
    ".hypothesis",
    ".*_cache",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "tests",
    "benchmarks",
)


def code_blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of *language* in a document, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The indented command lines of a document, in order, without prompt and comment."""
    fences_out = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in fences_out.splitlines() if line.startswith("    ")]
    return [re.sub(r"\s+#.*", "", line.removeprefix("$ ")) for line in lines if line]


def flower_env() -> dict[str, str]:
    """The environment of a `celery` that has Flower.

    Other tests' programs do without: importing its command takes a third of each start of `celery`.
    """
    folder = ROOT / ".servers" / "flower"
    if importlib.util.find_spec("flower") is not None:
        return {}
    if not folder.is_dir():
        missing("Flower is not installed: .ci/run installs it into .servers")
    return {"PYTHONPATH": str(folder)}


def copy_of_the_repository(folder: Path) -> Path:
    """Copy what a clone of the repository would hold, without the tests."""
    return Path(shutil.copytree(ROOT, folder / "clone", ignore=_MADE))


class Shell:
    """Runs command lines in a folder, and ends the processes that they started when it is closed.

    :param folder: where they run.
    :param env: variables to add to an environment that says nothing of AWS or Celery.
    :param programs: the folder whose programs are found first; default: where this Python's are.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, programs: Path | None = None) -> None:
        self.folder = folder
        self._mark = f"BALOG_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        path = os.pathsep.join([str(programs or sysconfig.get_path("scripts")), os.environ.get("PATH", os.defpath)])
        self.env: dict[str, str | None] = {key: None for key in os.environ if _FOREIGN.match(key)}
        self.env |= {"PATH": path, "AWS_EC2_METADATA_DISABLED": "true", name: value, **(env or {})}
        # Engines keep their status in the folder for temporary files: other tests' are not to be seen here.
        temporary = folder / ".tmp"
        temporary.mkdir(exist_ok=True)
        self.env["TMPDIR"] = str(temporary)
        self._started: list[servers.Program] = []

    def start(self, command: str, ready: str | None = None, timeout: float = 60.0) -> servers.Program:
        """Start a command line, in a group of its own as a terminal does, and wait until it has written *ready*."""
        # With exec there is no shell between, which a signal would end before it ends the program.
        line = command if "&&" in command else f"exec {command}"
        program = servers.Program(["sh", "-c", line], env=self.env, cwd=self.folder, name=command)
        self._started.append(program)
        program.start()
        if ready:
            program.wait_for(ready, timeout)
        return program

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Run a command line that succeeds, and return what it wrote."""
        program = self.start(command)
        code = program.wait(timeout)
        assert code == 0, f"{command} ended with {code}:\n{program.output}"
        return program.output

    def ask(self, command: str) -> str:
        """Run a command line that asks workers, until one has answered, which may take a slow one longer than that."""

        def answer() -> str:
            program = self.start(command)
            return program.output if program.wait() == 0 else ""

        return servers.wait_until(answer, what=f"an answer to {command}")

    def left_over(self) -> dict[int, str]:
        """The processes that run and that a command of this shell has started, directly or not, or that work here."""
        if sys.platform == "linux":
            found = {pid: _command_line(pid) for pid in _pids() if self._is_ours(pid)}
            return {pid: text for pid, text in found.items() if text}
        listing = subprocess.run(["ps", "-axEwwo", "pid=,command="], capture_output=True, text=True, check=True).stdout
        ours = (self._mark, str(self.folder))
        rows = [line.split(None, 1) for line in listing.splitlines() if any(text in line for text in ours)]
        return {int(pid): text.partition(self._mark)[0] for pid, text in rows}

    def _is_ours(self, pid: int) -> bool:
        # Valkey writes its title over its environment; the folder that it works in tells.
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            return pid != os.getpid() and (
                self._mark.encode() in (process / "environ").read_bytes()
                or Path(os.readlink(process / "cwd")).is_relative_to(self.folder.resolve())
            )
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            print(f"$ {program.name}\n{program.output}")  # shown if the test failed
            program.__exit__(None, None, None)
        for pid in self.left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
