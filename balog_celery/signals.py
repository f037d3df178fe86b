"""Signals, as Celery's: ``event_dead.connect(receiver)``. A receiver that raises is logged and changes nothing.

``event_received``
    An engine has decoded an event. Sender: the topic. Arguments: ``event``, a :class:`FacilityRecord`.
``event_unmatched``
    No consumer wants an event. Sender: the topic. Arguments: ``event``.
``event_dead``
    A dead letter was made, by an engine or by a worker. Sender: the topic. Arguments: ``body``; ``reason``, one of
    ``failed``, ``undecodable``, ``default_event_handler``, ``fault``; ``consumer``, the name of the task that failed,
    or ""; ``error``.
``consumer_paused``
    A worker has paused a consumer, or the topic of one. Sender: the topic. Arguments: ``consumer``, the name of its
    task.

They are sent in the process where it happens: connect in a module that is scanned for consumers, which engines and
workers import.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

event_received = Signal(name="event_received", providing_args={"event"})
event_unmatched = Signal(name="event_unmatched", providing_args={"event"})
consumer_paused = Signal(name="consumer_paused", providing_args={"consumer"})
event_dead = Signal(name="event_dead", providing_args={"body", "reason", "consumer", "error"})
