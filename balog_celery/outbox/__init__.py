"""The transactional outbox: events are rows of the application's database until a relay has sent them to SQS.

``sqlalchemy.py`` and ``django`` write rows in the caller's transaction, ``relay.py`` sends them.
"""
