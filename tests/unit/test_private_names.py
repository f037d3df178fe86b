"""Undocumented names of Celery, kombu, billiard and botocore are used in the compat modules only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import balog_celery

ROOT = Path(balog_celery.__file__).parent
#: Of Celery and billiard, of kombu, of botocore.
HOMES = ("celery_compat/", "brokers/kombu_compat.py", "sqs/botocore_compat.py")

#: What a name tuple's, dataclass's or interpreter's documentation says of names that begin with an underscore.
DOCUMENTED = {"_asdict", "_fields", "_replace", "_exit"}

#: Names without an underscore that no documentation of Celery, kombu or billiard has.
UNDOCUMENTED = {
    "active_requests",
    "amqp",
    "contents",
    "create_request_cls",
    "create_task_message",
    "driver_type",
    "global_keyprefix",
    "load_default_modules",
    "on_send_buffered",
    "on_send_event_buffered",
    "prepare_accept_content",
    "priority_steps",
    "qos",
    "reserved_requests",
    "restore_by_tag",
    "restore_visible",
    "send_task_message",
    "should_terminate",
    "task_buckets",
    "terminate_handler_fired",
    "trace_ok_t",
    "tx_commit",
    "tx_select",
    "unacked_index_key",
    "unacked_key",
    "unacked_restore_limit",
    "value_set_for",
}

#: Modules without documentation, whatever is taken from them.
UNDOCUMENTED_MODULES = {
    "billiard",
    "celery.app.trace",
    "celery.app.utils",
    "celery.worker.request",
    "celery.worker.state",
    "celery.worker.strategy",
}

#: What other modules still use, none of it of Celery, kombu, billiard or botocore. It may only get shorter: a name that
#: is gone must be taken out.
REMAINING: dict[str, set[str]] = {
    "events/conditions.py": {"_texts"},
    "events/patterns.py": {"_given"},
    "producer/handlers.py": {"_is_owned", "_lock", "_start_afresh"},
    "producer/logger.py": {"_getframe", "_process_event"},
    "producer/sending.py": {"_getframe"},
}


def names_in(path: Path) -> Iterator[str]:
    """The undocumented names in a module: attributes of anything but ``self`` and ``cls``, and imported names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name = node.attr
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_super = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            private = name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED
            if (private and not own) or (name in UNDOCUMENTED and (not own or is_super)):
                yield name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if any(f"{full}.".startswith(f"{module}.") for module in UNDOCUMENTED_MODULES):
                    yield full
                elif alias.name.startswith("_") or alias.name in UNDOCUMENTED:
                    yield alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if any(f"{alias.name}.".startswith(f"{module}.") for module in UNDOCUMENTED_MODULES):
                    yield alias.name
        elif isinstance(node, ast.Constant) and node.value in UNDOCUMENTED - {"amqp", "qos", "contents"}:
            yield str(node.value)  # getattr(channel, "unacked_key")


MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not name.startswith(HOMES)))
def test_undocumented_names_are_used_in_one_place(module: str) -> None:
    """Undocumented names are used in the compat modules only."""
    assert set(names_in(MODULES[module])) == REMAINING.get(module, set())


def test_the_list_of_exceptions_names_modules_that_exist() -> None:
    """Each exception names a module that exists."""
    assert REMAINING.keys() <= MODULES.keys()


def test_an_undocumented_name_is_found(tmp_path: Path) -> None:
    """A private name is found however it is reached."""
    module = tmp_path / "module.py"
    module.write_text(
        "from billiard.common import terminate_handler_fired\n"
        "from celery.app.trace import _localized\n"
        "from celery.worker import state\n"
        "from kombu.transport.redis import _thing\n"
        "import billiard.einfo\n"
        "app.amqp.send_task_message()\n"
        "getattr(channel, 'unacked_key')\n"
        "class A(B):\n"
        "    def a(self):\n"
        "        self._own, self._replace(), other._replace()\n"
        "        super()._announce_revoked()\n"
        "        other._private\n"
    )
    assert set(names_in(module)) == {
        "_announce_revoked",
        "_private",
        "_thing",
        "amqp",
        "billiard.common.terminate_handler_fired",
        "billiard.einfo",
        "celery.app.trace._localized",
        "celery.worker.state",
        "send_task_message",
        "unacked_key",
    }
