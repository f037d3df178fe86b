"""The exit codes of commands that run until they are stopped."""

from __future__ import annotations

import signal

import pytest
from project import Start

import servers

COMMANDS = {
    "engine": (["balog", "engine", "-l", "INFO"], "engine started"),
    "web": (["balog", "web", "--port", "{port}"], "Application startup complete"),
}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_with_130_and_sigterm_with_0(start: Start, command: str, number: int, code: int) -> None:
    """Ctrl-C ends a command with 130, and SIGTERM, by which servers are stopped in an orderly way, with 0."""
    arguments, ready = COMMANDS[command]
    program = start(*(part.format(port=servers.free_port()) for part in arguments), ready=ready)
    program.signal_group(number)
    assert program.wait(60) == code
    assert "Traceback" not in program.output
    if command == "engine":
        assert "engine stopped" in program.output


def test_ctrl_c_while_an_engine_starts_ends_with_130(start: Start) -> None:
    """Ctrl-C during the checks of the start ends the engine with 130, without a traceback."""
    engine = start("balog", "engine", "-l", "INFO", ready="go to")
    engine.signal_group(signal.SIGINT)
    assert engine.wait(60) == 130
    assert "Traceback" not in engine.output
