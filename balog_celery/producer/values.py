"""Writes documents with values or keys that JSON does not have, so that such a value does not cost the event."""

from __future__ import annotations

import json
import math
import reprlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from datetime import date, timedelta
from types import NoneType
from typing import Any

from ..errors import DecodeError, RecordError
from ..events.limits import check_limits
from ..events.serialization import dumps, jsonable, mend_surrogates

#: The longest text that stands for a value which cannot be written otherwise, in characters.
REPR_LIMIT = 1000
#: How deep a document may be nested: consumers refuse a deeper one unless ``balog_max_depth`` says otherwise.
MAX_DEPTH = 100

_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH}, or holds itself: consumers would refuse it"


#: What is written as a list, and which of those are not.
_LISTS = (Sequence, Set, ValuesView, deque, Iterator)
_NO_LISTS = (str, bytes, bytearray, memoryview, range)
#: What numpy's ``tolist()`` may return. Others' may return anything, of which a list is taken.
_PLAIN = (bool, int, float, complex, str, list, tuple, date, timedelta, bytes, NoneType)


class Converter:
    """Turns documents into what JSON can write.

    A value that JSON does not know is written as :func:`~balog_celery.events.serialization.dumps` says; else as
    *default* returns it; else as its ``tolist()``, which is how numbers and arrays of numpy are written; else, for an
    object that stands for a text (Django's lazy ones), as that text; else as its ``repr``, cut after
    :data:`REPR_LIMIT` characters. A key is written as the text of its value. A float that is not finite is never
    written, for JSON has none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Called with a value that is not known; raises TypeError for one that it does not know either.
        self.default: Callable[[Any], Any] | None = None
        #: How many values and keys were written by *default* or in one of the ways after it.
        self.converted = 0

    def write(self, document: object, max_depth: int = MAX_DEPTH) -> str:
        """Write *document* as JSON text in ASCII.

        :param max_depth: how deep it may be nested.
        :raises RecordError: it is too deep, or two keys of it are the same text.
        :raises ValueError: it has a float that is not finite.
        :raises RecursionError: it is far too deep.
        """
        try:
            text = _encoder.encode(document)
            text = mend_surrogates(text) if "\\ud" in text else text
        except (TypeError, ValueError, RecursionError):
            text = dumps(self.plain(document))
        try:
            check_limits(text, max_depth)
        except DecodeError:
            raise RecordError(_TOO_DEEP) from None
        return text

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return *value* as JSON's own types; each iterator in it is used up.

        :raises RecordError: as :meth:`write`.
        """
        if value is None or type(value) in (str, int, float, bool):
            return value
        if depth > MAX_DEPTH:
            raise RecordError(_TOO_DEEP)
        if isinstance(value, Mapping):
            return self._object(value.items(), depth)
        if isinstance(value, _LISTS) and not isinstance(value, _NO_LISTS):
            return [self.plain(item, depth + 1) for item in value]
        try:
            content = jsonable(value)
        except Exception:
            return self._converted(value, depth)
        return self.plain(content, depth)

    def _object(self, items: Any, depth: int) -> dict[Any, Any]:
        written: dict[Any, Any] = {}
        for key, item in items:
            name = self._key(key, depth)
            if name in written:
                raise RecordError("two keys of an object are written as the same text")
            written[name] = self.plain(item, depth + 1)
        return written

    def _key(self, key: Any, depth: int) -> Any:
        if isinstance(key, str) or (isinstance(key, float) and not math.isfinite(key)):
            return key  # the latter cannot be written
        if key is None or isinstance(key, float) or type(key) in (int, bool):
            return json.dumps(key)
        try:
            name = jsonable(key)
            self._count()
        except Exception:
            name = self._converted(key, depth)
        if isinstance(name, str):
            return name
        return json.dumps(name) if isinstance(name, (int, float)) else self._text(key)

    def _converted(self, value: Any, depth: int) -> Any:
        """Return what is written for *value*, which has no form in JSON."""
        self._count()
        for convert in (self.default, _tolist):
            if convert is not None:
                try:
                    return self.plain(convert(value), depth + 1)
                except RecordError:
                    raise
                except Exception:
                    continue
        return self._text(value)

    def _text(self, value: object) -> str:
        try:
            text = repr(value)
            if text == repr(str(value)):  # it stands for a text
                return str(value)
        except Exception:
            text = safe_repr(value)
        return text if len(text) <= REPR_LIMIT else text[: REPR_LIMIT - 3] + "..."

    def _count(self) -> None:
        with self._lock:
            self.converted += 1


def has_iterator(value: Any, depth: int = 0) -> bool:
    """Return whether *value* holds an iterator, which can be read only once."""
    if isinstance(value, Iterator):
        return True
    if depth > MAX_DEPTH:
        return False
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(has_iterator(item, depth + 1) for item in items)


def safe_repr(value: object) -> str:
    """Return what can be shown of a value whose ``repr()``, or a part of it, fails."""
    return _Repr().repr(value)


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = 20
        self.maxstring = self.maxother = self.maxlong = 200

    def repr1(self, x: Any, level: int) -> str:
        try:
            return super().repr1(x, level)
        except Exception:
            return f"<{type(x).__name__} whose repr() fails>"


def _tolist(value: Any) -> Any:
    if getattr(getattr(value, "dtype", None), "kind", "") == "M":
        value = value.astype(str)  # a time, which tolist() makes a number if it has nanoseconds
    converted = value.tolist()
    if type(converted) is type(value):
        converted = float(value)  # numpy's longdouble, for which Python has no type
    if not isinstance(converted, _PLAIN):
        raise TypeError
    return converted


def _default(value: object) -> Any:
    """Write values that need no second look; leave the others unread for :meth:`Converter.plain`."""
    if isinstance(value, _LISTS) and not isinstance(value, _NO_LISTS):
        raise TypeError
    return jsonable(value)


# A document that holds itself is found by its depth.
_encoder = json.JSONEncoder(allow_nan=False, check_circular=False, default=_default)
converter = Converter()
