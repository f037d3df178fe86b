"""Dead letters: events that failed permanently, kept in a queue of their own.

``writer`` sends an event there with the reason; the engine and the tasks call it. ``scan`` goes through such a queue,
and ``reader`` reads its messages. An event stays there until it is replayed or deleted with ``celery balog dead``.
"""
