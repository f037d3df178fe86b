"""Loggers that write records, and the formatter that makes records of plain log lines."""

from __future__ import annotations

import io
import logging
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

import pytest
import structlog

from balog_celery import ConfigurationError, RecordError, SchemaFormatter, configure, get_logger
from balog_celery.events.records import as_event, decode, encode
from balog_celery.producer.state import stats

METRICS = {"cls_type": "metrics", "values": [{"name": "n", "value": 1.5}]}


class Lines(logging.Handler):
    """Keeps what it is given: the records, and their text in the format of SchemaFormatter."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(SchemaFormatter())
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines, each of which must be a record."""
        return [as_event(decode(line)) for line in self.lines]


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Start and leave each test with the default configuration."""
    configure()
    yield
    configure()


@pytest.fixture
def out() -> Iterator[Lines]:
    """A handler on the root logger, for all levels."""
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger as Python starts with it; no fixture, as pytest adds handlers of its own before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        configure()
        root.handlers = handlers
        root.setLevel(level)


def test_a_call_is_one_line(out: Lines) -> None:
    """A call logs one line through the standard library's logger of its name and level, from the caller's place."""
    get_logger("a.b").warning("done", payload=METRICS)
    assert out.events[0]["header"]["channel"] == "a.b.done"
    assert out.events[0]["payload"] == METRICS
    (record,) = out.records
    assert (record.name, record.levelname) == ("a.b", "WARNING")
    assert (record.pathname, record.funcName) == (__file__, "test_a_call_is_one_line")
    assert record.getMessage() == out.lines[0]
    assert "\n" not in out.lines[0]


@pytest.mark.parametrize(
    ("method", "level", "severity"),
    [
        ("debug", logging.DEBUG, "debug"),
        ("info", logging.INFO, "info"),
        ("warn", logging.WARNING, "warning"),
        ("warning", logging.WARNING, "warning"),
        ("error", logging.ERROR, "error"),
        ("exception", logging.ERROR, "error"),
        ("critical", logging.CRITICAL, "critical"),
        ("fatal", logging.CRITICAL, "critical"),
    ],
)
def test_methods(out: Lines, method: str, level: int, severity: str) -> None:
    """Each method has its level, and gives it to a log payload without a severity."""
    getattr(get_logger("a"), method)("e", payload={"cls_type": "log", "message": "m"})
    assert out.records[0].levelno == level
    assert out.events[0]["payload"] == {"cls_type": "log", "message": "m", "severity": severity}


@pytest.mark.parametrize(
    ("level", "severity"), [(10, "debug"), (5, "debug"), (20, "info"), (25, "info"), (30, "warning"), (60, "critical")]
)
def test_log_takes_a_level(out: Lines, level: int, severity: str) -> None:
    """``log`` takes a numeric level, including one between the named ones."""
    logging.getLogger().setLevel(1)
    get_logger("a").log(level, "e", payload={"cls_type": "log", "message": "m"})
    assert out.records[0].levelno == level
    assert out.events[0]["payload"]["severity"] == severity


@pytest.mark.parametrize(
    ("args", "channel"),
    [
        (("done %s in %d s", "it", 5), "a.done it in 5 s"),
        (("done %(what)s", {"what": "it"}), "a.done it"),
        (("100%",), "a.100%"),
        (("100% %s", 1), "a.100% %s (1,)"),
        (("done", 1), "a.done (1,)"),
    ],
)
def test_arguments_are_put_into_the_event(out: Lines, args: tuple[Any, ...], channel: str) -> None:
    """%-arguments are put into the event as by the standard library, or kept beside it if they do not fit."""
    get_logger("a").info(*args, payload=METRICS)
    assert out.events[0]["header"]["channel"] == channel
    assert out.events[0]["payload"] == METRICS


def test_bound_values_go_into_each_record(out: Lines) -> None:
    """Bound values go into each record, and the original logger does not change."""
    logger = get_logger("a")
    bound = logger.bind(payload=METRICS, channel="x", context={"fqdn": "h"}, composition=True, user=1)
    bound.info()
    bound.unbind("channel").info("e", composition=False)
    bound.new(payload={"cls_type": "null"}).info("e")
    bound.try_unbind("channel", "nothing").bind(payload={"cls_type": "test-x"}).info("f")
    bound.info("again")
    channels = [event["header"]["channel"] for event in out.events]
    assert channels == ["x", "a.e", "a.e", "a.f", "x"]
    assert out.events[0]["header"]["context"] == {"fqdn": "h", "user": 1}
    assert [event["header"].get("composition") for event in out.events] == [True, False, None, True, True]
    assert [event["payload"]["cls_type"] for event in out.events] == ["metrics", "metrics", "null", "test-x", "metrics"]
    assert not any("invalid record" in line for line in out.lines)


def test_a_raw_event_is_written_as_it_is(out: Lines) -> None:
    """A raw event, bound or not, is written unchanged."""
    get_logger("a").info(raw_event={"foo": "é"})
    get_logger("a").bind(raw_event=[]).info("e")
    assert out.lines == ['{"foo": "\\u00e9"}', "[]"]


def test_the_name_is_that_of_the_caller_s_module(out: Lines) -> None:
    """The default name is that of the module that calls get_logger."""
    module: dict[str, Any] = {"__name__": "some.module", "get_logger": get_logger}
    exec("logger = get_logger()", module)
    module["logger"].info("e", payload=METRICS)
    get_logger().info("e", payload=METRICS)
    assert [event["header"]["channel"] for event in out.events] == ["some.module.e", f"{__name__}.e"]


def test_the_empty_name_is_the_root_logger(out: Lines) -> None:
    """The empty name is the root logger, as in the standard library."""
    get_logger("").info("e", payload=METRICS)
    assert out.events[0]["header"]["channel"] == "root.e"


def test_a_traceback_is_in_the_record_and_only_there(out: Lines) -> None:
    """A traceback is in the record, and the standard library adds none to the line."""
    logger = get_logger("a")
    try:
        raise ValueError("the cause")
    except ValueError as error:
        logger.exception("e", payload={"cls_type": "log", "message": "m"})
        logger.error("e", payload=METRICS, exc_info=error)
        logger.exception("e")
    first, second, third = out.events
    assert first["payload"]["exc_text"].endswith("ValueError: the cause")
    assert second["header"]["exc_text"].endswith("ValueError: the cause")
    assert third["payload"]["exc_text"].endswith("ValueError: the cause")
    assert all("\n" not in line for line in out.lines)


class Broken:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("broken")

    __str__ = __repr__


CIRCULAR: dict[str, Any] = {"cls_type": "test-circular"}
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "there is no payload"),
        ({"payload": None}, "there is no payload"),
        ({"payload": "text"}, "payload: Input should be"),
        ({"payload": {"cls_type": "metrics"}}, "payload: values: Field required"),
        ({"payload": {**METRICS, "values": [{"name": "n", "value": math.nan}]}}, "a number must be finite"),
        ({"payload": {"cls_type": "log", "message": "m", "severity": "loud"}}, "severity is none of"),
        ({"payload": {"cls_type": "test-x", "a": math.inf}}, "cannot be written as JSON"),
        ({"payload": Broken()}, "payload: Input should be"),
        ({"payload": CIRCULAR}, "or holds itself"),
        ({"payload": {"cls_type": "test-x", "a": "x" * 100_000, "b": math.nan}}, "cannot be written as JSON"),
        ({"payload": METRICS, "channel": Broken()}, "RuntimeError: broken"),
        ({"payload": METRICS, "context": {"fqdn": 5}}, "context: fqdn: Input should be a valid string"),
    ],
)
def test_what_cannot_be_a_record_is_logged_as_such(out: Lines, fields: dict[str, Any], reason: str) -> None:
    """Arguments that do not make a record are logged in a bounded log record at the same level, and counted."""
    before = stats()["invalid"]
    get_logger("a").info("done", **fields)
    (event,) = out.events
    assert event["payload"]["cls_type"] == "log"
    assert event["payload"]["severity"] == "error"
    assert event["payload"]["message"].startswith("invalid record: ")
    assert reason in event["payload"]["message"]
    assert "'event': 'done'" in event["payload"]["message"]
    assert event["header"]["channel"] == "a.done"
    assert out.records[0].levelno == logging.INFO
    assert len(out.lines[0]) < 10_000
    assert stats()["invalid"] == before + 1


@pytest.mark.parametrize("fields", [{}, {"payload": METRICS, "channel": Broken()}, {"raw_event": math.nan}])
def test_strict_loggers_raise(out: Lines, fields: dict[str, Any]) -> None:
    """A strict configuration raises, also in loggers that were made before."""
    logger = get_logger("a")
    configure(strict=True)
    before = stats()["invalid"]
    with pytest.raises(RecordError):
        logger.info("e", **fields)
    logger.info("e", payload=METRICS)
    assert len(out.events) == 1
    assert stats()["invalid"] == before


def test_a_disabled_level_does_nothing(out: Lines) -> None:
    """A call at a disabled level does not evaluate its arguments."""
    logging.getLogger("a").setLevel(logging.ERROR)
    try:
        configure(strict=True, processors=[lambda *_: pytest.fail("a processor ran")])
        logger = get_logger("a")
        logger.debug("e")
        logger.info("e %s", Broken(), payload=Broken())
        logger.log(logging.WARNING, "e")
    finally:
        logging.getLogger("a").setLevel(logging.NOTSET)
    logging.disable(logging.CRITICAL)
    try:
        logger.exception("e")
    finally:
        logging.disable(logging.NOTSET)
    assert not out.lines


def test_configured_values_are_in_each_record(out: Lines) -> None:
    """Configured values are in each record, also the formatter's.

    Bound values win, and a new configuration replaces them.
    """
    logger = get_logger("a")
    configure(context={"fqdn": "h", "application": "a"}, composition=False)
    logger.bind(context={"application": "b"}).info("e", payload=METRICS)
    logging.getLogger("plain").info("text")
    configure()
    logger.info("e", payload=METRICS)
    headers = [event["header"] for event in out.events]
    assert [header["context"] for header in headers] == [
        {"fqdn": "h", "application": "b"},
        {"fqdn": "h", "application": "a"},
        {},
    ]
    assert [header.get("composition") for header in headers] == [False, False, None]


def test_processors_of_the_application_run_first(out: Lines) -> None:
    """The application's processors run first, and may change, drop or extend the event dict."""

    def redact(logger: logging.Logger, name: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        assert (logger.name, name) == ("a", "info")
        if event_dict["event"] == "secret":
            raise structlog.DropEvent
        event_dict["event"] = event_dict["event"].upper()
        return event_dict

    configure(processors=[redact, structlog.processors.add_log_level, structlog.contextvars.merge_contextvars])
    logger = get_logger("a")
    with structlog.contextvars.bound_contextvars(request="r1"):
        logger.info("done", payload=METRICS)
    logger.info("secret", payload=METRICS)
    (event,) = out.events
    assert event["header"]["channel"] == "a.DONE"
    assert event["header"]["context"] == {"level": "info", "request": "r1"}


def test_a_processor_that_fails_does_not_fail_the_application(out: Lines) -> None:
    """The error of a failing processor is in the record, and does not raise in the application."""

    def fail(*_: Any) -> Any:
        raise KeyError("oops")

    configure(processors=[fail])
    get_logger("a").info("done", payload=METRICS)
    assert "KeyError: 'oops'" in out.events[0]["payload"]["message"]


def test_structlog_s_own_configuration_is_left_alone(out: Lines) -> None:
    """structlog's own configuration is neither used nor changed."""
    before = structlog.get_config()
    configure(context={"fqdn": "h"})
    get_logger("a").info("e", payload=METRICS)
    assert structlog.get_config() == before
    assert not structlog.is_configured()


@pytest.mark.parametrize(
    "arguments",
    [
        {"processors": [5]},
        {"context": {"fqdn": 5}},
        {"composition": "true"},
        {"stream": io.StringIO(), "level": "LOUD"},
        {"stream": io.StringIO(), "level": 1.5},
    ],
)
def test_a_bad_configuration_is_refused(arguments: dict[str, Any]) -> None:
    """A bad configuration is refused as a whole."""
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ConfigurationError):
        configure(**arguments)
    assert logging.getLogger().handlers == handlers


def test_without_handlers_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Without configuration and handlers all levels go to standard output."""
    logger, parent = get_logger("a.b"), logging.getLogger("a")
    with bare_root() as root:
        logger.info("info", payload=METRICS)
        logger.debug("debug", payload=METRICS)
        parent.setLevel(logging.ERROR)
        logger.warning("disabled", payload=METRICS)
        logger.error("error", payload=METRICS)
        parent.setLevel(logging.NOTSET)
        root.setLevel(logging.ERROR)
        logger.info("disabled", payload=METRICS)
        root.setLevel(logging.DEBUG)
        logger.debug("again", payload=METRICS)
    captured = capsys.readouterr()
    channels = [as_event(decode(line))["header"]["channel"] for line in captured.out.splitlines()]
    assert channels == ["a.b.info", "a.b.debug", "a.b.error", "a.b.again"]
    assert captured.err == ""


def test_a_handler_of_one_logger_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of a logger with a handler go there, by its levels, and not to standard output."""
    handler, parent = Lines(), logging.getLogger("a")
    parent.addHandler(handler)
    with bare_root():
        get_logger("a.b").info("done", payload=METRICS)
        get_logger("a.b").error("done", payload=METRICS)
    parent.removeHandler(handler)
    assert [record.levelname for record in handler.records] == ["ERROR"]
    assert capsys.readouterr().out == ""


def test_a_stream_gets_every_record_as_a_line() -> None:
    """A stream gets every record as a line from the given level, until the next configuration."""
    first, second = io.StringIO(), io.StringIO()
    with bare_root() as root:
        configure(stream=first)
        get_logger("a").info("done", payload=METRICS)
        get_logger("a").debug("done", payload=METRICS)
        logging.getLogger("plain").info("text")
        configure(stream=second, level="DEBUG")
        get_logger("a").debug("done", payload=METRICS)
        configure()
        assert root.handlers == []
    events = [as_event(decode(line)) for line in first.getvalue().splitlines()]
    assert [event["header"]["channel"] for event in events] == ["a.done", "plain"]
    assert len(second.getvalue().splitlines()) == 1


def test_a_program_needs_no_configuration() -> None:
    """The README's example runs in a process of its own without configuration, Celery or boto3."""
    code = (
        "import sys; from balog_celery import get_logger\n"
        "get_logger(__name__).info('done', payload={'cls_type': 'metrics', 'values': [{'name': 'n', 'value': 1}]})\n"
        "assert not {'celery', 'boto3', 'botocore', 'kombu'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert as_event(decode(line))["header"]["channel"] == "__main__.done"
    assert done.stderr == ""


# SchemaFormatter


def formatted(message: Any = "m", *args: Any, **attributes: Any) -> str:
    """Return the record that SchemaFormatter makes."""
    record = logging.LogRecord("a.b", logging.INFO, __file__, 1, message, args, None)
    vars(record).update(attributes)
    return SchemaFormatter().format(record)


def test_plain_records_become_log_records() -> None:
    """A plain log record becomes a ``log`` record with message, level, name and time."""
    event = as_event(decode(formatted("done %d\n", 5, created=1.5)))
    assert event["payload"] == {"cls_type": "log", "message": "done 5\n", "severity": "info"}
    assert event["header"]["channel"] == "a.b"
    assert event["header"]["timestamp"].timestamp() == 1.5


@pytest.mark.parametrize(
    ("levelname", "severity"),
    [("WARN", "warning"), ("FATAL", "critical"), ("DEBUG", "debug"), ("Level 25", "level 25"), ("NOTICE", "notice")],
)
def test_levels_become_severities(levelname: str, severity: str) -> None:
    """Levels become normalised severities; a level with another name keeps it, as in the original."""
    assert as_event(decode(formatted(levelname=levelname)))["payload"]["severity"] == severity


def test_tracebacks_and_stacks_become_exc_text() -> None:
    """Tracebacks and stacks become exc_text."""
    try:
        raise ValueError("the cause")
    except ValueError:
        exc_info = sys.exc_info()
    exc_text = as_event(decode(formatted(exc_info=exc_info)))["payload"]["exc_text"]
    assert exc_text.startswith("Traceback")
    assert exc_text.endswith("ValueError: the cause")
    both = as_event(decode(formatted(exc_info=exc_info, stack_info="Stack (most recent call last):")))
    assert both["payload"]["exc_text"] == f"{exc_text}\nStack (most recent call last):"
    assert "exc_text" not in as_event(decode(formatted(exc_info=(None, None, None))))["payload"]


@pytest.mark.parametrize(
    "text", ["404", "true", "null", "NaN", '"q"', "[1]", '{"a": 1}', "{}", "", "{", '{"header": {}, "payload": {}}']
)
def test_json_that_is_no_record_is_wrapped(text: str) -> None:
    """A JSON message that is not a record is wrapped as text."""
    assert as_event(decode(formatted(text)))["payload"]["message"] == text


def test_lines_of_get_logger_pass_untouched(out: Lines) -> None:
    """Lines of get_logger are not changed."""
    get_logger("a").info("done", payload=METRICS)
    assert SchemaFormatter().format(out.records[0]) == out.lines[0]
    get_logger("a").info(raw_event={"100%": 1})
    assert out.lines[1] == '{"100%": 1}'


@pytest.mark.parametrize("logged", [("%s", True), ("", False)], ids=["argument", "message"])
def test_a_text_from_outside_forges_no_event(out: Lines, logged: tuple[str, bool]) -> None:
    """A record that somebody sends, and that is logged, is the message of a log record for every handler."""
    get_logger("a").info("done", payload=METRICS)
    text = str(out.lines[0])
    template, has_argument = logged
    record = logging.makeLogRecord({"name": "web", "levelname": "INFO", "msg": template or text})
    record.args = (text,) if has_argument else ()
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)
    handler.setFormatter(SchemaFormatter())
    handler.handle(record)
    first, second = SchemaFormatter().format(record), SchemaFormatter().format(queue.get())
    assert first == second
    assert as_event(decode(first))["payload"]["message"] == text


def test_a_message_that_a_filter_changes_is_no_line_any_more(out: Lines) -> None:
    """What is noted on the record holds for the line alone."""
    get_logger("a").info("done", payload=METRICS)
    record = out.records[0]
    record.msg = str(record.msg).replace("a.done", "b.undone")
    assert as_event(decode(SchemaFormatter().format(record)))["payload"]["cls_type"] == "log"


def test_our_lines_survive_queues_and_pickling(out: Lines) -> None:
    """Lines of get_logger pass through a QueueHandler and pickling."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)
    logging.getLogger("a").addHandler(handler)
    try:
        get_logger("a").info("done", payload=METRICS)
    finally:
        logging.getLogger("a").removeHandler(handler)
    handed_on = pickle.loads(pickle.dumps(queue.get()))
    assert SchemaFormatter().format(handed_on) == out.lines[0]
    assert SchemaFormatter().format(pickle.loads(pickle.dumps(out.records[0]))) == out.lines[0]


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        ("%d", ("x",), "%d"),
        ("%s %s", ("x",), "%s %s"),
        ("%s", (Broken(),), "<Broken instance at "),
        (Broken(), (), "<Broken instance at "),
        (b"\xff", (), "\\xff"),
        ("\ud800", (), "\ufffd"),
        (None, (), "None"),
        (5, (), "5"),
        ({"a": 1}, (), "{'a': 1}"),
    ],
)
def test_every_message_becomes_a_record(message: Any, args: tuple[Any, ...], shown: str) -> None:
    """Every message becomes a record, also one that cannot be formatted."""
    assert shown in as_event(decode(formatted(message, *args)))["payload"]["message"]


def test_no_record_is_too_odd_to_be_formatted() -> None:
    """A LogRecord with odd attributes is formatted."""
    for attributes in [{"created": "x"}, {"levelname": None}, {"exc_info": (1, 2, 3)}, {"name": Broken()}]:
        assert decode(formatted(**attributes)).payload.cls_type == "log"


def test_it_can_be_made_by_dict_config() -> None:
    """dictConfig can make the formatter, with the ignored arguments of the standard library's."""
    formatter = SchemaFormatter("prefix %(message)s", "%Y", "%")
    line = formatter.format(logging.LogRecord("a", logging.INFO, "", 1, "m", (), None))
    assert encode(decode(line)) == line
