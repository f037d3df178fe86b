"""Error texts without the secrets of the URLs in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.sqs.translation import without_secrets

WORDS = st.text(st.characters(codec="ascii", exclude_characters="/?@\"'", categories=["L", "N", "P", "S"]), min_size=8)


@given(user=WORDS, password=WORDS, signature=WORDS)
def test_neither_password_nor_query_of_a_url_is_shown(user: str, password: str, signature: str) -> None:
    """Passwords and queries of URLs are removed from a text, and the rest is kept."""
    url = f"https://{user}:{password}@host:4566/path?X-Amz-Signature={signature}"
    text = f'Could not connect to the endpoint URL: "{url}" (2 tries)'
    assert without_secrets(text) == 'Could not connect to the endpoint URL: "https://***host:4566/path***" (2 tries)'


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com",
        "is it there? no",
        'the endpoint "http://localhost:4566/"',
        "arn:aws:iam::1234:user/a@b",
    ],
)
def test_a_text_without_secrets_is_unchanged(text: str) -> None:
    """A text with an e-mail address or a question mark is unchanged."""
    assert without_secrets(text) == text
