"""How many tasks of a consumer may run at once."""

from __future__ import annotations

from typing import NamedTuple

from ..arguments import is_number
from ..errors import ConfigurationError


class Concurrency(NamedTuple):
    """The limit on a consumer's running tasks.

    :param limit: how many may run at once.
    :param in_cluster: whether all workers together count, rather than each for itself.
    """

    limit: int
    in_cluster: bool = False

    def __str__(self) -> str:
        where = "all workers" if self.in_cluster else "each worker"
        return f"at most {self.limit} at once in {where}"


def concurrency_of(value: object, where: str) -> Concurrency | None:
    """Return the limit that *value* gives: a number, or a number with ``"cluster"``; None: there is none.

    :param where: which consumer it is for.
    :raises ConfigurationError: it gives neither.
    """
    if value is None:
        return None
    limit, *rest = value if isinstance(value, (tuple, list)) and value else (value,)
    if not isinstance(limit, int) or not is_number(limit) or limit < 1 or rest not in ([], ["cluster"]):
        raise ConfigurationError(
            f"bad concurrency={value!r} for {where}: give how many may run at once in each worker, such as 2, or in "
            'all workers together, such as (10, "cluster")'
        )
    return Concurrency(limit, bool(rest))
