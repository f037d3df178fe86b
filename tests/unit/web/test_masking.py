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
from cpu_time import cpu_within

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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer SECRET", f"Authorization: {MASK}"),
        ("Cookie: a=1; session=SECRET\nkept", f"Cookie: {MASK}\nkept"),
        ("curl -H 'X-Api-Key: SECRET' kept=1", f"curl -H 'X-Api-Key: {MASK}"),
        ("auth_token=Bearer SECRET kept=1", f"auth_token={MASK} kept=1"),
        ('{"token": 5, "kept": 1', f'{{"token": {MASK}, "kept": 1'),
        ("message: password=SECRET", f"message: password={MASK}"),
        ('x {\\"password\\": \\"SECRET\\", \\"kept\\": 1}', f'x {{\\"password\\": {MASK}, \\"kept\\": 1}}'),
        ("password=SECRET secret='SECRET' kept", f"password={MASK} secret={MASK} kept"),
        ("the password", "the password"),
    ],
)
def test_secrets_of_a_text(text: str, shown: str) -> None:
    """Of headers all of the line, of other fields the value; what comes before them stays."""
    assert masking.text(text.replace("SECRET", SECRET)) == shown


def test_secrets_of_json_in_a_json_text() -> None:
    """However often it was written as a text."""
    body = json.dumps({"m": json.dumps(json.dumps({"password": SECRET, "kept": 1}))})
    shown = masking.pretty(body)
    assert SECRET not in shown
    assert "kept" in shown


@pytest.mark.parametrize(("name", "shown"), [("X-Auth-Token", MASK), ("tenant", "a"), ("note", f"password={MASK}")])
def test_secrets_of_an_attribute(name: str, shown: str) -> None:
    """By its name, or by its text."""
    assert masking.field(name, {"note": f"password={SECRET}"}.get(name, "a")) == shown


@pytest.mark.parametrize(
    "part", ["a", "password", "password ", "password:", 'password="', "password=\\", "-", " ", "a=", '\\"', "'"]
)
def test_a_text_takes_no_time(part: str) -> None:
    """Whatever it repeats; a mebibyte of it."""
    text = part * (1_048_576 // len(part))
    with cpu_within(5):
        masking.pretty(text)
        masking.pretty(json.dumps({"x": "{" + text}))
