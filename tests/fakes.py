"""A scripted queue: what it answers is told by the test, because no real SQS fails on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balog_celery.queues import EntryFailure, Message, OutgoingMessage

EVENT = {
    "schema": "0.0.1",
    "header": {"id": "LG1", "channel": "a.done", "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}},
    "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": "1.0"}]},
}


def event_text(event_id: str = "LG1", cls_type: str = "metrics", schema: str = "0.0.1", **payload: Any) -> str:
    """The JSON text of an event."""
    body = {"cls_type": cls_type, **({"values": []} if cls_type == "metrics" else {}), **payload}
    return json.dumps({**EVENT, "schema": schema, "header": {**EVENT["header"], "id": event_id}, "payload": body})


class FakeQueue:
    """A queue in memory that remembers every call.

    ``on`` maps a method's name to a function that is given the call's arguments and may return or raise; None from it
    means: go on as usual.
    """

    def __init__(self, name: str = "topic", bodies: Sequence[str] = ()) -> None:
        self.name = name
        self.is_fifo = name.endswith(".fifo")
        self.bodies = deque(bodies)
        self.calls: list[tuple[str, Any]] = []
        self.deleted: list[str] = []
        self.returned: list[str] = []
        self.extended: list[str] = []
        self.sent: list[OutgoingMessage] = []
        self.on: dict[str, Callable[..., Any]] = {}
        self.changed = threading.Condition()
        self.present = True
        self.message_attributes: Mapping[str, str] = {}
        self.sent_at = 0
        self.queue_attributes: Mapping[str, str] = {"VisibilityTimeout": "30"}
        self._number = 0

    def receive(self, limit: int, wait: float) -> list[Message]:
        if (answer := self._scripted("receive", limit)) is not None:
            return answer  # type: ignore[no-any-return]
        with self.changed:
            if not self.bodies:
                self.changed.wait(min(wait, 0.02))
            messages = []
            while self.bodies and len(messages) < limit:
                self._number += 1
                handle = f"h{self._number}"
                more = {"sent": self.sent_at, "attributes": self.message_attributes}
                messages.append(Message(self.bodies.popleft(), handle, f"m{self._number}", time.monotonic(), **more))
            return messages

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        return self.receive(limit, 0.0)

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        return self._batch("delete", handles, self.deleted)

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        if seconds:
            return self._batch("extend", handles, self.extended)
        return self._batch("return", handles, self.returned)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        if (answer := self._scripted("send", messages)) is not None:
            return answer  # type: ignore[no-any-return]
        with self.changed:
            self.sent += messages
            self.changed.notify_all()
        return []

    def attributes(self) -> Mapping[str, str]:
        self._scripted("attributes", None)
        return self.queue_attributes

    def exists(self) -> bool:
        return self.present

    def create(self) -> None:
        self.calls.append(("create", None))

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until *condition* holds; it is looked at after each call."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"not in {timeout} s: {self.calls[-5:]}"

    def _batch(self, what: str, handles: Sequence[str], done: list[str]) -> list[EntryFailure]:
        assert 1 <= len(handles) <= 10
        failures = self._scripted(what, list(handles)) or []
        failed = {failure.index for failure in failures}
        with self.changed:
            done += [handle for index, handle in enumerate(handles) if index not in failed]
            self.changed.notify_all()
        return failures

    def _scripted(self, what: str, argument: Any) -> Any:
        with self.changed:
            self.calls.append((what, argument))
            # Looked up here: whoever sees the call may change what the next one answers.
            script = self.on.get(what)
            self.changed.notify_all()
        return script(argument) if script is not None else None
