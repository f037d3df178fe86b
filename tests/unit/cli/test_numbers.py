"""The numbers that options of commands take."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from balog_celery.cli import balog
from balog_celery.cli.group import FiniteRange


def float_options(command: click.Command, name: str = "balog") -> Iterator[tuple[str, click.Parameter]]:
    """The options of a command, and of those below it, that take a number with a fraction."""
    for parameter in command.params:
        if isinstance(parameter.type, click.types.FloatParamType):
            yield f"{name} {parameter.opts[0]}", parameter
    for below, one in getattr(command, "commands", {}).items():
        yield from float_options(one, f"{name} {below}")


OPTIONS = dict(float_options(balog))


def test_there_are_such_options() -> None:
    """Rates and intervals."""
    assert {"balog replay --rate", "balog dead replay --rate", "balog topics --interval"} <= OPTIONS.keys()


@pytest.mark.parametrize("given", ["nan", "NaN", "-nan", "inf", "Infinity", "1e999"])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_no_finite_number_is_refused(name: str, given: str) -> None:
    """No option takes a number that is not finite, by the one type that all of them have."""
    parameter = OPTIONS[name]
    assert isinstance(parameter.type, FiniteRange)
    with pytest.raises(click.BadParameter, match=r"not a finite number|not in the range"):
        parameter.type.convert(given, parameter, None)
