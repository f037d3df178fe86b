"""Hides secrets in the bodies that pages show."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ..errors import DecodeError
from ..events.serialization import read_json
from ..text import printable

#: What stands in place of a secret.
MASK = "••••••"


class Masking:
    """Hides the values of fields whose names contain one of *names*; case, "-" and "_" are ignored.

    :param names: parts of names, such as ``password``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [_plain(name) for name in names if _plain(name)]
        parts = "|".join(r"[-_]?".join(map(re.escape, name)) for name in self._names)
        # Of a body that is not JSON: name, separator, and a quoted text or a word.
        self._text = re.compile(
            rf"""([\w-]*(?:{parts})[\w-]*["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,;&}}<]+)""", re.IGNORECASE
        )

    def pretty(self, body: str) -> str:
        """Return *body* for people: indented JSON, or the text itself with what looks like a secret hidden."""
        try:
            return json.dumps(self._masked(read_json(body)), indent=2, ensure_ascii=False)
        except (DecodeError, RecursionError):
            return self.text(body)

    def text(self, text: str) -> str:
        """Return *text*, which is not JSON, with what looks like a secret hidden."""
        lines = text.split("\n")
        shown = "\n".join(printable(line, max(len(line), 3)) for line in lines)
        return self._text.sub(rf"\g<1>{MASK}", shown) if self._names else shown

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
        if not value.lstrip().startswith(("{", "[")):
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
