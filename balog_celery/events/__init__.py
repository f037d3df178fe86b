"""Events: records, ids, decoders, and conditions that select events.

``records`` has the models of a record, ``payloads`` those of its payload, ``timestamps`` reads times, and
``serialization`` reads and writes JSON. ``message`` is what a decoder gets, ``decoders`` read the events of all
sources, and ``ids`` makes ids. ``limits`` refuses bodies that are too large or deep. ``conditions``, ``patterns`` (with
``operators``) and ``event_filter`` select events. Texts come in from outside; nothing here knows a queue or Celery.
Next, an event is routed to ``consumers``.
"""
