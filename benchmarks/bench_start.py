"""Figure 9: the cost of importing the package and of scanning for consumers, in CPU of whole processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_base import Figure, Options, base_env, median, ratios

_MODULES, _CONSUMERS = 20, 50

_CONSUMER = '''
@consumer_config(topic="events-{topic}", cls_type=("type-{number}", "other"), version=">=1.0,<2.0", max_retries=3)
def consumer_{number}(event):
    """Consumer {number}."""
'''

_SCAN = """
import time
from balog_celery.consumers import ConsumerHub
import many
began = time.process_time()
hub = ConsumerHub()
hub.scan(many)
assert len(hub) == {count}, len(hub)
print(time.process_time() - began)
"""

_LOAD = """
import time
import celery, boto3, balog_celery.integration
app = celery.Celery("many_app", broker="memory://")
balog_celery.install(app, packages=["many"])
began = time.process_time()
app.loader.import_default_modules()
assert len(app.balog.hub) == {count}
print(time.process_time() - began)
"""


def _run(code: str, *, folder: str | None = None) -> tuple[float, str]:
    """Run Python code in a process; return its CPU (user and system) in ms, and its output."""
    env = {key: value for key, value in {**os.environ, **base_env()}.items() if value is not None}
    if folder:
        env["PYTHONPATH"] += os.pathsep + folder
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent * 1e3, done.stdout


def start(options: Options) -> Figure:
    """Compare a producer's import to importing the two libraries that it needs."""
    codes = {
        "ours": "from balog_celery import get_logger",
        "structlog_and_pydantic": "import structlog, pydantic",
        # pydantic imports most of itself when a first model is made.
        "structlog_and_a_pydantic_model": "import structlog, pydantic\nclass M(pydantic.BaseModel):\n    a: int",
        # Ours are made by the first record that needs one.
        "ours_and_the_models": "from balog_celery import get_logger, Payload",
        "python_alone": "pass",
    }
    times: dict[str, list[float]] = {name: [] for name in codes}
    for code in codes.values():
        _run(code)
    for _ in range(options.pick(21, 7)):
        for name, code in codes.items():
            times[name].append(_run(code)[0])
    figure = Figure("import", median(ratios(times["ours"], times["structlog_and_pydantic"])), "<= 1.5")
    figure.sides = {f"{name}_ms": median(values) for name, values in times.items()}
    figure.sides["ratio_with_the_models_to_structlog_and_a_model"] = median(
        ratios(times["ours_and_the_models"], times["structlog_and_a_pydantic_model"])
    )
    return figure


def scan(options: Options) -> Figure:
    """Measure a scan of 1,000 consumers in 20 modules with their import, also with a Celery task for each."""
    count = _MODULES * _CONSUMERS
    with tempfile.TemporaryDirectory() as folder:
        _write_package(Path(folder) / "many")
        scans, loads = [], []
        for number in range(options.pick(7, 3) + 1):
            scanned = float(_run(_SCAN.format(count=count), folder=folder)[1])
            loaded = float(_run(_LOAD.format(count=count), folder=folder)[1])
            if number:  # the first one compiles the modules
                scans.append(scanned)
                loads.append(loaded)
    sides = {"scan_s": median(scans), "scan_and_register_tasks_s": median(loads), "consumers": count}
    return Figure("scan", median(scans), "<= 1", sides)


def _write_package(package: Path) -> None:
    package.mkdir()
    (package / "__init__.py").touch()
    for module in range(_MODULES):
        consumers = [_CONSUMER.format(topic=module, number=module * _CONSUMERS + n) for n in range(_CONSUMERS)]
        text = "from balog_celery.consumers import consumer_config\n\n" + "\n".join(consumers)
        (package / f"part_{module}.py").write_text(text)


FIGURES = {"import": start, "scan": scan}
