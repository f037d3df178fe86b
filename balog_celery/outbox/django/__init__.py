"""The outbox of a Django project: an app with a model, written in the project's transactions.

Add ``"balog_celery.outbox.django"`` to ``INSTALLED_APPS``, and migrate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ..message import new_row
from ..store import TABLE, Execute, Store, check_database


def send_on_commit(
    payload: object,
    *,
    topic: str,
    channel: str | None = None,
    group: str | None = None,
    deduplication_id: str | None = None,
    delay: int | None = None,
    attributes: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
    using: str | None = None,
) -> str:
    """Write an event into the outbox, in the current transaction; without one it is committed at once.

    :param payload: a mapping with a ``cls_type``, or a :class:`~balog_celery.Payload`.
    :param topic: the queue's name, or its URL.
    :param channel: the record's channel; default: the queue's name.
    :param group: the message group, within which events keep their order; default: none, or one for all events of a
        FIFO topic.
    :param deduplication_id: for a FIFO topic; default: the event's id.
    :param delay: for how many seconds the message is invisible at first; not for a FIFO topic.
    :param attributes: message attributes, texts that are not empty.
    :param context: added to the configured context of the record.
    :param using: the alias of the database whose transaction it is; default: as the project's routers say.
    :returns: the event's id.
    :raises RecordError: the payload, the context or the attributes are not valid, or the message is too large.
    :raises ConfigurationError: the topic, the group, the deduplication id or the delay is not one.
    """
    from .models import OutboxMessage  # Django must be set up before

    event_id, row = new_row(
        payload,
        topic=topic,
        channel=channel,
        group=group,
        deduplication_id=deduplication_id,
        delay=delay,
        attributes=attributes,
        context=context,
    )
    OutboxMessage.objects.using(using).create(**row._asdict())
    return event_id


class DjangoStore(Store):
    """The outbox in one of the project's databases, for ``balog_outbox``.

    :param using: the database's alias.
    """

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        super().__init__(self._begin, TABLE)
        self._using = using

    def check(self) -> None:
        check_database(connections[self._using].vendor)

    @contextmanager
    def _begin(self) -> Iterator[Execute]:
        # After an error Django keeps a broken connection until it is told to look.
        connections[self._using].close_if_unusable_or_obsolete()
        with transaction.atomic(using=self._using), connections[self._using].cursor() as cursor:

            def execute(statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
                cursor.execute(statement, tuple(parameters) or None)
                return cursor.fetchall() if cursor.description else []

            yield execute


#: The outbox in the default database.
store = DjangoStore()
