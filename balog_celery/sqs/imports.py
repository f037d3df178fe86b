"""Imports botocore, boto3's core, so that neither a fork nor another import comes in between.

A forked child has only the thread that forked: it cannot end an import that another thread has begun, and every later
import of the same module fails.

boto3 itself is not imported: its package and ``boto3.session`` import each other. If one thread begins with the one
and another thread, the application's, with the other, one of them gets a module that is not complete.
"""

from __future__ import annotations

import os
import threading

#: How long a fork waits for an import, in seconds: the importing thread may itself wait for the one that forks.
_TIMEOUT = 10.0


class _Imports:
    """Held while a thread imports, and while one forks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._held = False

    def before_fork(self) -> None:
        self._held = self.lock.acquire(timeout=_TIMEOUT)

    def after_fork(self) -> None:
        if self._held:
            self._held = False
            self.lock.release()


_imports = _Imports()
os.register_at_fork(
    before=_imports.before_fork, after_in_parent=_imports.after_fork, after_in_child=_imports.after_fork
)


def import_botocore() -> None:
    """Import what calls to SQS need; a fork in another thread waits meanwhile."""
    with _imports.lock:
        import botocore.config
        import botocore.credentials
        import botocore.exceptions
        import botocore.session  # noqa: F401

        from . import botocore_compat  # noqa: F401
