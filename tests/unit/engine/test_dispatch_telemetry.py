"""What telemetry is told of a dispatch, however that ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from balog_celery.consumers.delivery import Job
from balog_celery.engine.engine import Engine
from balog_celery.telemetry import Telemetry
from engines import Queues, Recorder, ScriptedDispatcher, hub_of, running
from sample_events import event_text
from servers import wait_until


class Log(Telemetry):
    """Remembers how each dispatch ended, and fails after those that succeeded if the test asks for that."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.ends: list[str] = []
        self.is_broken = is_broken

    @contextmanager
    def dispatching(self, topic: str, jobs: Sequence[Job]) -> Iterator[object]:
        try:
            yield None
        except BaseException as error:
            self.ends.append(str(error))
            raise
        self.ends.append("dispatched")
        if self.is_broken:
            raise RuntimeError("a meter's fault")


def engine_of(queues: Queues, dispatcher: ScriptedDispatcher, telemetry: Telemetry) -> Engine:
    queues["topic"].put(event_text())
    return Engine(
        hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher, telemetry=telemetry
    )


def test_retries_belong_to_one_dispatch() -> None:
    """A dispatch that succeeds after retries is one that succeeded."""
    queues, dispatcher, log = Queues(), ScriptedDispatcher(failures=1), Log()
    with running(engine_of(queues, dispatcher, log)):
        wait_until(lambda: bool(dispatcher.taken))
        dispatcher.taken[0].acknowledge()
        queues["topic"].wait_for(lambda: bool(queues["topic"].deleted))
    assert log.ends == ["dispatched"]


def test_a_dispatch_that_a_stop_ends_has_failed() -> None:
    """What a stop ends before the dispatcher took it is released, and does not count as dispatched."""
    queues, dispatcher, log = Queues(), ScriptedDispatcher(failures=10_000), Log()
    with running(engine_of(queues, dispatcher, log)):
        dispatcher.called.wait(60)
    assert log.ends == ["the broker is down"]
    assert queues["topic"].released == ["m1"]


def test_what_was_dispatched_is_not_released_if_telemetry_fails() -> None:
    """The jobs run already: released, they would run twice."""
    queues, dispatcher, log = Queues(), ScriptedDispatcher(), Log(is_broken=True)
    with running(engine_of(queues, dispatcher, log)):
        wait_until(lambda: log.ends == ["dispatched"])
        dispatcher.taken[0].acknowledge()
        queues["topic"].wait_for(lambda: bool(queues["topic"].deleted))
    assert (queues["topic"].deleted, queues["topic"].released) == (["m1"], [])
