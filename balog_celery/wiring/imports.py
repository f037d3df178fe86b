"""Imports and makes what settings and packages name, and tells where and why that fails: it is the user's code."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import celery
import kombu
import venusian
from celery.utils.imports import cwd_in_path, symbol_by_name

from ..errors import BalogError, PackageImportError
from ..settings import PREFIX
from ..text import printable

#: What the code of a user's module may raise while it is imported: sys.exit() would end a program without a word.
IMPORT_FAILURES = (Exception, SystemExit)
#: How many frames of a failed import are shown.
_FRAMES = 3
#: The files of this package and of those that import for it: their frames say nothing about the user's code.
_LIBRARIES = (
    str(Path(__file__).parents[1]),
    *(str(Path(str(one.__file__)).parent) for one in (venusian, celery, kombu)),
)


def import_setting(setting: str, value: Any) -> Any:
    """Return the object that *value* names, or *value* itself if it is not text.

    :param setting: the name of the setting, without its prefix.
    :raises PackageImportError: it cannot be imported.
    """
    if not isinstance(value, str):
        return value
    try:
        with cwd_in_path():
            return symbol_by_name(value)
    except IMPORT_FAILURES as error:
        raise import_error(f"{PREFIX}{setting} = {value!r}", error) from error


def created(setting: str, value: Any, example: str) -> Any:
    """Return an object of *value* if that is a class, or else *value*.

    :param setting: the name of the setting, without its prefix.
    :param example: an object that the setting could name.
    :raises PackageImportError: it cannot be created.
    """
    if not isinstance(value, type):
        return value
    try:
        return value()
    except IMPORT_FAILURES as error:
        what = f"{PREFIX}{setting}: {value.__qualname__}()"
        message = f"{what} cannot be created without arguments{_reason(error)}: name an object, such as {example!r}"
        raise PackageImportError(message, _last_frames(error)) from error


def main_module() -> str | None:
    """Return the name by which another process can import the script of this one; None: it has none."""
    main = sys.modules.get("__main__")
    if (spec := getattr(main, "__spec__", None)) is not None:  # python -m shop
        return None if spec.name == "__main__" else str(spec.name)
    script = Path(getattr(main, "__file__", None) or "")
    with suppress(ImportError, ValueError, OSError):
        found = importlib.util.find_spec(script.stem) if script.stem.isidentifier() else None
        if found is not None and script.samefile(found.origin or ""):
            return script.stem
    return None


def import_error(what: str, error: BaseException) -> PackageImportError:
    """Return the error that tells where and why *what*, a module or a package, cannot be imported."""
    return PackageImportError(f"{what} cannot be imported{_reason(error)}", _last_frames(error))


def frames_of(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the user's code in which *error* was raised."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]


def _last_frames(error: BaseException) -> str:
    return "".join(traceback.format_list(frames_of(error)[-_FRAMES:]))


def _reason(error: BaseException) -> str:
    """Return the place of *error*, in brackets, and what it says."""
    where, frames = "", frames_of(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}, line {error.lineno})"
    elif frames:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    reason = str(error) if isinstance(error, BalogError) else f"{type(error).__name__}: {error}"
    return f"{where}: {printable(reason, 500)}"


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", *_LIBRARIES)) or "/importlib/" in filename
