"""Record ids, compared with the original's."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.events.ids import decode_id, encode_id, new_id, new_ids

PAIRS = [json.loads(line) for line in (Path(__file__).parents[2] / "golden/ids.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["id"] for pair in PAIRS])
def test_the_original_s_ids_are_the_same(pair: dict[str, str]) -> None:
    """Ids are encoded and decoded as by the original's library."""
    value = uuid.UUID(pair["uuid_hex"])
    assert encode_id(value) == pair["id"]
    assert decode_id(pair["id"]) == value


@given(st.uuids())
def test_an_id_is_24_characters_and_stands_for_one_uuid(value: uuid.UUID) -> None:
    """Each UUID has one id of 24 characters."""
    text = encode_id(value)
    assert len(text) == 24
    assert text[:2] == "LG"
    assert decode_id(text) == value


def test_a_new_id_is_that_of_a_random_uuid() -> None:
    """A new id is that of a version 4 UUID, and no two are equal."""
    ids = {*(new_id() for _ in range(500)), *new_ids(500)}
    assert len(ids) == 1000
    for text in ids:
        value = decode_id(text)
        assert value.version == 4
        assert value.variant == uuid.RFC_4122


def test_capital_z_is_read_as_58() -> None:
    """A capital Z is read as 58, as by the original, which never writes it."""
    assert decode_id("LG000000000000000000000Z").int == 58


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "22 characters"),
        ("LG", "22 characters"),
        ("LG" + "0" * 21, "22 characters"),
        ("LG" + "0" * 23, "22 characters"),
        ("lg" + "0" * 22, "22 characters"),
        ("LG" + "0" * 21 + "l", "'l' cannot"),
        ("LG" + "0" * 21 + "I", "'I' cannot"),
        ("LG" + "0" * 21 + "O", "'O' cannot"),
        ("LG" + "0" * 21 + "\N{ARABIC-INDIC DIGIT ONE}", "cannot stand"),
        ("LGwAtDWJoz5hpYPJ4Je1SmjV", "128 bits"),
        ("LG" + "Y" * 22, "128 bits"),
    ],
)
def test_what_is_no_id_is_refused(text: str, reason: str) -> None:
    """A text that is not an id is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        decode_id(text)
