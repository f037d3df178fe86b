"""Limits of a body: only brackets outside of texts count for its depth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.errors import DecodeError
from balog_celery.events.limits import check_limits

#: Texts that look like structure, and what else may confuse a scanner.
TEXTS = st.text(st.sampled_from('[]{}"\\,:é\ud800n')) | st.text()
DOCUMENTS = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def depth(document: Any) -> int:
    """How many objects and arrays are inside one another."""
    if isinstance(document, dict):
        document = list(document.values())
    return 1 + max(map(depth, document), default=0) if isinstance(document, list) else 0


@given(document=DOCUMENTS, ascii_only=st.booleans())
def test_a_document_is_refused_where_it_is_deeper_than_allowed(document: Any, ascii_only: bool) -> None:
    """A document is refused exactly if it is nested too deep, whatever its texts and keys contain."""
    body, deep = json.dumps(document, ensure_ascii=ascii_only), depth(document)
    check_limits(body, deep)
    if deep:
        with pytest.raises(DecodeError, match=f"it is nested deeper than {deep - 1} "):
            check_limits(body, deep - 1)


def test_a_body_is_refused_where_it_is_larger_than_allowed() -> None:
    """A body is refused if it is too large in bytes, not in characters."""
    check_limits('"é"', 1, 4)
    with pytest.raises(DecodeError, match="it is larger than 3 bytes"):
        check_limits('"é"', 1, 3)
