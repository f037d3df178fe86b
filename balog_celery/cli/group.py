"""The group ``celery -A app balog``, and what its commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from ..errors import BalogError

#: The exit code after Ctrl-C: as shells have it, 128 and the number of SIGINT.
EX_INTERRUPTED = 130


@click.group()
@click.pass_context
def balog(ctx: click.Context) -> None:
    """Consume JSON events from Amazon SQS as Celery tasks.

    Exit codes: 0 all is well; 1 the answer is no, or something failed; 2 the command line is wrong; 130 Ctrl-C.
    """
    if not hasattr(ctx.obj.app, "balog"):
        raise click.ClickException(
            f"balog_celery is not installed in {ctx.obj.app!r}: call balog_celery.install(app, packages=[...])"
        )


@contextmanager
def told() -> Iterator[None]:
    """Tell an error of ours in one line, and Ctrl-C by the exit code."""
    try:
        yield
    except BalogError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(EX_INTERRUPTED) from None


def command(
    parent: click.Group, name: str | None = None, *, load: bool = True
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command of *parent*; it is called with the Celery app and its options.

    :param name: the command's name; default: the function's.
    :param load: whether the app's modules, and so its consumers, are loaded first.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @parent.command(name or function.__name__.rstrip("_"), cls=CeleryCommand)
        @click.pass_context
        @handle_preload_options
        @functools.wraps(function)
        def run(ctx: click.Context, *args: Any, **options: Any) -> None:
            if ctx.obj.no_color:
                ctx.color = False
            with told():
                if load:
                    ctx.obj.app.loader.import_default_modules()
                function(ctx.obj.app, *args, **options)

        return run

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
