"""Puts the table of settings into its page, made from the settings themselves."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from balog_celery.settings import PREFIX, Settings

#: Stands in the page where the table goes.
MARK = "<!-- settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs asks for each page: its text."""
    return markdown.replace(MARK, settings_table())


def settings_table() -> str:
    """Every setting, with its type, its default and its meaning, as a Markdown table."""
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        cells = (f"`{PREFIX}{name}`", type_name(field.annotation), default(field), str(field.description))
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def type_name(annotation: Any) -> str:
    """A type in a reader's words; that None is allowed is said by the default."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Literal:
        return " or ".join(f"`{argument!r}`" for argument in arguments)
    if origin is tuple:
        return f"several {type_name(arguments[0])}"
    if origin is dict:
        return "dict"
    words = {str: "text", int: "integer", float: "number", bool: "boolean", SecretStr: "text, secret", Any: "any"}
    return words[annotation]


def default(field: FieldInfo) -> str:
    """A default, as it would be written."""
    return f"`{field.default!r}`"
