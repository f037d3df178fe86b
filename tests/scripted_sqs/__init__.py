"""A scripted SQS with SQS's documented semantics, a clock that tests move, and faults on demand.

``store.py`` answers calls, ``queue.py`` and ``message.py`` hold the rules, ``script.py`` has the faults, ``server.py``
serves it over HTTP and ``in_process.py`` without, where ``observed.py`` names messages and lists what became of them.
``python -m scripted_sqs`` runs it in a process of its own. ``raw.py`` has servers that answer with bytes no SQS sends.

Sources of the rules: the SQS API reference (as botocore's model holds it) and the SQS developer guide's quotas. Where
they leave a choice, the code says which one this takes.
"""
