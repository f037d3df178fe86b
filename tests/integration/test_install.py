"""``balog_celery.install`` in apps that have their own tasks and settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from documents import ROOT

import balog_celery
import servers
from balog_celery.errors import ConfigurationError
from sample_events import event_text

#: The consumers of the app.
EVENTS = """
import os
from balog_celery.consumers import consumer_config

@consumer_config(topic=os.environ["TOPIC"], cls_type="metrics", queue="special", priority=3)
def routed(event):
    print(f"routed {event['header']['id']}")

@consumer_config(topic=os.environ["TOPIC"], cls_type="plain")
def plain(event):
    print(f"plain {event['header']['id']}")
"""

#: The app, as it was before; what a test gives for it stands at the end.
APP = """
import os
from celery import Celery
import balog_celery

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.task_default_queue = "shop"
app.conf.balog_wait_time = 1

@app.task
def add(x, y):
    return x + y

"""


class Shop:
    """A folder with an app in the module ``shop``, and its consumers in ``shop_events``."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env
        (folder / "shop_events.py").write_text(EVENTS)
        self.write("balog_celery.install(app, packages=['shop_events'])")
        self.programs: list[servers.Program] = []

    def write(self, *lines: str) -> None:
        """Write the app, with *lines* at its end."""
        (self.folder / "shop.py").write_text(APP + "".join(textwrap.dedent(line) + "\n" for line in lines))

    def start(self, *command: str, ready: str | None = None) -> servers.Program:
        """Run Python with *command*; it is killed in the end."""
        program = servers.Program([sys.executable, *command], env=self.env, cwd=self.folder)
        self.programs.append(program)
        program.start()
        if ready:
            program.wait_for(ready)
        return program

    def celery(self, *arguments: str, ready: str | None = None) -> servers.Program:
        return self.start("-m", "celery", "-A", "shop", *arguments, ready=ready)

    def told(self, code: str) -> Any:
        """Return the JSON that *code* prints in a Python process of its own."""
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
        env = {**os.environ, **self.env}
        answer = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)


@pytest.fixture
def send(sqs: servers.Sqs, queue_name: str) -> Iterator[Callable[..., None]]:
    """Sends bodies to the topic."""
    with closing(sqs.client()) as client:
        url = client.get_queue_url(QueueName=queue_name)["QueueUrl"]

        def run(*bodies: str) -> None:
            for body in bodies:
                client.send_message(QueueUrl=url, MessageBody=body)

        yield run


@pytest.fixture
def shop(tmp_path: Path, sqs: servers.Sqs, broker: servers.Valkey, queue_name: str) -> Iterator[Shop]:
    """The app, on Valkey and the SQS server."""
    shop = Shop(tmp_path, {**sqs.env, "BROKER": broker.url, "TOPIC": queue_name})
    yield shop
    for program in shop.programs:
        print(program.output)  # shown if the test failed
        program.__exit__(None, None, None)


def test_the_app_keeps_its_tasks_and_gains_the_consumers(shop: Shop, send: Callable[..., None]) -> None:
    """One worker runs the app's own tasks and the consumers, each on the queue that it is routed to."""
    shop.write(
        "app.conf.task_routes = {'shop.add': {'queue': 'sums'}}",
        "balog_celery.install(app, packages=['shop_events'])",
    )
    send(event_text("e1"), event_text("e2", "plain"))
    worker = shop.celery("worker", "-l", "INFO", "-c", "1", "-Q", "shop,special,sums", ready=" ready.")
    assert shop.told("import json, shop; print(json.dumps(shop.add.delay(1, 2).get(timeout=30)))") == 3
    worker.wait_for("routed e1")
    worker.wait_for("plain e2")
    assert "Traceback" not in worker.output


def test_consumers_are_listed_with_the_apps_own_default_queue(shop: Shop) -> None:
    """`balog consumers` shows the queues of the app's routing; tasks of its default queue are handed over."""
    listing = shop.celery("balog", "consumers")
    assert listing.wait(60) == 0
    rows = {line.split()[0]: line.split()[1:6] for line in listing.output.splitlines()}
    topic = shop.env["TOPIC"]
    assert rows["shop_events.plain"] == [topic, "plain", "*", "shop", "hand-off"]
    assert rows["shop_events.routed"] == [topic, "metrics", "*", "special", "publish"]


def test_consumers_are_published_where_a_worker_cannot_be_handed_tasks(shop: Shop) -> None:
    """`balog consumers` shows that tasks are published where the transport does not work in an event loop."""
    shop.write("app.conf.broker_url = 'memory://'", "balog_celery.install(app, packages=['shop_events'])")
    listing = shop.celery("balog", "consumers")
    assert listing.wait(60) == 0
    assert {line.split()[5] for line in listing.output.splitlines() if line.startswith("shop_events")} == {"publish"}


def test_modules_are_left_out_as_the_settings_say(app: Celery) -> None:
    """``balog_ignore`` leaves out modules; a text is one entry, and names may be relative to the package."""
    app.conf.update(balog_packages="examples.metrics", balog_ignore=".consumers")
    balog_celery.install(app)
    app.loader.import_default_modules()
    assert len(app.balog.hub) == 0


def test_a_configuration_is_looked_for_in_the_current_folder(tmp_path: Path) -> None:
    """The configuration is read from the current folder, not from a checkout of this package on the path."""
    code = "from balog_celery.celery import app; print(app.conf.get('balog_packages'))"
    for text, packages in [("", "None"), ("balog_packages = ['mine']", "['mine']")]:
        if text:
            (tmp_path / "celeryconfig.py").write_text(text)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == packages, done.stderr


def test_importing_the_app_imports_no_consumer(shop: Shop) -> None:
    """Importing the app imports no consumers, which a web process does not need."""
    assert shop.told(
        """
        import json, sys, shop
        shop.add.name
        print(json.dumps([name in sys.modules for name in ("shop_events", "boto3", "moto")]))
        """
    ) == [False, False, False]


def test_a_worker_without_dash_a_starts_its_engine_as_well(shop: Shop, send: Callable[..., None]) -> None:
    """A worker started without ``-A`` starts its engine with the module that holds the app."""
    send(event_text("e", "plain"))
    code = "import shop; shop.app.worker_main(['worker', '-l', 'INFO', '-c', '1'])"
    worker = shop.start("-c", code, ready="engine started")
    worker.wait_for("plain e")


@pytest.mark.parametrize("command", [["shop.py"], ["-m", "shop"], ["../elsewhere/run.py"]])
def test_an_app_in_a_script_is_found(shop: Shop, send: Callable[..., None], command: list[str]) -> None:
    """Also if it has the script's name, and if it is in a folder that Python knows for the script only."""
    send(event_text("e", "plain"))
    start = "if __name__ == '__main__':\n    app.worker_main(['worker', '-l', 'INFO', '-c', '1'])"
    shop.write("balog_celery.install(app, packages=['shop_events'], status_dir='status')", start)
    text = (shop.folder / "shop.py").read_text().replace('Celery("shop"', "Celery(__name__")
    (shop.folder / "shop.py").write_text(text)
    if "run.py" in command[0]:
        elsewhere = shop.folder.parent / "elsewhere"
        elsewhere.mkdir()
        (shop.folder / "shop.py").rename(elsewhere / "shop.py")
        (elsewhere / "run.py").write_text("from shop import app; app.worker_main(['worker', '-l', 'INFO', '-c', '1'])")
    worker = shop.start(*command, ready="engine started")
    worker.wait_for("plain e")
    if "run.py" not in command[0]:
        assert shop.celery("balog", "health").wait(60) == 0
    worker.signal(signal.SIGTERM)
    worker.wait(60)
    assert "Traceback" not in worker.output


def test_an_app_that_no_other_process_can_find_is_told_so(shop: Shop) -> None:
    """One line with advice, before the worker starts."""
    script = shop.folder / "main.py"
    script.write_text((shop.folder / "shop.py").read_text() + "\napp.worker_main(['worker', '-l', 'INFO', '-c', '1'])")
    worker = shop.start("main.py")
    assert worker.wait(60) == 78
    assert "the engine's process cannot find" in worker.output
    assert "balog_engine = False" in worker.output
    assert "Traceback" not in worker.output
    assert "[tasks]" not in worker.output  # the banner


def test_a_module_that_starts_a_worker_when_it_is_imported_starts_one_only(shop: Shop) -> None:
    """Its engine would start another worker with another engine, without an end."""
    with (shop.folder / "shop.py").open("a") as file:
        file.write("\nif __name__ != '__main__':\n    app.worker_main(['worker', '-l', 'INFO', '-c', '1'])\n")
    worker = shop.start("-c", "import shop")
    assert worker.wait(60) == 0  # worker_main gives no exit code
    assert worker.output.count("the import of the app's module starts a worker") == 1
    assert "this worker stops, as the engine cannot start" in worker.output


def test_a_consumer_module_that_cannot_be_imported_stops_the_worker_with_its_cause(shop: Shop) -> None:
    """An import error in a consumer module stops the worker and names its cause."""
    (shop.folder / "shop_events.py").write_text("import no_such_library\n")
    worker = shop.celery("worker", "-l", "INFO", "-c", "1")
    assert worker.wait(60) != 0
    assert "No module named 'no_such_library'" in worker.output


def test_a_consumer_module_that_raises_stops_the_worker_with_its_cause(shop: Shop) -> None:
    """An exception in a consumer module stops the worker and names its cause, even one that libraries swallow."""
    for error in ("ValueError", "AttributeError", "ImportError"):
        (shop.folder / "shop_events.py").write_text(f"raise {error}('the true cause')\n")
        worker = shop.celery("worker", "-l", "INFO", "-c", "1")
        assert worker.wait(60) != 0
        assert "the true cause" in worker.output


def test_a_worker_without_consumers_runs_without_an_engine(shop: Shop) -> None:
    """A worker without consumers logs that it runs no engine, and executes the app's own tasks."""
    (shop.folder / "shop_events.py").write_text("")
    worker = shop.celery("worker", "-l", "INFO", "-c", "1", ready=" ready.")
    assert shop.told("import json, shop; print(json.dumps(shop.add.delay(1, 2).get(timeout=30)))") == 3
    assert "there are no consumers in balog_packages = ['shop_events'], so this worker runs no engine" in worker.output
    assert "engine started" not in worker.output


def test_a_worker_may_be_told_to_run_no_engine_by_its_settings(shop: Shop, send: Callable[..., None]) -> None:
    """With ``engine=False`` a worker only executes tasks."""
    shop.write("balog_celery.install(app, packages=['shop_events'], engine=False)")
    worker = shop.celery("worker", "-l", "INFO", "-c", "1", ready=" ready.")
    engine = shop.celery("balog", "engine", ready="engine started")
    send(event_text("e", "plain"))
    worker.wait_for("plain e")
    assert "engine started" not in worker.output
    engine.signal_group(2)
    assert engine.wait(60) == 130


def test_a_shell_command_without_install_says_what_to_do(shop: Shop) -> None:
    """A `balog` command of an app without install() fails with advice."""
    shop.write()
    listing = shop.celery("balog", "consumers")
    assert listing.wait(60) != 0
    assert "call balog_celery.install(app, packages=[...])" in listing.output


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app in this process, that nothing connects to a broker."""
    app = Celery("own", broker="memory://", set_as_current=False)
    yield app
    app.close()


def test_the_configuration_wins_over_what_install_was_given(app: Celery) -> None:
    """The configuration wins over install(), set before or after it; other arguments stay."""
    balog_celery.install(app, packages=["a"], region="eu-west-1", wait_time=5)
    app.conf.balog_region = "eu-central-1"
    assert app.balog.settings.region == "eu-central-1"
    assert app.balog.settings.wait_time == 5
    assert app.balog.settings.packages == ("a",)


def test_the_configuration_wins_also_where_it_was_read_before(app: Celery) -> None:
    """The configuration wins also if it was read before install()."""
    app.conf.update(balog_region="eu-central-1", balog_packages=["b"])
    assert app.conf.balog_region == "eu-central-1"
    balog_celery.install(app, packages=["a"], region="eu-west-1")
    assert app.balog.settings.region == "eu-central-1"
    assert app.balog.settings.packages == ("b",)


def test_the_configuration_wins_from_an_object(app: Celery) -> None:
    """Settings given as an object, as most apps do, win over those given to install()."""

    class Config:
        balog_region = "eu-central-1"

    app.config_from_object(Config)
    balog_celery.install(app, packages=["a"], region="eu-west-1")
    assert app.balog.settings.region == "eu-central-1"


@pytest.mark.parametrize(
    ("namespace", "names"),
    [
        ("CELERY", {"CELERY_BROKER_URL": "memory://", "CELERY_BALOG_REGION": "eu-central-1", "BALOG_REGOIN": "else's"}),
        (None, {"BROKER_URL": "memory://", "BALOG_REGION": "eu-central-1"}),
    ],
)
def test_settings_are_named_as_celerys_are(app: Celery, namespace: str | None, names: dict[str, Any]) -> None:
    """Settings are read behind a namespace, as in Django, and in capitals; those set in code win."""
    app.config_from_object(type("Config", (), names), namespace=namespace)
    balog_celery.install(app, packages=["a"], region="eu-west-1")
    app.conf.balog_wait_time = 3
    assert app.balog.settings.region == "eu-central-1"
    assert app.balog.settings.wait_time == 3


def test_a_misspelt_setting_behind_a_namespace_is_an_error(app: Celery) -> None:
    """A misspelt setting behind a namespace is an error instead of silently being a default."""
    app.config_from_object(type("Config", (), {"CELERY_BALOG_REGOIN": "x"}), namespace="CELERY")
    balog_celery.install(app)
    with pytest.raises(ConfigurationError, match="did you mean balog_region"):
        _ = app.balog.settings


def test_one_package_needs_no_list(app: Celery) -> None:
    """A text is one package, not its letters."""
    balog_celery.install(app, packages="a.b")
    assert app.balog.settings.packages == ("a.b",)


def test_an_unknown_setting_is_an_error_where_it_is_written(app: Celery) -> None:
    """An unknown setting is an error that names the nearest one, as soon as the settings are read."""
    with pytest.raises(ConfigurationError, match="did you mean balog_region"):
        balog_celery.install(app, packages=["a"], regoin="eu-west-1")
    with pytest.raises(ConfigurationError, match="bad value 'soon' for setting balog_wait_time"):
        balog_celery.install(app, packages=["a"], wait_time="soon")
    balog_celery.install(app, packages=["a"])
    app.conf.balog_regoin = "eu-west-1"
    with pytest.raises(ConfigurationError, match="did you mean balog_region"):
        app.loader.import_default_modules()


@pytest.mark.parametrize(("accepted", "well"), [(["pickle"], False), (["pickle", "json"], True), (None, True)])
def test_an_app_that_refuses_json_is_told_so(app: Celery, accepted: list[str] | None, well: bool) -> None:
    """An app that does not accept JSON is refused at start: its worker would discard every event."""
    app.conf.accept_content = accepted
    balog_celery.install(app)
    with nullcontext() if well else pytest.raises(ConfigurationError, match=r"accept_content = \['pickle'\].*'json'"):
        app.loader.import_default_modules()


WHEN = pytest.mark.parametrize("when", ["before", "after", "object"])


def installed(app: Celery, when: str, **config: Any) -> Celery:
    """Configure *app* before or after the install, or by an object that is read later."""
    if when == "object":
        app.config_from_object(type("Config", (), config))
    elif when == "before":
        app.conf.update(config)
        assert app.conf.task_default_queue  # it is read now
    balog_celery.install(app, packages=["a"])
    if when == "after":
        app.conf.update(config)
    return app


@WHEN
def test_settings_of_the_users_own_are_kept(app: Celery, when: str) -> None:
    """Celery settings that the user has set keep their values."""
    installed(app, when, worker_prefetch_multiplier=4, worker_send_task_events=False)
    assert app.conf.worker_prefetch_multiplier == 4
    assert app.conf.worker_send_task_events is False
    assert app.conf.broker_connection_retry_on_startup is True


@WHEN
def test_what_was_left_open_is_filled_in(app: Celery, when: str) -> None:
    """Prefetch and task events get this package's defaults if the user has not set them."""
    installed(app, when, task_default_queue="own")
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_send_task_events is True
    assert app.conf.task_default_queue == "own"


def _router(name: str, *_args: Any, **_kwargs: Any) -> dict[str, str] | None:
    return {"queue": "sums"} if name == "own.add" else None


ROUTES = {"dict": {"own.add": {"queue": "sums"}}, "list": ([("own.*", {"queue": "sums"})],), "callable": _router}
ROUTES |= {"list of a dict": [{"own.add": {"queue": "sums"}}], "list of both": [_router, {"other": {"queue": "o"}}]}


@pytest.mark.parametrize("when", ["before", "object"])
@pytest.mark.parametrize("form", ROUTES)
def test_routes_of_the_users_own_are_kept(app: Celery, form: str, when: str) -> None:
    """The user's routes, in each form that Celery accepts, come first; others go to the consumer's queue."""
    installed(app, when, task_routes=ROUTES[form])
    consumer = _consumer("own.consumers")
    app.balog._routes.add(consumer, app.Task())

    def queue_of(name: str) -> str:
        return str(app.amqp.router.route({}, name)["queue"].name)

    assert queue_of("own.add") == "sums"
    assert queue_of("nobody.knows") == "celery"
    assert queue_of(consumer.task_name) == ("sums" if form == "list" else "special")


def test_routes_that_are_set_after_all_else_leave_consumers_theirs(app: Celery) -> None:
    """Routes that are set late keep the consumers' queues, even after the app has routed a task."""
    balog_celery.install(app)
    consumer = _consumer("own.consumers")
    app.balog.hub.add_consumer(consumer)
    assert app.amqp.router.route({}, consumer.task_name)["queue"].name == "celery"
    app.conf.task_routes = {"own.add": {"queue": "sums"}}
    app.loader.import_default_modules()
    queues = [app.amqp.router.route({}, name)["queue"].name for name in ("own.add", consumer.task_name)]
    assert queues == ["sums", "special"]


def _consumer(module: str) -> Any:
    from balog_celery.consumers import Consumer

    return Consumer(lambda event: None, "t", name="f", module=module, options={"queue": "special"})


def test_installing_twice_is_an_error(app: Celery) -> None:
    """Installing twice is an error that says to name all packages in one call."""
    balog_celery.install(app, packages=["a"])
    with pytest.raises(ConfigurationError, match=r"installed in <Celery own.*name all packages in one call"):
        balog_celery.install(app, packages=["b"])


def test_two_apps_do_not_meet(app: Celery) -> None:
    """Two apps in one process have separate settings, hubs and steps."""
    other = Celery("other", broker="memory://", set_as_current=False)
    assert balog_celery.install(app, packages=["a"]) is app
    balog_celery.install(other, packages=["b"])
    assert app.balog.settings.packages == ("a",)
    assert other.balog.settings.packages == ("b",)
    assert app.balog.hub is not other.balog.hub
    other.close()
