"""The shape of the package: what it exports, what imports what, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import balog_celery
import balog_celery.consumers

ROOT = Path(balog_celery.__file__).parent

#: From the bottom to the top: a module may import those above it in this list, never those below.
LAYERS = [
    "errors",
    "text",
    "ids",
    "wire",
    "records",
    "decoders",
    "settings",
    "processors",
    "logger",
    "backoff",
    "signer",
    "direct",
    "payloads",
    "queues",
    "dead_letters",
    "consumers.options",
    "consumers.bounds",
    "consumers.status",
    "consumers.predicates",
    "consumers.consumer",
    "consumers.operator",
    "consumers.explain",
    "consumers.doubts",
    "consumers.hub",
    "consumers.stats",
    "consumers.delivery",
    "telemetry",
    "handlers",
    "consumers.dispatcher",
    "consumers.batches",
    "consumers.keeper",
    "consumers.lanes",
    "consumers.listener",
    "consumers.engine",
    "consumers.sqs",
    "brokers",
    "consumers.kombu",
    "consumers",
    "selection",
    "walk",
    "letters",
    "once",
    "tasks",
    "limits",
    "replay",
    "tail",
    "checks",
    "link",
    "depth",
    "dispatch",
    "hand_off",
    "task_events",
    "local",
    "worker",
    "watch",
    "integration",
    "testing.producers",
    "testing.harness",
    "testing",
    "pytest_plugin",
    "celery",
    "cli.group",
    "cli.output",
    "cli.events",
    "cli.engine",
    "cli.health",
    "cli.consumers",
    "cli.explain",
    "cli.send",
    "cli.topics",
    "cli.replay",
    "cli.dead",
    "cli.tail",
    "cli.check",
    "cli.up",
    "cli",
]


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    return found


def imports_of(name: str, path: Path) -> set[str]:
    """The package's own modules that *path* imports, by their names in the package."""
    package = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            target = [*base, *(node.module.split(".") if node.module else [])]
            if node.module:
                found.add(".".join(target))
            else:
                found |= {".".join([*target, alias.name]) for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {n.removeprefix("balog_celery").lstrip(".") for n in names if n and n.startswith("balog_celery")}
    return found


def test_every_module_has_its_place() -> None:
    """A new file must be put into the order above."""
    assert sorted(set(modules()) - {""}) == sorted(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_one_way(name: str) -> None:
    """No module imports one below it in the order, nor the package's own ``__init__``."""
    above = LAYERS[: LAYERS.index(name)]
    wrong = {target for target in imports_of(name, modules()[name]) if target not in above}
    assert not wrong


def test_the_public_face_is_frozen() -> None:
    """Every name in ``__all__`` is there; a new one is added on purpose."""
    assert balog_celery.__all__ == [
        "AccessDenied",
        "BalogError",
        "ConfigurationError",
        "DecodeError",
        "FacilityRecord",
        "LogPayload",
        "MetricsPayload",
        "NullPayload",
        "Payload",
        "QueueError",
        "QueueNotFound",
        "RecordError",
        "SQSHandler",
        "SchemaFormatter",
        "VersionConditionError",
        "configure",
        "get_logger",
        "install",
    ]
    assert all(getattr(balog_celery, name) is not None for name in balog_celery.__all__)
    assert balog_celery.consumers.__all__ == [
        "BatchFailure",
        "Consumer",
        "ConsumerHub",
        "ConsumerOperator",
        "consumer_config",
    ]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The lazy attributes hide no typing error."""
    with pytest.raises(AttributeError, match="nothing"):
        balog_celery.nothing  # noqa: B018


METRICS = {"cls_type": "metrics", "values": [{"name": "n", "value": 1.5}]}


@pytest.mark.parametrize(
    "heavy", ["celery", "kombu", "boto3", "botocore", "opentelemetry", "redis", "moto", "pydantic.main"]
)
def test_logging_imports_nothing_heavy(heavy: str) -> None:
    """A producer needs neither Celery nor boto3, and for plain metrics not even pydantic's models."""
    write = f"get_logger('a').info('done', payload={METRICS})"
    code = f"import sys; from balog_celery import get_logger; {write}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("heavy", ["celery", "boto3", "redis", "moto"])
def test_the_pytest_plugin_imports_nothing_heavy(heavy: str) -> None:
    """Until one of its fixtures is used."""
    code = f"import sys; import balog_celery.pytest_plugin; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def files_importing(*packages: str) -> set[str]:
    return {
        path.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(
            (name or "").split(".")[0] in packages
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        )
    }


def test_only_three_files_import_boto3() -> None:
    """``queues.py`` is where AWS is talked to, ``direct.py`` how it does so often, and ``signer.py`` in whose name."""
    assert files_importing("boto3", "botocore") == {"direct.py", "queues.py", "signer.py"}


def test_only_one_file_imports_opentelemetry() -> None:
    """And only where it is asked to: the extra may be missing."""
    assert files_importing("opentelemetry") == {"telemetry.py"}
