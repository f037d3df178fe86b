"""Record ids: ``"LG"`` and 22 characters, the base58 text of a UUID's 128 bits, most significant first.

The alphabet is the original's (the coid library's): digits, then lower case, then upper case. It is not Bitcoin's. It
has 59 characters, of which the last, ``Z``, is never written but is read as 58.
"""

from __future__ import annotations

import os
import uuid

#: What every id begins with.
PREFIX = "LG"
#: How many characters follow the prefix: 58**22 is the first power of 58 beyond 2**128.
LENGTH = 22

_ALPHABET = "0123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_DIGITS = {char: value for value, char in enumerate(_ALPHABET)}
# Two characters at a time, out of groups of eight and of four: small integers divide faster than one of 128 bits.
_PAIRS = [high + low for high in _ALPHABET[:58] for low in _ALPHABET[:58]]
_2, _4, _8 = 58**2, 58**4, 58**8
# RFC 9562, 5.4: a version 4 UUID is random but for the version's and the variant's bits.
_RANDOM_BITS = ~(0xF << 76 | 0x3 << 62)
_VERSION_4 = 0x4 << 76 | 0x2 << 62


def new_id() -> str:
    """Return a new id, of a random (version 4) UUID, as the original's.

    It is random, not ordered by time: the alphabet does not sort like its characters, and the record has a timestamp.
    The kernel makes the bits, so a forked child has others than its parent.
    """
    return _random(os.urandom(16))


def new_ids(count: int) -> list[str]:
    """Return *count* new ids, for which the kernel is asked once."""
    random = os.urandom(16 * count)
    return [_random(random[start : start + 16]) for start in range(0, 16 * count, 16)]


def encode_id(value: uuid.UUID) -> str:
    """Return the id of *value*, 24 characters."""
    return _text(value.int)


def decode_id(text: str) -> uuid.UUID:
    """Return the UUID that the id *text* stands for.

    :raises ValueError: *text* is no id.
    """
    if len(text) != len(PREFIX) + LENGTH or not text.startswith(PREFIX):
        raise ValueError(f"an id is {PREFIX!r} and {LENGTH} characters, not {text[:50]!r}")
    number = 0
    for char in text[len(PREFIX) :]:
        if char not in _DIGITS:
            raise ValueError(f"{char!r} cannot stand in an id")
        number = number * 58 + _DIGITS[char]
    if number >> 128:
        raise ValueError(f"the id {text!r} is beyond the 128 bits of a UUID")
    return uuid.UUID(int=number)


def _random(random: bytes) -> str:
    """Return the id of the version 4 UUID of 16 random bytes."""
    return _text(int.from_bytes(random, "big") & _RANDOM_BITS | _VERSION_4)


def _text(number: int) -> str:
    number, low = divmod(number, _8)
    number, high = divmod(number, _8)
    b, c, d, e, f = number % _4, high // _4, high % _4, low // _4, low % _4
    pairs = _PAIRS
    return (
        f"{PREFIX}{pairs[number // _4]}{pairs[b // _2]}{pairs[b % _2]}{pairs[c // _2]}{pairs[c % _2]}"
        f"{pairs[d // _2]}{pairs[d % _2]}{pairs[e // _2]}{pairs[e % _2]}{pairs[f // _2]}{pairs[f % _2]}"
    )
