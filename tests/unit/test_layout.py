"""The structure of the package: exports, imports, sizes, and the cost of imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import balog_celery
import balog_celery.consumers

ROOT = Path(balog_celery.__file__).parent
CHECKOUT = Path(__file__).parents[2]

#: Packages and modules, from the bottom to the top: each may import those above it in this list, never those below.
ORDER = [
    "errors",
    "text",
    "arguments",
    "number_rule",
    "signatures",
    "celery_compat",
    "backoff",
    "threads",
    "forks",
    "signals",
    "topic_settings",
    "settings",
    "events",
    "sqs",
    "dead_letters",
    "brokers",
    "consumers",
    "contracts",
    "telemetry",
    "producer",
    "tasks",
    "dispatch",
    "engine",
    "metrics",
    "outbox",
    "dev",
    "wiring",
    "worker",
    # Its command, in cli, imports it when it runs: its extra may be missing.
    "planning",
    "operations",
    "integration",
    "testing",
    "pytest_plugin",
    "celery",
    "cli",
    # Its command, in cli, imports it by name: it calls the code of the other commands, and its extra may be missing.
    "web",
]

#: The packages whose ``__init__`` has more than a docstring.
EXPORTING = {"consumers", "testing", "cli"}

#: Import paths of users that lead elsewhere, with the names there. The package itself uses none of them.
REEXPORTS = {
    "consumers.kombu": ["KombuEngine"],
    "consumers.sqs": ["SQSEngine"],
    "decoders": [
        "At",
        "Attribute",
        "JSONMapping",
        "Message",
        "auto",
        "balog",
        "cloudevents",
        "eventbridge",
        "json",
        "s3",
        "sns",
    ],
    "handlers": ["SQSHandler"],
    "logger": ["SchemaFormatter", "configure", "get_logger", "stats"],
    "queues": ["OutgoingMessage", "SQSQueue"],
    "records": [
        "Context",
        "FacilityRecord",
        "Header",
        "LogPayload",
        "MetricValue",
        "MetricsPayload",
        "NullPayload",
        "Payload",
        "decode",
        "encode",
        "parse_timestamp",
    ],
}

#: What users may import from, beside the package itself.
PUBLIC = {
    *REEXPORTS,
    "celery",
    "consumers",
    "errors",
    "integration",
    "outbox.django",
    "outbox.sqlalchemy",
    "pytest_plugin",
    "settings",
    "signals",
    "testing",
}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    return found


def imports_of(name: str) -> set[str]:
    """The package's own modules that the module *name* imports, wherever in it, by their names in the package."""
    path = modules()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {".".join(name[1:]) for name in names if name[0] == "balog_celery"}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - (node.level - 1)], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "balog_celery":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            base = [part for part in base if part]
            targets = {".".join([*base, alias.name]) for alias in node.names}
            found |= {target if target in modules() else ".".join(base) for target in targets}
    return found


def place_of(module: str) -> str:
    return module.split(".")[0]


INNER = sorted(set(modules()) - {""} - set(REEXPORTS))


def test_every_package_has_its_place() -> None:
    """Every package and top-level module is in ORDER."""
    assert {place_of(name) for name in INNER} == set(ORDER)


def test_no_top_level_module_hides_one_of_python() -> None:
    """A program that is run by its path in the package's folder finds that folder first."""
    assert not {name.removeprefix("balog_celery.") for name in INNER} & sys.stdlib_module_names


@pytest.mark.parametrize("name", INNER)
def test_imports_between_packages_point_one_way(name: str) -> None:
    """No module imports from a package behind its own in the order, nor through a public alias."""
    allowed = ORDER[: ORDER.index(place_of(name)) + 1]
    wrong = {target for target in imports_of(name) if target in REEXPORTS or place_of(target) not in allowed}
    assert not wrong


@pytest.mark.parametrize("place", ORDER)
def test_imports_within_a_package_point_one_way(place: str) -> None:
    """The modules within a package can be put into an order by their imports."""
    inside = [name for name in INNER if place_of(name) == place]
    graph = {name: {target for target in imports_of(name) if place_of(target) == place} for name in inside}
    TopologicalSorter(graph).prepare()  # or it raises CycleError, which names them


@pytest.mark.parametrize("place", [place for place in ORDER if modules()[place].name == "__init__.py"])
def test_a_package_says_what_it_is_for(place: str) -> None:
    """Each package's ``__init__`` has a docstring and no code, so importing a module imports no others."""
    (docstring, *rest) = ast.parse(modules()[place].read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert not rest or place in EXPORTING


@pytest.mark.parametrize("name", sorted(REEXPORTS))
def test_what_users_import_stays_where_it_is(name: str) -> None:
    """The documented import paths exist, and their modules define nothing themselves."""
    module = import_module(f"balog_celery.{name}")
    assert module.__all__ == REEXPORTS[name]
    assert all(hasattr(module, exported) for exported in module.__all__)
    docstring, *imports, exported = ast.parse(modules()[name].read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert imports
    assert all(isinstance(imported, ast.ImportFrom) for imported in imports)
    assert isinstance(exported, ast.Assign)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"celery"}))
def test_a_public_module_can_be_imported_by_itself(name: str) -> None:
    """Each public module can be imported first, by itself."""
    subprocess.run([sys.executable, "-c", f"import balog_celery.{name}"], check=True, timeout=60)


def test_documents_import_from_public_places() -> None:
    """README, docs and examples import from public places only."""
    texts = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md"), *(CHECKOUT / "examples").rglob("*.py")]
    imported = {
        found
        for path in texts
        for line in path.read_text().splitlines()
        for found in re.findall(r"^\s*(?:from|import) balog_celery\.([\w.]+)", line)
    }
    assert imported
    assert imported <= PUBLIC


def test_the_public_face_is_frozen() -> None:
    """``__all__`` has exactly the known names, and each exists."""
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
        "SendError",
        "VersionConditionError",
        "asend",
        "asend_many",
        "caused_by",
        "configure",
        "flush",
        "get_logger",
        "install",
        "produces",
        "send",
        "send_many",
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
    """An unknown attribute of the package is an AttributeError."""
    with pytest.raises(AttributeError, match="nothing"):
        balog_celery.nothing  # noqa: B018


METRICS = {"cls_type": "metrics", "values": [{"name": "n", "value": 1.5}]}


@pytest.mark.parametrize(
    "heavy", ["celery", "kombu", "boto3", "botocore", "opentelemetry", "redis", "moto", "pydantic.main"]
)
def test_logging_imports_nothing_heavy(heavy: str) -> None:
    """Logging plain metrics imports neither Celery nor boto3 nor pydantic's models."""
    write = f"get_logger('a').info('done', payload={METRICS})"
    code = f"import sys; from balog_celery import get_logger; {write}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("heavy", ["celery", "boto3", "redis", "moto"])
def test_the_pytest_plugin_imports_nothing_heavy(heavy: str) -> None:
    """The pytest plugin imports nothing heavy until a fixture is used."""
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


def test_few_files_import_botocore() -> None:
    """Only these modules import botocore, and none imports boto3, whose imports go in a circle."""
    assert files_importing("boto3", "botocore") == {
        "botocore_compat.py",
        "client_checks.py",
        "clients.py",
        "diagnostics.py",
        "direct.py",
        "imports.py",
        "translation.py",
    }
    assert files_importing("boto3") == set()


def late_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each module that a function imports without its package before: the package, and the module's name in it."""
    package = path.relative_to(ROOT.parent).parent.parts
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        before: set[str] = set()
        for node in ast.walk(function):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                names = [".".join([*above, *([node.module] if node.module else [])])]
            for name in names:
                parent, _, last = name.rpartition(".")
                if parent and parent not in before:
                    yield parent, last
                before.update([name, *(f"{name}.{alias.name}" for alias in node.names)])


def loads(package: str, module: str) -> bool:
    """Whether the import of *package* imports *module*, which balog_celery has not done before."""
    code = f"import sys, balog_celery; had = {module!r} in sys.modules; import {package}; "
    code += f"sys.exit({module!r} in sys.modules and not had)"
    return bool(subprocess.run([sys.executable, "-c", code], timeout=60).returncode)


def test_functions_import_a_package_before_its_modules() -> None:
    """No function begins with a module that its package imports, too: a thread that begins there meets another's.

    Python takes the lock of the module first, then that of its package; the other thread takes them the other way
    round, and one of them gets a module that is not complete.
    """
    late = {found for path in modules().values() for found in late_imports(path)}
    assert {f"{package}.{name}" for package, name in late if loads(package, f"{package}.{name}")} == set()


def test_only_one_file_imports_opentelemetry() -> None:
    """Only telemetry.py imports opentelemetry, and only on demand, because the extra may be missing."""
    assert files_importing("opentelemetry") == {"telemetry.py"}


# Sizes

MAX_FILE, MAX_FUNCTION, MAX_ATTRIBUTES = 300, 40, 12

#: Files that are still too long, have a function that is, or a class with too many attributes. It must only shrink.
TOO_LARGE: set[str] = set()


def attributes_of(node: ast.ClassDef) -> set[str]:
    """The attributes that its ``__init__`` sets."""
    return {
        target.attr
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for target in ast.walk(method)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of its body, without the docstring."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return node.end_lineno - body[0].lineno + 1 if body and node.end_lineno is not None else 0


def too_large(path: Path) -> list[str]:
    """Return what is too large in a file, with its size."""
    text = path.read_text()
    found = [f"{path.name}: {len(text.splitlines())} lines"] if len(text.splitlines()) > MAX_FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and lines_of(node) > MAX_FUNCTION:
            found.append(f"{node.name}: {lines_of(node)} lines")
        elif isinstance(node, ast.ClassDef) and len(attributes_of(node)) > MAX_ATTRIBUTES:
            found.append(f"{node.name}: {len(attributes_of(node))} attributes")
    return found


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")))
def test_files_functions_and_classes_are_small(path: str) -> None:
    """Files, functions and classes keep their limits; the list has no obsolete exception."""
    found = too_large(ROOT / path)
    if path in TOO_LARGE:
        assert found, f"take {path} off TOO_LARGE"
    else:
        assert not found
