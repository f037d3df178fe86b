"""The table on the page of settings, made from the settings themselves.

To write it into the page after a change: ``python tests/settings_page.py``.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from balog_celery.settings import PREFIX, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = "| setting | type | default | meaning |"


def page_with_table(page: str) -> str:
    """Return the text of the *page* with a new table."""
    before, _, rest = page.partition(HEAD)
    _, _, after = rest.partition("\n\n")
    return f"{before}{settings_table()}\n\n{after}"


def settings_table() -> str:
    """Return every setting with its type, its default and its meaning, as a Markdown table; each row has an anchor."""
    rows = [HEAD, "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        setting = f'<a id="{PREFIX}{name}"></a>`{PREFIX}{name}`'
        cells = (setting, type_name(field.annotation), f"`{field.default!r}`", str(field.description))
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def type_name(annotation: Any) -> str:
    """Return the name of a type for readers. The default tells whether None is allowed."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{argument!r}`" for argument in arguments)
    if origin is tuple:
        return f"several {type_name(arguments[0])}"
    if origin is dict:
        return "dict"
    words = {str: "text", int: "integer", float: "number", bool: "boolean", SecretStr: "text, secret", Any: "any"}
    return words[annotation]


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
