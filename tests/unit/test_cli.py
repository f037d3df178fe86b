"""The commands of ``celery -A app balog``, as far as they need no server."""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner, Result
from kombu.transport import memory

from balog_celery import install
from balog_celery.cli import balog
from balog_celery.cli.events import bodies
from balog_celery.consumers import consumer_config
from fakes import event_text

Run = Callable[..., Result]


@consumer_config("events", "metrics", "<1.0", rate_limit="10/s")
def first(event: Any) -> None: ...


@consumer_config("others", ["log2", "metrics"])
def second(event: Any) -> None: ...


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the consumers of this module."""
    app = Celery("cli", broker="memory://", set_as_current=False)
    app.conf.balog_region = "eu-west-1"
    install(app, packages=[__name__])
    yield app
    app.close()


@pytest.fixture
def run(app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command as ``celery -A app balog`` does, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(balog, arguments, obj=SimpleNamespace(app=app, no_color=False), input=text)

    return run


def all_commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, *path, name)


def commands(group: click.Group) -> list[tuple[str, ...]]:
    return [path for path, _ in all_commands(group)]


@pytest.mark.parametrize("command", sorted(commands(balog)), ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, command: tuple[str, ...]) -> None:
    """An example is a command line of that command."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    example = lines[lines.index("  Example:") + 1]
    assert example.startswith("      celery -A ")
    assert f" balog {' '.join(command)}" in example
    # In the list of commands the first sentence is shown, whole.
    first_line = lines[2].strip()
    assert first_line.endswith(".")
    assert len(first_line) < 60


def test_every_answer_can_be_json(run: Run) -> None:
    """Commands that run something have none."""
    without = {" ".join(path) for path in commands(balog) if "--json" not in run(*path, "--help").output}
    assert without == {"dead", "engine", "up"}


def test_consumers_are_told_as_json(run: Run) -> None:
    """What each wants, and where its tasks go."""
    found = {row["task"]: row for row in json.loads(run("consumers", "--json").stdout)}
    assert found[f"{__name__}.first"] == {
        "task": f"{__name__}.first",
        "topic": "events",
        "cls_types": ["metrics"],
        "version": "<1.0",
        "queue": "celery",
        "dispatch": "publish",  # this broker has no event loop
        "once": False,
        "options": {"rate_limit": "'10/s'"},
    }
    assert found[f"{__name__}.second"]["cls_types"] == ["log2", "metrics"]


def test_explain_says_who_gets_an_event_and_why_others_do_not(run: Run) -> None:
    """A line for each consumer; a file may be one document over several lines."""
    document = json.dumps(json.loads(event_text(schema="2.0")), indent=2)
    result = run("explain", "-", text=document)
    assert result.exit_code == 0
    assert [line.split(None, 2) for line in result.stdout.splitlines()[1:]] == [
        ["gets", "it", f"{__name__}.second"],
        ["not", f"{__name__}.first", "version 2.0 is not <1.0"],
    ]


def test_explain_is_about_a_topic_if_one_is_given(run: Run) -> None:
    """As JSON each reason has a code."""
    (found,) = json.loads(run("explain", "-", "--topic", "events", "--json", text=event_text()).stdout)
    assert found["consumers"] == [f"{__name__}.first"]
    assert found["others"] == {f"{__name__}.second": [{"code": "topic", "text": "it listens to others"}]}


@pytest.mark.parametrize(
    ("text", "said"), [(event_text(cls_type="nope"), "nobody gets it"), ("{}", "line 2 cannot be decoded: ")]
)
def test_explain_fails_for_what_nobody_gets(run: Run, text: str, said: str) -> None:
    """So that a script can tell."""
    result = run("explain", "-", text=event_text() + "\n" + text)
    assert result.exit_code == 1
    assert said in result.stdout


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\n\n b \n", [(1, "a"), (3, "b")]),
        ('{"a": 1}\n{"b": 2}', [(1, '{"a": 1}'), (2, '{"b": 2}')]),
        ('\n{\n "a": 1\n}\n', [(2, '{\n "a": 1\n}')]),
        ("", []),
    ],
)
def test_a_file_holds_one_document_or_one_a_line(text: str, found: list[tuple[int, str]]) -> None:
    """Each is told by the number of its first line."""
    assert bodies(io.StringIO(text)) == found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "-"], "say which --topic (events, others)"),
        (["replay", "-"], "say which --topic (events, others)"),
        (["replay", "-", "--consumer", "gone"], "there is no consumer gone"),
        (["replay", "-", "--consumer", "first", "--all-consumers"], "exclude each other"),
        (["replay", "events"], "events is a topic, which workers read"),
        (["replay", "-", "--since", "yesterday"], "'yesterday' is no time"),
        (["dead", "list", "--version", "one"], "bad version condition 'one'"),
        (["dead", "replay", "--rate", "0"], "--rate"),
        (["tail", "nothing"], "no consumer listens to nothing: say one of events, others"),
    ],
)
def test_a_wrong_command_line_is_told(run: Run, arguments: list[str], said: str) -> None:
    """With exit code 2, before anything is done."""
    result = run(*arguments, text=event_text())
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_dry_run_of_a_file_says_what_would_go_where(run: Run, tmp_path: Path) -> None:
    """What the consumer does not want is left, and the exit code says so."""
    (tmp_path / "events.jsonl").write_text(
        "\n".join([event_text("a"), event_text("b", "log2"), event_text("c", schema="2.0"), event_text("d")])
    )
    result = run("replay", "events.jsonl", "--consumer", "first", "--dry-run", "--json", "--id", "a", "--id", "c")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "dry_run": True,
        "replayed": {f"{__name__}.first": 1},
        "left": {f"{__name__}.first does not want it: version 2.0 is not <1.0": 1},
        "not_meant": 2,
        "again": 0,
        "stopped": "",
    }


def test_a_file_with_a_line_that_is_no_record_is_not_begun(run: Run) -> None:
    """It is told which line."""
    result = run("replay", "-", "--consumer", "first", text=event_text() + "\n{}")
    assert result.exit_code == 1
    assert "line 2 of <stdin> is no record" in result.stderr
    assert "replayed 0" in result.stdout


def test_dead_letters_are_dropped_only_after_a_yes(run: Run) -> None:
    """Anything else leaves them."""
    result = run("dead", "drop", text="n\n")
    assert result.exit_code == 1
    assert "Delete ALL dead letters, of every topic?" in result.stderr


def test_check_stops_at_settings_that_are_wrong(run: Run, app: Celery) -> None:
    """Without a secret's value."""
    app.conf.balog_regoin = "x"
    app.conf.balog_once_url = ["redis://:hunter2@host"]
    result = run("check")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAIL  settings: ")
    assert "did you mean balog_region?" in result.stdout
    assert "hunter2" not in result.output


def test_an_app_without_the_package_is_told(run: Run, app: Celery) -> None:
    """With what to do."""
    del app.balog
    result = run("consumers")
    assert result.exit_code == 1
    assert "call balog_celery.install(app, packages=[...])" in result.stderr


def test_the_readme_lists_every_command() -> None:
    """No more, no fewer."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.partition("## Operate")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    plain = [" ".join(word for word in command.split() if word.islower()) for command in listed]
    groups = {" ".join(path[:-1]) for path in commands(balog) if len(path) > 1}
    assert sorted(plain) == sorted({" ".join(path) for path in commands(balog)} - groups)


def sections(page: str) -> dict[str, str]:
    """What the page on commands says of each, by its name."""
    return dict(re.findall(r"^### `([a-z ]+)`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))


def test_the_page_on_commands_has_each_with_its_examples_and_options() -> None:
    """No more, no fewer, and the examples are those of ``--help``."""
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    found = {" ".join(path): command for path, command in all_commands(balog) if not isinstance(command, click.Group)}
    told = sections(page)
    assert sorted(told) == sorted(found)
    for name, command in found.items():
        examples = [line.strip() for line in told[name].splitlines() if line.startswith("    ")]
        _, _, text = inspect.cleandoc(command.help or "").partition("Example:\n")
        assert examples == [line.strip() for line in text.splitlines()], name
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        for option in options:
            assert re.search(rf"`{option.opts[-1]}[ `]|\s{option.opts[-1]} ", page), (name, option.opts)


def test_ctrl_c_is_told_by_the_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as of a command that a shell runs."""

    def interrupted(app: Celery) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("balog_celery.cli.check.checks", interrupted)
    assert run("check").exit_code == 130


def test_tail_needs_a_broker_that_carries_events(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another, such as SQS, would show nothing, for ever."""
    direct = memory.Transport.implements.extend(exchange_type=frozenset({"direct"}))
    monkeypatch.setattr(memory.Transport, "implements", direct)
    result = run("tail", "events")
    assert result.exit_code == 1
    assert "the broker carries no events of Celery's" in result.stderr
