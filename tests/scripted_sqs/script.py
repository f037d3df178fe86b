"""The faults that a test orders from a scripted SQS, and the calls that were made."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ApiError


@dataclass
class Fault:
    """A fault of some calls.

    :param action: the action that it befalls; None is all.
    :param queue: the name of the queue that it befalls; None is all.
    :param times: how many calls; None is all from now on.
    :param error: the error to answer with.
    :param entries: positions of the entries of a batch to which *error* goes, or the errors of the entries by position;
        None is the call as a whole.
    :param carried_out: whether the call, or the entry, is carried out all the same.
    :param delay: seconds before anything is done.
    :param hang: whether there is no answer until :meth:`Script.release`.
    :param hang_up: whether the connection is closed instead of an answer.
    :param answer: the body of an answer with status 200, instead of the true one.
    :param form: the form of an answer that makes no sense; see ``nonsense.py``.
    :param name: what it is counted as.
    """

    action: str | None = None
    queue: str | None = None
    times: int | None = 1
    error: ApiError | None = None
    entries: Collection[int] | Mapping[int, ApiError] | None = None
    carried_out: bool = False
    delay: float = 0.0
    hang: bool = False
    hang_up: bool = False
    answer: bytes | None = None
    form: str = ""
    name: str = ""

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Fault:
        """A fault of which another process sends the members; *error* holds the arguments of an :class:`ApiError`."""
        known = dict(members)
        if error := known.get("error"):
            known["error"] = ApiError(**error)
        if (answer := known.get("answer")) is not None:
            known["answer"] = answer.encode()
        return cls(**known)

    @property
    def is_only_late(self) -> bool:
        """Whether the true answer comes, though late."""
        return not (self.error or self.hang_up or self.form) and self.answer is None

    @property
    def runs(self) -> bool:
        """Whether the call as a whole is carried out."""
        return self.carried_out or self.is_only_late or self.entries is not None

    def befalls(self, action: str, queue: str) -> bool:
        """Whether it goes for a call."""
        return self.times != 0 and self.action in (None, action) and self.queue in (None, queue)

    def of_entry(self, position: int) -> ApiError | None:
        """The error of an entry of a batch; None if all is well."""
        if self.entries is None or position not in self.entries:
            return None
        return self.entries[position] if isinstance(self.entries, Mapping) else self.error


@dataclass(frozen=True)
class Call:
    """A call that was made. *headers* are empty if it came without HTTP."""

    action: str
    asked: Any
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Script:
    """The faults to come, and the calls that came. It may be shared by threads.

    :param recording: whether calls are kept.
    """

    def __init__(self, *, recording: bool = True) -> None:
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        #: Gives the fault of a call that no ordered fault befalls.
        self.otherwise: Callable[[str, Any, Mapping[str, str]], Fault | None] = lambda *_: None
        self.released = threading.Event()
        self._recording = recording
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let *fault* happen; faults that befall the same call happen in the order in which they were added."""
        with self._lock:
            self._faults.append(fault)

    def fail(self, action: str | None, code: str, message: str = "injected", status: int = 400, **more: Any) -> None:
        """Answer *action* with an error, once unless *more* has other ``times``."""
        self.add(Fault(action, error=ApiError(code, message, status), **more))

    def release(self) -> None:
        """End all ordered faults, and answer the calls that hang."""
        with self._lock:
            self._faults.clear()
        self.released.set()

    def calls_of(self, action: str) -> list[Any]:
        """Return the parameters of the calls of *action*, in order."""
        return [call.asked for call in list(self.calls) if call.action == action]

    def next(self, action: str, asked: Any, headers: Mapping[str, str]) -> Fault | None:
        """The fault of a call that comes now; the call is recorded."""
        if self._recording:
            self.calls.append(Call(action, asked, headers))
        if self._faults:
            queue = asked.get("QueueName") or (asked.get("QueueUrl") or "").rpartition("/")[2]
            with self._lock:
                for fault in self._faults:
                    if fault.befalls(action, queue):
                        if fault.times is not None:
                            fault.times -= 1
                        self.counts[fault.name or action] += 1
                        return fault
        return self.otherwise(action, asked, headers)
