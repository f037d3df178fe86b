"""One call to a scripted SQS with its waits and faults, driven by threads or by an event loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from pydantic_core import PydanticSerializationError, from_json, to_json

from .clock import Clock
from .errors import ApiError
from .nonsense import never_done, nonsense, told
from .script import Fault, Script

#: Gives for an entry of a batch the error to answer with, if any, and whether to carry it out all the same.
EntryFault = Callable[[Any], tuple[ApiError | None, bool]]


class Store(Protocol):
    """Answers calls; see :class:`~.store.SqsStore`."""

    @property
    def clock(self) -> Clock: ...

    def listen(self, listener: Callable[[], None]) -> None: ...

    def call(self, action: str, asked: Any, entry_fault: EntryFault | None = None) -> dict[str, Any]: ...

    def wait_until(self, asked: Any) -> float: ...

    def next_visible(self, asked: Any) -> float | None: ...


class HungUp(Exception):
    """The connection is closed instead of an answer."""


class Foreign(Exception):
    """The answer, with status 200, is not the one of SQS."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content


#: Yields the seconds to wait, or None for no limit; goes on after them, or earlier if something has changed.
Steps = Generator[float | None, None, dict[str, Any]]


def steps(
    store: Store,
    script: Script,
    action: str,
    asked: Any,
    headers: Mapping[str, str] | None = None,
    gone: Callable[[], bool] = lambda: False,
    *,
    faulty: bool = True,
) -> Steps:
    """Answer a call.

    :param gone: whether the caller has hung up.
    :param faulty: whether it may go wrong.
    :raises ApiError: SQS says no.
    :raises HungUp: there is no answer.
    :raises Foreign: the answer is not SQS's.
    """
    fault = script.next(action, asked, {} if headers is None else headers) if faulty else None
    if fault is None:
        return (yield from _carry_out(store, action, asked, gone, None))
    ready_at = store.clock.now() + fault.delay
    while (left := ready_at - store.clock.now()) > 0:
        yield left
    if fault.form:
        raise Foreign((yield from _nonsense(store, script, fault, action, asked, gone)))
    answer: dict[str, Any] = {}
    if fault.runs:
        answer = yield from _carry_out(store, action, asked, gone, fault)
    while fault.hang and not script.released.is_set():
        yield None
    if fault.hang_up:
        raise HungUp
    if fault.answer is not None:
        raise Foreign(fault.answer)
    if fault.error is not None and fault.entries is None:
        raise fault.error
    return answer


def _carry_out(store: Store, action: str, asked: Any, gone: Callable[[], bool], fault: Fault | None) -> Steps:
    if action == "ReceiveMessage":
        return (yield from _receive(store, asked, gone))
    if fault is None or fault.entries is None:
        return store.call(action, asked)
    positions = {entry["Id"]: position for position, entry in enumerate(asked.get("Entries") or ())}

    def entry_fault(entry: Any) -> tuple[ApiError | None, bool]:
        error = fault.of_entry(positions[entry["Id"]])
        return error, error is None or fault.carried_out

    return store.call(action, asked, entry_fault)


def _receive(store: Store, asked: Any, gone: Callable[[], bool]) -> Steps:
    deadline: float | None = None
    while True:
        answer = {} if gone() else store.call("ReceiveMessage", asked)
        if answer or gone():
            return answer
        deadline = store.wait_until(asked) if deadline is None else deadline
        now = store.clock.now()
        if now >= deadline:
            return answer
        soonest = store.next_visible(asked)
        yield max(0.005, min(deadline, deadline if soonest is None else soonest) - now)


def _nonsense(
    store: Store, script: Script, fault: Fault, action: str, asked: Any, gone: Callable[[], bool]
) -> Generator[float | None, None, bytes]:
    """Carry a call out, or do not, and answer something else."""
    carried_out, done = asked, fault.carried_out
    if fault.form == "some_of_the_ids" and not done:
        # Those that the answer names must have been done: no client can see through a lie.
        carried_out = {**asked, "Entries": told(asked["Entries"])}
        done = bool(carried_out["Entries"])
    script.counts[f"nonsense_{fault.form}"] += 1
    script.counts["nonsense_done" if done else "nonsense_not_done"] += 1
    answer = never_done(action, asked)
    if done:
        answer = yield from _carry_out(store, action, carried_out, gone, None)
    return nonsense(fault.form, action, asked, answer)


def in_bytes(answer: Mapping[str, Any]) -> bytes:
    """An answer as it is sent."""
    try:
        return to_json(answer)
    except PydanticSerializationError:  # it holds a lone surrogate
        return json.dumps(answer).encode()


def read(body: bytes) -> Any:
    """Return the parameters of a call."""
    try:
        return from_json(body)
    except ValueError:
        return json.loads(body)
