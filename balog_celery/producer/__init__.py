"""Where an application's own events begin: its logger.

A call of the logger comes in. ``processors`` make it a record, ``values`` writes that as a line of JSON, ``logger`` and
``formatter`` are where applications meet them. ``handlers`` puts the line into a ``buffer``, from which a ``sender``
ships it; a ``tally`` counts what became of it, and ``process_end`` ships the rest. ``sending`` sends an event that must
arrive. ``lineage`` knows which event caused another. But for ``sending`` nothing here may raise in the application, and
nothing imports Celery. From here an event goes through ``sqs``.
"""
