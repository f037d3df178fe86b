"""Decompresses the bodies of kombu's messages, up to a limit: 500 bytes may stand for gigabytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

#: The most memory that a decompressor of LZMA may take, in bytes: its data say how much it wants.
_LZMA_MEMORY = 64 * 1024 * 1024
_ZLIB: Callable[[], Any] = zlib.decompressobj
_BZ2: Callable[[], Any] = bz2.BZ2Decompressor


def _lzma() -> Any:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


#: By kombu's names, those that the standard library can read step by step.
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), _ZLIB),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), _BZ2),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), _lzma),
}


class CompressionError(ValueError):
    """A body cannot be decompressed; the text is the rest of a sentence about it."""


def decompress(body: bytes, compression: Any, max_bytes: int) -> bytes:
    """Return the content of *body*.

    :param compression: what the publisher's header ``compression`` says.
    :raises CompressionError: it has more than *max_bytes*, or cannot be decompressed.
    """
    new = _DECOMPRESSORS.get(compression) if isinstance(compression, str) else None
    if new is None:
        raise CompressionError("is compressed in a way that is not read: use gzip, bzip2 or lzma")
    decompressor = new()
    try:
        content: bytes = decompressor.decompress(body, max_bytes + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise CompressionError(f"cannot be decompressed ({type(error).__name__})") from None
    if len(content) > max_bytes:
        raise CompressionError(f"is larger than {max_bytes} bytes when decompressed (balog_max_body_bytes)")
    if not decompressor.eof:
        raise CompressionError("cannot be decompressed: it is cut off")
    return content
