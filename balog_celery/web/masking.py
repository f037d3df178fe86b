"""Hides secrets in the bodies that pages show."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ..errors import DecodeError
from ..events.serialization import read_json
from ..text import printable_lines

#: What stands in place of a secret.
MASK = "••••••"

# Of a text that is not JSON. After a name come a separator and, in this order: a text in quotes that are themselves in
# a quoted text, one in quotes, the rest of a line such as a header's, or a word.
_NAME = re.compile(r"[\w-]+")
_VALUE = re.compile(
    r"""\\*["']?\s*[:=]\s*(\\+"[^"]*"?|"(?:[^"\\]|\\.)*"?|'[^']*'?)"""
    r"""|\s*:\s*([^\n]+)"""
    r"""|\\*["']?\s*[:=]\s*((?:(?:bearer|basic|digest|token)\s+)?[^\s,;&}<]+)""",
    re.IGNORECASE,
)


class Masking:
    """Hides the values of fields whose names contain one of *names*; case, "-" and "_" are ignored.

    :param names: parts of names, such as ``password``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [_plain(name) for name in names if _plain(name)]

    def pretty(self, body: str) -> str:
        """Return *body* for people: indented JSON, or the text itself with what looks like a secret hidden."""
        try:
            return json.dumps(self._masked(read_json(body)), indent=2, ensure_ascii=False)
        except (DecodeError, RecursionError):
            return self.text(body)

    def text(self, text: str) -> str:
        """Return *text*, which is not JSON, with what looks like a secret hidden."""
        return self._masked_fields(printable_lines(text))

    def field(self, name: str, value: str) -> str:
        """Return *value*, of a field of that name, with what looks like a secret hidden."""
        return MASK if self._is_secret(name) else self.text(value)

    def _masked_fields(self, text: str) -> str:
        # Each name is read once, and no value but that of a secret: a pattern for both takes quadratic time.
        parts: list[str] = []
        shown = position = 0
        while name := _NAME.search(text, position):
            position = name.end()
            if self._is_secret(name[0]) and (field := _VALUE.match(text, position)):
                parts += text[shown : field.start(field.lastindex or 0)], MASK
                shown = position = field.end()
        return "".join(parts) + text[shown:]

    def _masked(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: MASK if self._is_secret(key) else self._masked(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._masked(one) for one in value]
        if isinstance(value, str):
            return self._masked_text(value)
        return value

    def _masked_text(self, value: str) -> str:
        """Hide secrets in a text that holds JSON itself, as SNS's ``Message`` does."""
        if not value.lstrip().startswith(("{", "[", '"')):
            return value
        try:
            return json.dumps(self._masked(read_json(value)), ensure_ascii=False)
        except (DecodeError, RecursionError):
            return self.text(value)

    def _is_secret(self, key: str) -> bool:
        plain = _plain(key)
        return any(name in plain for name in self._names)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
