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
from balog_celery.operations.checks.run import check
from balog_celery.wiring.app_wiring import Integration
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

Run = Callable[..., Result]


@consumer_config("events", "metrics", "<1.0", rate_limit="10/s", max_retries=5, autoretry_for=(OSError,))
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


def does_something(command: click.Command) -> bool:
    """Whether it does something without a subcommand."""
    return not isinstance(command, click.Group) or command.invoke_without_command


def commands(group: click.Group) -> list[tuple[str, ...]]:
    return [path for path, _ in all_commands(group)]


@pytest.mark.parametrize("command", sorted(commands(balog)), ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, command: tuple[str, ...]) -> None:
    """Each command has help with an example of that command."""
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
    """Each command that prints results takes ``--json``; commands that run something do not."""
    without = {" ".join(path) for path in commands(balog) if "--json" not in run(*path, "--help").output}
    assert without == {"dead", "engine", "outbox", "up", "web"}


def test_consumers_are_told_as_json(run: Run) -> None:
    """`balog consumers --json` has what each consumer matches and the queue of its tasks."""
    found = {row["task"]: row for row in json.loads(run("consumers", "--json").stdout)}
    assert found[f"{__name__}.first"] == {
        "task": f"{__name__}.first",
        "topic": "events",
        "cls_types": ["metrics"],
        "version": "<1.0",
        "queue": "celery",
        "dispatch": "publish",  # this broker has no event loop
        "once": False,
        "options": {"rate_limit": "10/s", "max_retries": 5, "autoretry_for": ["builtins.OSError"]},
    }
    assert found[f"{__name__}.second"]["cls_types"] == ["log2", "metrics"]


def test_explain_says_who_gets_an_event_and_why_others_do_not(run: Run) -> None:
    """`balog explain` prints a line for each consumer, also for one document over several lines."""
    document = json.dumps(json.loads(event_text(schema="2.0")), indent=2)
    result = run("explain", "-", text=document)
    assert result.exit_code == 0
    assert [line.split(None, 2) for line in result.stdout.splitlines()[1:]] == [
        ["decoder", "auto:", "balog"],
        ["gets", "it", f"{__name__}.second  of topic others"],
        ["not", f"{__name__}.first", "version 2.0 is not <1.0"],
    ]


def test_explain_of_a_message_without_an_event_is_no_failure(run: Run) -> None:
    """`balog explain` succeeds for a message without an event, such as S3's test."""
    test_event = '{"Service": "Amazon S3", "Event": "s3:TestEvent"}'
    result = run("explain", "-", text=test_event)
    assert (result.exit_code, result.stdout) == (0, "line 1 holds no event\n")
    found = json.loads(run("explain", "-", "--json", text=test_event).stdout)
    assert found == [{"line": 1, "decoder": "auto", "events": 0}]


def test_explain_is_about_a_topic_if_one_is_given(run: Run) -> None:
    """`balog explain --topic` is about that topic, and each reason has a code in JSON."""
    (found,) = json.loads(run("explain", "-", "--topic", "events", "--json", text=event_text()).stdout)
    assert found["consumers"] == [f"{__name__}.first"]
    assert found["others"] == {f"{__name__}.second": [{"code": "topic", "text": "it listens to others"}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [(event_text(cls_type="nope"), "no consumer gets it"), ("{}", "line 2 cannot be decoded (auto): ")],
)
def test_explain_fails_for_what_nobody_gets(run: Run, text: str, said: str) -> None:
    """`balog explain` exits with 1 if no consumer gets an event, so that a script can tell."""
    result = run("explain", "-", text=event_text() + "\n" + text)
    assert result.exit_code == 1
    assert said in result.stdout
    assert result.stderr in (
        "1 with consumers, 1 without, 0 that cannot be decoded\n",
        "1 with consumers, 0 without, 1 that cannot be decoded\n",
    )


@pytest.mark.parametrize(
    ("body", "decoder"),
    [
        (event_text(), "balog"),
        ('{"specversion": "1.0", "id": "1", "source": "shop", "type": "ordered"}', "cloudevents"),
        (
            '{"version": "0", "id": "1", "detail-type": "ordered", "source": "shop", "account": "1", '
            '"time": "2026-01-01T00:00:00Z", "region": "r", "resources": [], "detail": {}}',
            "eventbridge",
        ),
    ],
)
def test_explain_shows_the_decoder_in_a_line(run: Run, body: str, decoder: str) -> None:
    """`balog explain` shows the decoder, with the format that `auto` recognized."""
    assert f"\n  decoder  auto: {decoder}\n" in run("explain", "-", text=body).stdout


def test_explain_shows_a_decoder_that_is_set(run: Run, app: Celery) -> None:
    """`balog explain` shows a configured decoder by its name, also if it cannot read the body."""
    app.conf.balog_decoders = {"events": "s3"}
    assert "line 1 cannot be decoded (s3): " in run("explain", "-", "--topic", "events", text=event_text()).stdout


def test_an_empty_file_has_nothing_to_explain(run: Run) -> None:
    """`balog explain` of an empty file is an error."""
    result = run("explain", "-", text="\n")
    assert result.exit_code == 1
    assert "holds no body" in result.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\n\n b \n", [(1, "a"), (3, "b")]),
        ('\ufeff{\n"a": 1}\n', [(1, '{\n"a": 1}')]),
        ('{"a": 1}\n{"b": 2}', [(1, '{"a": 1}'), (2, '{"b": 2}')]),
        ('\n{\n "a": 1\n}\n', [(2, '{\n "a": 1\n}')]),
        ('{"a": 1}\r\n{"b": 2}\r\n', [(1, '{"a": 1}'), (2, '{"b": 2}')]),
        *((f'"a{mark}b"\n"c"', [(1, f'"a{mark}b"'), (2, '"c"')]) for mark in "\x85\u2028\u2029"),
        ("", []),
    ],
)
def test_a_file_holds_one_document_or_one_a_line(text: str, found: list[tuple[int, str]]) -> None:
    """A file holds one document, or one on each line, reported by the number of its first line."""
    assert bodies(io.StringIO(text)) == found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "-"], "name the --topic (events, others)"),
        (["replay", "-"], "name the --topic (events, others)"),
        (["replay", "-", "--consumer", "gone"], "there is no consumer gone"),
        (["replay", "-", "--consumer", "first", "--all-consumers"], "exclude each other"),
        (["replay", "events"], "events is a topic, which workers read"),
        (["replay", "-", "--since", "yesterday"], "'yesterday' is no time"),
        (["dead", "list", "--version", "one"], "bad version condition 'one'"),
        (["dead", "replay", "--rate", "0"], "--rate"),
        (["dead", "replay", "--rate", "nan"], "nan is not a finite number"),
        (["replay", "-", "--rate", "inf"], "inf is not a finite number"),
        (["topics", "--create", "--terraform"], "--create and --terraform exclude each other"),
        (["topics", "--terraform", "--cloudformation"], "--terraform and --cloudformation exclude each other"),
        (["topics", "--json", "--terraform"], "--terraform prints JSON of its own"),
        (["topics", "--cloudformation", "--json"], "--cloudformation prints JSON of its own"),
        (["topics", "--interval", "3"], "--interval goes with --watch"),
        (["schema", "--folder", "x", "--check", "."], "--folder and --check exclude each other"),
        (["dead", "list", "--group-by", "error", "--limit", "3"], "--group-by counts all letters"),
        (["up", "--topic", "events"], "--topic goes with --send"),
        (["up", "--attribute", "a=b"], "--attribute goes with --send"),
        (["up", "--raw"], "--raw goes with --send"),
        (["outbox", "--store", "a:b", "failed"], "--store is before failed, where it has no effect"),
        (["outbox", "drop"], "give either the ids of rows"),
        (["outbox", "retry", "1", "--all"], "give either the ids of rows"),
        (["dead", "list", "--cls-type", "a*b"], "bad cls_type 'a*b'"),
        (["tail", "nothing"], "no consumer listens to nothing: the known ones are events, others"),
    ],
)
def test_a_wrong_command_line_is_told(run: Run, arguments: list[str], said: str) -> None:
    """A wrong command line exits with 2 before anything is done."""
    result = run(*arguments, text=event_text())
    assert result.exit_code == 2
    assert said in result.stderr


def _empty_options() -> Iterator[tuple[str, ...]]:
    """Every option with a text, of every command that is no group."""
    for path, command in all_commands(balog):
        for option in [] if isinstance(command, click.Group) else command.params:
            if isinstance(option, click.Option) and not (option.is_flag or option.hidden):
                yield (*path, option.opts[-1])


@pytest.mark.parametrize("arguments", [*_empty_options()], ids=" ".join)
def test_no_option_is_empty(run: Run, arguments: tuple[str, ...]) -> None:
    """It is a variable that a script has not set, and the default is not what was meant."""
    required = {"send": ["-"], "explain": ["-"], "replay": ["-"], "show": ["LG1"], "tail": ["events"]}
    result = run(*arguments, "", *required.get(arguments[-2], []), text=event_text())
    assert result.exit_code == 2
    assert f"{arguments[-1]}" in result.stderr


def test_a_prefix_that_consumers_ask_for_is_no_mistake(run: Run, same_name: ObservedQueue) -> None:
    """`dead list --cls-type` takes it as they do, and selects what they would."""
    result = run("dead", "list", "--cls-type", "metr*", "--json")
    assert result.exit_code == 0
    assert "no consumer asks" not in result.stderr
    assert len(json.loads(result.stdout)) == 4
    assert "no consumer asks for cls_type lag*" in run("dead", "list", "--cls-type", "lag*").stderr


def test_a_file_that_does_not_exist_is_told(run: Run, app: Celery) -> None:
    """A name that is no file may be one that is mistyped."""
    app.balog.connect = lambda topic: ObservedQueue(topic, exists=False)
    result = run("replay", "../nonexist", "--topic", "events")
    assert result.exit_code == 1
    assert "there is no file ../nonexist, and no queue of that name" in result.stderr


def test_a_dry_run_of_a_file_says_what_would_go_where(run: Run, tmp_path: Path) -> None:
    """A dry run of a file shows where events would go; events that the consumer does not match set the exit code."""
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


def test_a_file_with_a_line_that_cannot_be_decoded_is_not_begun(run: Run) -> None:
    """A file with a line that cannot be decoded is not sent, and the error has the line."""
    result = run("replay", "-", "--consumer", "first", text=event_text() + "\n{}")
    assert result.exit_code == 1
    assert "line 2 of <stdin> cannot be decoded by the decoder of events: it is of no kind" in result.stderr
    assert "replayed 0" in result.stdout


@pytest.mark.parametrize("command", [["explain"], ["send", "--topic", "events"], ["replay", "--topic", "events"]])
@pytest.mark.parametrize("text", ["[" * 200_000 + "\n]\n", '{"a":' * 200_000 + "\n}\n"], ids=["arrays", "objects"])
def test_a_file_that_is_nested_without_end_is_told(run: Run, command: list[str], text: str) -> None:
    """A file with endlessly nested arrays is reported in one line, like any other that is not a record."""
    result = run(command[0], "-", *command[1:], text=text)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "line 1 " in result.output
    assert max(map(len, result.output.splitlines())) < 400


ARN = "arn:aws:sqs:eu-west-1:1:dlq"
ODD_POLICIES = [
    "{",
    "5",
    "[]",
    "null",
    '"x"',
    "[" * 200_000,
    json.dumps({"maxReceiveCount": 5}),
    json.dumps({"deadLetterTargetArn": 5, "maxReceiveCount": 5}),
    json.dumps({"deadLetterTargetArn": "", "maxReceiveCount": 5}),
    json.dumps({"deadLetterTargetArn": ARN}),
    json.dumps({"deadLetterTargetArn": ARN, "maxReceiveCount": "x"}),
    json.dumps({"deadLetterTargetArn": ARN, "maxReceiveCount": float("inf")}),
    json.dumps({"deadLetterTargetArn": ARN, "maxReceiveCount": [5]}),
]


@pytest.mark.parametrize("policy", ODD_POLICIES, ids=range(len(ODD_POLICIES)))
def test_a_redrive_policy_that_cannot_be_read_is_told(
    run: Run, app: Celery, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """A redrive policy that cannot be read is one finding; the other checks still run."""
    queue = ObservedQueue("events")
    queue.configure(RedrivePolicy=policy)
    monkeypatch.setattr(Integration, "connect", lambda self, topic: queue)
    told = run("topics")
    assert told.exit_code == 0, told.output
    assert "its RedrivePolicy cannot be read: " in told.stdout
    finding = next(one for one in check(app) if one.about.endswith("redrive policy"))
    assert finding.level == "WARN"
    assert finding.text.startswith("its RedrivePolicy cannot be read: ")
    assert len(finding.text) < 300


ACCOUNTS = [f"https://sqs.eu-west-1.amazonaws.com/{account}/same" for account in ("111111111111", "222222222222")]


def _failure_of(topic: str) -> dict[str, str]:
    """The attributes of a dead letter of *topic*; none if SQS has moved it."""
    return {"reason": "default_event_handler", "topic": topic} if topic else {}


@pytest.fixture
def same_name(app: Celery, monkeypatch: pytest.MonkeyPatch) -> ObservedQueue:
    """Consumers on two topics with the same name, and the dead-letter queue of both."""
    app.conf.balog_dead_letter = ACCOUNTS[0].replace("same", "{topic}-dead-letter")
    dead, queue = ObservedQueue("same-dead-letter"), ObservedQueue("same")
    for number, topic in enumerate([*ACCOUNTS, "same", ACCOUNTS[0].replace("1" * 12, "3" * 12), ""]):
        dead.put(event_text(topic or "silent"), name=f"m{number}", attributes=_failure_of(topic))
    monkeypatch.setattr(Integration, "topics", lambda self: {url: [] for url in ACCOUNTS})
    monkeypatch.setattr(Integration, "connect", lambda self, topic: dead if "dead-letter" in topic else queue)
    return dead


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_dead_letters_are_dropped_only_after_a_yes(run: Run, same_name: ObservedQueue, answer: str, code: int) -> None:
    """`dead drop` prints what it will delete by consumer and reason, and deletes only after a confirmation."""
    result = run("dead", "drop", text=answer)
    assert result.exit_code == code
    assert "  3 dead letters of no consumer: default_event_handler\n" in result.stderr
    assert "  1 dead letter of no consumer: moved by SQS\nDelete 4 dead letters?" in result.stderr
    assert same_name.deleted == (["m0", "m1", "m2", "m4"] if code == 0 else [])


def test_ctrl_c_at_the_question_is_told_by_the_exit_code(
    run: Run, same_name: ObservedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the confirmation exits with 130 and deletes nothing."""

    def interrupted(*_: Any, **__: Any) -> bool:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None  # as click does

    monkeypatch.setattr(click, "confirm", interrupted)
    assert run("dead", "drop").exit_code == 130
    assert same_name.deleted == []


@pytest.mark.parametrize(
    ("arguments", "deleted"),
    [
        (["--topic", ACCOUNTS[0]], ["m0"]),
        (["--topic", ACCOUNTS[1]], ["m1"]),
        ([], ["m0", "m1", "m2", "m4"]),
    ],
)
def test_only_the_letters_of_that_topic_are_dropped(
    run: Run, same_name: ObservedQueue, arguments: list[str], deleted: list[str]
) -> None:
    """`dead drop --topic` keeps letters of another topic with the same name, and those that may be of either."""
    result = run("dead", "drop", "--yes", *arguments)
    assert result.exit_code == 0, result.output
    assert same_name.deleted == deleted


def test_letters_that_may_be_of_several_topics_are_left(run: Run, same_name: ObservedQueue) -> None:
    """Letters that may belong to several topics are left with the reason, and the others are replayed."""
    result = run("dead", "replay", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["replayed"] == {"topic same": 2}
    assert [reason.partition(":")[0].partition(" (")[0] for reason in found["left"]] == [
        "several topics are called same",
        "it does not name its topic",
    ]
    assert same_name.deleted == ["m0", "m1"]


@pytest.mark.parametrize("topic", ["same", ACCOUNTS[0].replace("1" * 12, "3" * 12)])
@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["replay"], ["drop", "--yes"]], ids=lambda one: one[0])
def test_a_topic_that_is_not_known_exactly_is_refused(
    run: Run, same_name: ObservedQueue, command: list[str], topic: str
) -> None:
    """An ambiguous or unknown topic is refused with suggestions, before anything is done."""
    result = run("dead", *command, "--topic", topic)
    assert result.exit_code == 2
    assert all(url in result.stderr for url in ACCOUNTS)
    assert same_name.deleted == []


def test_check_stops_at_settings_that_are_wrong(run: Run, app: Celery) -> None:
    """`balog check` stops at wrong settings, without showing a secret."""
    app.conf.balog_regoin = "x"
    app.conf.balog_once_url = ["redis://:hunter2@host"]
    result = run("check")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAIL  settings: ")
    assert "did you mean balog_region?" in result.stdout
    assert "hunter2" not in result.output


def test_an_app_without_the_package_is_told(run: Run, app: Celery) -> None:
    """A command of an app without the package fails with advice."""
    del app.balog
    result = run("consumers")
    assert result.exit_code == 1
    assert "call balog_celery.install(app, packages=[...])" in result.stderr


def test_the_readme_lists_every_command() -> None:
    """The README lists exactly the commands that exist."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    section = readme.partition("## Operate")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    plain = [" ".join(word for word in command.split() if word.islower()) for command in listed]
    assert sorted(plain) == sorted(" ".join(path) for path, command in all_commands(balog) if does_something(command))


def sections(page: str) -> dict[str, str]:
    """Return the text of the pages on commands about each command."""
    return dict(re.findall(r"^## `([a-z ]+)`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))


def test_the_pages_on_commands_have_each_with_its_examples_and_options() -> None:
    """The pages on commands have exactly the commands, with their options and the examples of ``--help``."""
    pages = sorted((Path(__file__).parents[3] / "docs").glob("commands-*.md"))
    page = "\n".join(page.read_text() for page in pages)
    found = {" ".join(path): command for path, command in all_commands(balog) if does_something(command)}
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
    """Ctrl-C exits with 130, as in a shell."""

    def interrupted(app: Celery) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("balog_celery.cli.check.checks", interrupted)
    assert run("check").exit_code == 130


def test_tail_needs_a_broker_that_carries_events(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`balog tail` refuses a broker that carries no task events, such as SQS."""
    direct = memory.Transport.implements.extend(exchange_type=frozenset({"direct"}))
    monkeypatch.setattr(memory.Transport, "implements", direct)
    result = run("tail", "events")
    assert result.exit_code == 1
    assert "the broker carries no events of Celery's" in result.stderr


def test_send_refuses_a_queue_that_does_not_exist(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`balog send` refuses a missing queue, also with the local SQS, which creates the app's topics only."""
    queues: dict[str, ObservedQueue] = {}

    def connect(self: Integration, topic: str) -> ObservedQueue:
        return queues.setdefault(topic, ObservedQueue(topic, exists=False))

    monkeypatch.setattr(Integration, "connect", connect)
    for is_local in (False, True):
        monkeypatch.setattr(Integration, "local", is_local)
        result = run("send", "-", "--topic", "evnts", text=event_text())
        assert result.exit_code == 1
        assert "there is no queue 'evnts': create it, or correct --topic" in result.stderr
        assert not queues["evnts"].exists()
    result = run("send", "-", "--topic", "events", text=event_text())
    assert (result.exit_code, queues["events"].exists()) == (0, True)
    assert result.stdout == "sent 1 message to events\n"


@pytest.mark.parametrize("rate", ["nan", "inf", "-inf", "0"])
def test_a_rate_is_a_number(run: Run, rate: str) -> None:
    """A rate that is not a finite number is refused before a queue is read."""
    for command in (["replay", "-"], ["dead", "replay"]):
        result = run(*command, "--rate", rate, text=event_text())
        assert result.exit_code == 2
        assert "--rate" in result.stderr
