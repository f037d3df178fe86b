"""The guardian: the process that owns the servers of a local stack (``python -m balog_celery.dev.guardian FOLDER``)."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time

from ..errors import BalogError
from .locks import RETRY_INTERVAL, is_same_file, open_lock, try_lock
from .moto_server import serve_sqs
from .paths import StackPaths, write_atomically
from .transport import restore_tasks
from .users import collect_users
from .valkey import STOP_TIMEOUT, ValkeyServer

logger = logging.getLogger(__name__)

#: How long the servers may take to start, in seconds.
START_TIMEOUT = 30.0

#: Interval at which the guardian checks its users and servers, in seconds.
_POLL = 0.25


class Guardian:
    """Runs the servers of a folder from their start until the last user has ended."""

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths
        self._stopping = False
        self._lock = -1
        self._valkey = ValkeyServer(paths)
        self._living: set[str] = set()
        self._restore_pending = False

    def run(self, ready: int) -> None:
        """Start the servers, write a byte to *ready*, and return when no process uses them.

        :param ready: the writing end of a pipe. The process at its other end has its own deadline.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._take_lock()
            self._start()
            os.write(ready, b"1")
            os.close(ready)
            while not self._stopping and self._folder_exists():
                self._valkey.restart_if_dead()
                self._check_users()
                if not self._living and self._close_to_users():
                    break
                time.sleep(_POLL)
        finally:
            self._stop()

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _take_lock(self) -> None:
        self._lock = open_lock(self._paths.guardian_lock)
        # Processes that test the lock hold it for an instant; a guardian that ends holds it for a few seconds.
        deadline = time.monotonic() + 2 * STOP_TIMEOUT
        while not try_lock(self._lock):
            if time.monotonic() > deadline:
                raise BalogError(f"another guardian of {self._paths.state_dir} is running")
            time.sleep(RETRY_INTERVAL)

    def _start(self) -> None:
        self._paths.info.unlink(missing_ok=True)
        self._valkey.stop_orphan()
        self._valkey.start()
        endpoint_url = serve_sqs(self._paths.port, START_TIMEOUT)
        self._valkey.wait_until_ready(START_TIMEOUT, lambda: self._stopping)
        self._living, _ = collect_users(self._paths)
        restore_tasks(self._paths.broker_url, self._living, unnamed=True)
        info = {"pid": os.getpid(), "broker_url": self._paths.broker_url, "endpoint_url": endpoint_url}
        write_atomically(self._paths.info, json.dumps(info))

    def _check_users(self) -> None:
        """Find the users that have ended, and restore their tasks."""
        self._living, ended = collect_users(self._paths)
        self._restore_pending = self._restore_pending or bool(ended)
        if self._restore_pending and self._living:
            try:
                restore_tasks(self._paths.broker_url, self._living, unnamed=False)
                self._restore_pending = False
            except Exception as error:
                logger.warning("cannot restore the tasks of a user that has ended, will try again: %s", error)

    def _close_to_users(self) -> bool:
        """Keep new users from registering. Return False if one has."""
        fd = open_lock(self._paths.start_lock)
        if try_lock(fd) and not collect_users(self._paths)[0]:
            # Held until this process ends: a new user waits for that, then starts a new guardian.
            return True
        os.close(fd)
        return False

    def _folder_exists(self) -> bool:
        exists = is_same_file(self._lock, self._paths.guardian_lock)
        if not exists:
            logger.error("%s was removed", self._paths.state_dir)
        return exists

    def _stop(self) -> None:
        if not self._valkey.started:
            return
        if self._folder_exists():
            self._paths.info.unlink(missing_ok=True)
        self._valkey.stop()


def main() -> None:
    """Run the guardian of the folder in ``sys.argv`` in the background, and exit when it is ready.

    :raises SystemExit: always; with 0 if the stack answers, with 1 if it does not.
    """
    (state_dir,) = sys.argv[1:]
    os.umask(0o077)
    read_end, write_end = os.pipe()
    if os.fork():
        # The caller waits for this process only, so it is not the parent of the guardian, which outlives it.
        os.close(write_end)
        os._exit(0 if os.read(read_end, 1) else 1)
    os.close(read_end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    code = 1
    try:
        Guardian(StackPaths(state_dir)).run(write_end)
        code = 0
    except BaseException:
        logger.exception("the local stack of %s failed", state_dir)
    finally:
        # Threads of the local SQS may be in a long poll: do not wait for them.
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
