"""Annotations of what a function does not get: found when consumers are loaded, not at the first event."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from balog_celery.errors import ConfigurationError
from balog_celery.testing import ConsumerHarness
from sample_events import event_text

#: What the modules with the functions begin with.
BEGIN = """
from __future__ import annotations

import dataclasses, functools
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import *
import typing_extensions
from pydantic import BaseModel, validate_call
from balog_celery import FacilityRecord as FR, Payload
from balog_celery.consumers import consumer_config
from balog_celery.decoders import At

if TYPE_CHECKING:
    import balog_celery
    import balog_celery.records as own_records
    from balog_celery import FacilityRecord, MetricsPayload as Metrics
    from balog_celery.decoders import Message
    from nowhere import Model

seen = []

def note(event, message=None):
    seen.append((type(event).__name__, type(message).__name__))

class Order(BaseModel):
    order: int

class Whole(BaseModel):
    payload: dict

@dataclasses.dataclass
class Line:
    order: int

class Event(TypedDict):
    payload: dict[str, Any]

class Later(typing_extensions.TypedDict, total=False):
    payload: dict[str, Any]

class HasItems(Protocol):
    def items(self) -> Any: ...

class Own(dict): ...

T = TypeVar("T")
Alias = dict[str, Any]
New = NewType("New", dict)
Alias2 = typing_extensions.TypeAliasType("Alias2", Dict[str, Any])
"""

_numbers = itertools.count()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Runs an event through the functions of a module with some code, and returns that."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = list[str]()

    def feed(code: str, **settings: Any) -> ModuleType:
        names.append(f"fitting_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(f"{BEGIN}\n{code}\n")
        ConsumerHarness(names[-1], **settings).feed(event_text("e"), throw=False)
        return sys.modules[names[-1]]

    yield feed
    for name in names:
        sys.modules.pop(name, None)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The package's own warnings; what other libraries log once is not about annotations."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("balog_celery")]


def code(hint: str, options: str = "", name: str = "f") -> str:
    return f'@consumer_config("t"{options})\ndef {name}(event: {hint}):\n    note(event)'


DICTS = [
    "dict", "dict[str, Any]", "Dict[str, object]", "Mapping[str, Any]", "MutableMapping", "Iterable[str]", "object",
    "Any", "Event", "Later", "HasItems", "Own", "T", "Alias", "New", "Alias2", "Optional[Event]", "Order | dict",
    "Annotated[dict, 1]", "'Event'", "Literal['x']", "Optional['Event']", "Callable[[], Any] | Mapping[str, Any]",
]  # fmt: skip
OTHERS = ["Order", "Line", "int", "str", "'Order'", "Optional[Order]", "Annotated[Order, 1]", "Order | Line", "list",
          "list[dict]", "Sequence[Event]"]  # fmt: skip


@pytest.mark.parametrize("hint", DICTS)
def test_what_may_stand_for_a_dict_is_accepted_in_silence(
    run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, hint: str
) -> None:
    """Of one event and, in a list, of a batch."""
    batch = code(f"list[{hint}]", ", batch=2", "g")
    assert [kind for kind, _ in run(f"{code(hint)}\n{batch}").seen] == ["dict", "list"]
    assert warned(caplog) == []


@pytest.mark.parametrize("hint", OTHERS)
def test_what_no_dict_can_be_is_a_warning(
    run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, hint: str
) -> None:
    """It names the function, the parameter, the annotation and the way out."""
    module = run(f"{code(hint)}\n{code(f'list[{hint}]', ', batch=2', 'g')}")
    assert [kind for kind, _ in module.seen] == ["dict", "list"]
    one, other = (record.getMessage() for record in caplog.records)
    assert one.startswith(f"{module.__name__}.f gets a dict, and annotates something else (event: ")
    assert other.startswith(f"{module.__name__}.g gets a list of dicts, and annotates something else (event: ")
    assert hint.strip("'") in one
    assert one.endswith("derive the model from balog_celery.Payload, or annotate FacilityRecord or dict")


@pytest.mark.parametrize("hint", ["Order", "dict", "Iterable[Line]"])
def test_a_batch_annotates_a_list(run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, hint: str) -> None:
    """Of dicts or of models."""
    run(code(hint, ", batch=2"))
    assert "gets a list of dicts, and annotates something else" in caplog.text


@pytest.mark.parametrize("hint", ["Model", "'Model'", "list[Model]", "Optional['Model']", "No"])
def test_a_name_that_only_a_type_checker_knows_is_a_warning(
    run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, hint: str
) -> None:
    """It may be a model, of which the function would not get one."""
    module = run(code(hint))
    (record,) = caplog.records
    assert f"{module.__name__}.f gets a dict, as its annotation (event: " in record.getMessage()
    assert "not below `if TYPE_CHECKING:`" in record.getMessage()


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        ("f(event: FacilityRecord): note(event)", ("FacilityRecord", "NoneType")),
        ("f(event: 'FacilityRecord | None'): note(event)", ("FacilityRecord", "NoneType")),
        ("f(event: Metrics): note(event)", ("MetricsPayload", "NoneType")),
        ("f(event: balog_celery.FacilityRecord): note(event)", ("FacilityRecord", "NoneType")),
        ("f(event: own_records.FacilityRecord): note(event)", ("FacilityRecord", "NoneType")),
        ("f(event, message: Message): note(event, message)", ("dict", "Message")),
        ("f(event: FacilityRecord, message: Message): note(event, message)", ("FacilityRecord", "Message")),
    ],
)
def test_this_packages_own_models_are_found_below_type_checking(
    run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, function: str, seen: tuple[str, str]
) -> None:
    """Where ruff's TCH rules have moved their import; by any name."""
    assert run(f'@consumer_config("t")\ndef {function}').seen == [seen]
    assert warned(caplog) == []


def test_another_packages_name_is_not_taken_for_one_of_this_package(run: Callable[..., ModuleType]) -> None:
    """Only what the module imports from here is found."""
    function = '@consumer_config("t")\ndef f(event: MetricsPayload): note(event)'
    assert run(f"if TYPE_CHECKING:\n    from nowhere import MetricsPayload\n{function}").seen == [("dict", "NoneType")]


@pytest.mark.parametrize("options", ["", ", batch=2, each=True", ", chunk=2"])
@pytest.mark.parametrize("hint", ["list[FR]", "Sequence['FR']", "Optional[List[FR]]"])
def test_a_list_of_models_without_a_batch_is_an_error(run: Callable[..., ModuleType], hint: str, options: str) -> None:
    """Where the function is decorated: it gets one event at a time."""
    function = f'@consumer_config("t"{options})\nasync def f(events: {hint}): ...'
    with pytest.raises(ConfigurationError, match=r"asks for a list of FacilityRecord: .* or set batch="):
        run(function)


@pytest.mark.parametrize(
    "function",
    [
        # A decorator may make something else of a dict.
        '@consumer_config("t")\n@validate_call\ndef f(event: Whole): note(event)',
        "def listed(g):\n    return functools.wraps(g)(lambda event: g([event]))\n\n"
        '@consumer_config("t")\n@listed\ndef f(events: list[FR]): note(events)',
        "def parsed(g):\n    return functools.wraps(g)(lambda event: g(5))\n\n"
        '@consumer_config("t")\n@parsed\ndef f(event: Order): note(event)',
        # The engine passes what their paths find.
        '@consumer_config("t", arguments={"lines": At("payload.values")})\ndef f(lines: list[Payload]): note(lines)',
        '@consumer_config("t", arguments={"kind": At("payload.cls_type")})\ndef f(kind: str): note(kind)',
        # Others than the first have their defaults.
        '@consumer_config("t")\ndef f(event, line: Line = None, *, order: Model = None): note(event)',
        '@consumer_config("t", bind=True)\ndef f(self: Order, event: dict): note(event)',
        'class A:\n    @consumer_config("t")\n    def f(self, event: Event): note(event)',
        '@consumer_config("t")\ndef f(*events: dict): note(events)',
    ],
)
def test_other_ways_to_get_events_are_left_alone(
    run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture, function: str
) -> None:
    """A decorator, paths, and parameters other than the event's."""
    assert len(run(function).seen) == 1
    assert warned(caplog) == []


class PassesSettings:
    """An operator that passes its settings first."""

    def get_topic(self, consumer: Any) -> str:
        return str(consumer.topic)

    def process_event(self, consumer: Any, event: Any) -> Any:
        return consumer.func({}, event)


def test_an_operator_may_pass_what_it_likes(run: Callable[..., ModuleType], caplog: pytest.LogCaptureFixture) -> None:
    """The first parameter is not the event's then."""
    function = '@consumer_config("t")\ndef f(settings: Order, event: FacilityRecord): note(event)'
    assert run(function, operator=PassesSettings()).seen == [("FacilityRecord", "NoneType")]
    assert warned(caplog) == []
