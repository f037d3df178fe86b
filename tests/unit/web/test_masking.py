"""Secrets in bodies that pages show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette")

from balog_celery.settings import Settings
from balog_celery.web.masking import MASK, Masking

masking = Masking(Settings().web_mask)
SECRET = "hunter2zzz"


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "apiKey", "api-key", "X-Auth-Token", "db_password", "secrets"]
)
@pytest.mark.parametrize(
    "body",
    [
        '{"NAME": "SECRET", "kept": 1}',
        '{"a": [{"NAME": {"deep": "SECRET"}, "kept": 1}]}',
        '{"Message": "{\\"NAME\\": \\"SECRET\\", \\"kept\\": 1}"}',
        "kept, NAME=SECRET&more",
        '{"kept": 1, "NAME": "SECRET", broken',
        '{"kept": 1, "NAME": "SECRET cut',
        "kept\nNAME: 'SECRET'",
        "{\"Message\": \"kept {'NAME': 'SECRET'\"}".replace("kept ", "{kept "),
    ],
)
def test_values_of_secret_fields_are_hidden(name: str, body: str) -> None:
    """In JSON, in JSON inside JSON, and in what cannot be read; the rest stays."""
    shown = masking.pretty(body.replace("NAME", name).replace("SECRET", SECRET))
    assert SECRET not in shown
    assert MASK in shown
    assert "kept" in shown


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("abc é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(plain, st.sampled_from(["token", "Password"]))
def test_nothing_else_is_changed(document: Any, name: str) -> None:
    """Whatever the document is."""
    shown = json.loads(masking.pretty(json.dumps({"document": document, name: document})))
    assert shown == {"document": document, name: MASK}


def test_without_names_nothing_is_hidden() -> None:
    """The setting may be empty."""
    assert json.loads(Masking(()).pretty('{"password": "x"}')) == {"password": "x"}
    assert Masking(()).pretty("password=x") == "password=x"
