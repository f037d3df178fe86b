"""The group ``celery -A app balog``, and what its commands share."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options

from ..errors import BalogError, ConfigurationError
from ..text import printable
from ..wiring.start_errors import StartError

#: The exit code after Ctrl-C, as in shells: 128 plus the number of SIGINT.
EX_INTERRUPTED = 130


@click.group()
@click.pass_context
def balog(ctx: click.Context) -> None:
    """Consume JSON events from Amazon SQS as Celery tasks.

    Exit codes: 0 success; 1 the answer is no, or something failed; 2 the command line is wrong; 78 the configuration is
    wrong; 130 Ctrl-C.
    """
    if not hasattr(ctx.obj.app, "balog"):
        raise click.ClickException(
            f"balog_celery is not installed in {ctx.obj.app!r}: call balog_celery.install(app, packages=[...])"
        )


@contextmanager
def handle_errors() -> Iterator[None]:
    """Print an error of this package as one line. Set the exit code: 78 for the configuration, 130 for Ctrl-C."""
    try:
        yield
    except ConfigurationError as error:
        raise StartError(error) from error
    except BalogError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(EX_INTERRUPTED) from None


def set_up_log(app: Celery, loglevel: int, logfile: str | None, **options: Any) -> None:
    """Set logging up as a worker does.

    :raises click.UsageError: the file cannot be written.
    """
    try:
        app.log.setup(loglevel, logfile, redirect_stdouts=False, **options)
    except OSError as error:
        raise click.UsageError(f"--logfile {printable(logfile)}: {error.strerror}: name a file to write to") from error


@contextmanager
def stop_on_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Call *stop* at the first Ctrl-C, and exit with 130 after the block. A second Ctrl-C interrupts the block.

    Where SIGINT is ignored, as in the background of a script, it stays ignored.

    :param stop: makes the block end; a signal handler calls it.
    """
    pressed = False

    def on_interrupt(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_interrupt)
    yield
    if pressed:
        raise SystemExit(EX_INTERRUPTED)


class Command(CeleryCommand):  # type: ignore[misc]
    """A command whose options have no empty values: one is a variable of a script that is not set."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; refuse an option with an empty value."""
        given, _, _ = self.make_parser(ctx).parse_args([*args])
        for option in self.params:
            values = given.get(option.name or "")
            if isinstance(option, click.Option) and ("" in values if isinstance(values, list) else values == ""):
                raise click.BadParameter("it is empty: give a value, or leave the option out", ctx, option)
        return super().parse_args(ctx, args)  # type: ignore[no-any-return]


def command(
    parent: click.Group, name: str | None = None, *, load: bool = True
) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a function a command of *parent*. It gets the Celery app and the options.

    :param name: the command's name; default: the function's.
    :param load: whether to load the app's modules, and so its consumers, first.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @parent.command(name or function.__name__.rstrip("_"), cls=Command)
        @click.pass_context
        @handle_preload_options
        @functools.wraps(function)
        def run(ctx: click.Context, *args: Any, **options: Any) -> None:
            if ctx.obj.no_color:
                ctx.color = False
            with handle_errors():
                if load:
                    ctx.obj.app.loader.import_default_modules()
                function(ctx.obj.app, *args, **options)

        return run

    return decorate


class FiniteRange(click.FloatRange):
    """A range of finite numbers: ``nan`` is in no range, and ``inf`` is no rate and no time."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; refuse one that is not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
