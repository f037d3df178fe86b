"""Messages that are received again while their release is pending."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from balog_celery.consumers.delivery import Delivery, Settlement, State, settle
from balog_celery.engine.acknowledger import Acknowledger
from balog_celery.engine.message_groups import MessageGroups
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import VisibilityExtender
from balog_celery.engine.visibility_timeout import VisibilityTimeout
from scripted_sqs.observed import ObservedQueue

DEADLINE = 60.0


def test_a_message_that_is_received_again_before_its_release_keeps_its_place_in_the_group() -> None:
    """A message received again while its release is pending is dispatched again, before those behind it."""
    # Given a message that was released, and a release call that does not return: a double, as no SQS hangs on demand
    queue, calling, go_on = ObservedQueue("topic.fifo"), threading.Event(), threading.Event()

    def hang(_: Sequence[str]) -> None:
        calling.set()
        assert go_on.wait(DEADLINE)

    queue.on["release"] = hang
    for name in ("other", "first", "second"):
        queue.put("body", name=name, group="g")
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, 30), TopicStats())
    acknowledger = Acknowledger(queue, extender, TopicStats())
    started: list[Delivery] = []
    changed = threading.Condition()

    def start(deliveries: Sequence[Delivery]) -> None:
        with changed:
            started.extend(deliveries)
            changed.notify_all()

    groups = MessageGroups("topic.fifo", extender, acknowledger, start)
    acknowledger.start()
    groups.start()
    other = Delivery(queue.take("other"), 1, acknowledger.settle)
    extender.hold([other])
    other.settle_now(Settlement.RELEASE)
    assert calling.wait(DEADLINE)
    groups.add([queue.take("first")])
    with changed:
        assert changed.wait_for(lambda: len(started) == 1, DEADLINE)
    settle(started, Settlement.RELEASE)

    # When its visibility timeout has ended, and it is received again, with one behind it
    again = [queue.take("first"), queue.take("second")]
    groups.add(again)

    # Then it is started again, and the one behind it waits; its release, which is obsolete, is not made
    with changed:
        assert changed.wait_for(lambda: len(started) == 2, DEADLINE)
    assert started[1].message.handle == again[0].handle
    go_on.set()
    settle(started[1:], Settlement.ACKNOWLEDGE)
    with changed:
        assert changed.wait_for(lambda: len(started) == 3, DEADLINE)
    assert started[2].message.handle == again[1].handle
    settle(started[2:], Settlement.ACKNOWLEDGE)
    groups.stop()
    assert acknowledger.close(time.monotonic() + DEADLINE) == 0
    assert started[0].state is State.EXPIRED
    assert queue.released == ["other"]
    assert queue.deleted == ["first", "second"]
