"""``balog schema``: the contract of an app, and what in a new one breaks consumers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from celery import Celery
from click.testing import CliRunner, Result
from pydantic import BaseModel, Field

from balog_celery import ConfigurationError, Payload, install, produces
from balog_celery.cli import balog
from balog_celery.consumers import consumer_config

DATA = Path(__file__).parents[2] / "data" / "asyncapi"
#: The official schema: github.com/asyncapi/spec-json-schemas, schemas/3.0.0-without-$id.json, under Apache-2.0.
ASYNCAPI = jsonschema.Draft7Validator(json.loads((DATA / "3.0.0.json").read_text()))

Run = Callable[..., Result]


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]


class OrderPlaced(Payload):
    cls_type: Literal["contract-placed"] = "contract-placed"
    order: int
    amount: Decimal
    paid: Annotated[Card | Cash, Field(discriminator="kind")]
    size: tuple[int, str] = (1, "m")
    note: str | None = None


class OrderEnded(Payload):
    cls_type: Literal["contract:cancelled", "contract:done"]
    order: int


@produces("contract-{env}.fifo", OrderPlaced, OrderEnded)
def place(order: int) -> int:
    """Places an order.

    Not in the contract.
    """
    return order


@consumer_config("contract-{env}.fifo", "contract-placed", ">=1.0")
def book(event: Any) -> None:
    """Books an order."""


@consumer_config("notes", ["contract:*", "unheard"])
def note(event: Any) -> None: ...


@consumer_config("https://sqs.eu-west-1.amazonaws.com/1/all")
def keep(event: Any) -> None: ...


class Operator:
    def get_topic(self, consumer: Any) -> str:
        return str(consumer.topic.format(env="prod"))

    def process_event(self, consumer: Any, event: Any) -> Any: ...


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the consumers and the producer of this module."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    install(app, packages=[__name__], operator=Operator())
    yield app
    app.close()


@pytest.fixture
def run(app: Celery) -> Run:
    """Return a function that runs ``balog schema``."""

    def run(*arguments: object) -> Result:
        obj = SimpleNamespace(app=app, no_color=False)
        return CliRunner().invoke(balog, ["schema", *map(str, arguments)], obj=obj)

    return run


def contract(run: Run) -> Any:
    result = run()
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_document_is_valid(run: Run) -> None:
    """The document is valid by AsyncAPI 3.0's official schema, and all its references resolve."""
    document = contract(run)
    assert [error.message for error in ASYNCAPI.iter_errors(document)] == []

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(document))
    assert found
    for reference in found:
        target = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    # The official schema is one that can say no.
    assert not ASYNCAPI.is_valid({**document, "operations": {"x": {"action": "publish"}}})


def test_topics_are_channels_and_functions_are_operations(run: Run) -> None:
    """Topics, as the operator resolves them, are channels with messages, and functions are operations."""
    document = contract(run)
    channel = document["channels"]["contract-prod.fifo"]
    assert channel["address"] == "contract-prod.fifo"
    assert channel["bindings"]["sqs"]["queue"]["fifoQueue"] is True
    assert {*channel["messages"]} == {"contract-placed", "contract_3acancelled", "contract_3adone"}
    operations = {operation["title"]: operation for operation in document["operations"].values()}
    here = "#/channels/contract-prod.fifo"
    sends, books = operations[f"{__name__}.place"], operations[f"{__name__}.book"]
    assert (sends["action"], sends["summary"], sends["channel"]) == ("send", "Places an order.", {"$ref": here})
    assert len(sends["messages"]) == 3
    assert books["action"] == "receive"
    assert books["messages"] == [{"$ref": f"{here}/messages/contract-placed"}]
    assert books["x-schema-version"] == ">=1.0"
    messages = document["components"]["messages"]
    noted = [reference["$ref"].rpartition("/")[2] for reference in operations[f"{__name__}.note"]["messages"]]
    assert [messages[name]["name"] for name in noted] == ["contract:cancelled", "contract:done", "unheard"]
    assert [one["name"] for one in messages.values() if one["name"] == "*"]


def resolve(document: Any, cls_type: str) -> Any:
    """The JSON Schema of a message, with the document's components at hand."""
    found = next(one for one in document["components"]["messages"].values() if one["name"] == cls_type)
    return {**found["payload"], "components": document["components"]}


def test_a_message_is_the_record_that_is_sent(run: Run) -> None:
    """A logger's record is valid by the message schema of its type, and by no other."""
    from balog_celery.producer.logger import make_record

    payload = OrderPlaced(order=1, amount=Decimal("1.10"), paid=Cash(kind="cash"))
    record = json.loads(make_record("shop.placed", payload))
    document = contract(run)
    names = [one["name"] for one in document["components"]["messages"].values()]
    fitting = [name for name in names if jsonschema.Draft7Validator(resolve(document, name)).is_valid(record)]
    assert sorted(fitting) == ["*", "contract-placed"]


def test_a_folder_gets_a_file_for_each_payload(run: Run, tmp_path: Path) -> None:
    """A folder gets the AsyncAPI document, and a JSON Schema for each payload that sent payloads meet."""
    result = run("--folder", tmp_path / "contract")
    assert result.exit_code == 0, result.output
    schema = json.loads((tmp_path / "contract" / "contract-placed.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"order": 1, "amount": "1.10", "paid": {"kind": "cash"}, "more": 2}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"order": "x", "amount": "1.10", "paid": {"kind": "cash"}}, schema)
    assert json.loads((tmp_path / "contract" / "asyncapi.json").read_text()) == contract(run)
    assert run("--check", tmp_path / "contract").exit_code == 0


def test_a_breaking_change_is_named_and_exits_with_one(run: Run, tmp_path: Path) -> None:
    """Each breaking change is named on a line, and the command exits with 1."""
    old = contract(run)
    fields = old["components"]["schemas"]["OrderPlaced"]["properties"]
    fields["removed"] = {"type": "string"}
    fields["order"] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    del fields["amount"]
    old["components"]["schemas"]["OrderPlaced"]["required"].remove("amount")
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = run("--check", tmp_path / "old.json")
    assert result.exit_code == 1
    assert sorted(result.stdout.splitlines()) == [
        "contract-placed: payload.amount: required field added",
        "contract-placed: payload.order: type narrowed: string is no longer accepted",
        "contract-placed: payload.removed: field removed",
    ]
    assert json.loads(run("--check", tmp_path / "old.json", "--json").stdout) == result.stdout.splitlines()


def test_an_added_optional_field_breaks_nothing(run: Run, tmp_path: Path) -> None:
    """An added optional field, a wider type or another title breaks nothing."""
    old = contract(run)
    del old["components"]["schemas"]["OrderPlaced"]["properties"]["note"]
    old["components"]["schemas"]["OrderPlaced"]["title"] = "Order"
    old["components"]["schemas"]["OrderEnded"]["properties"]["order"] = {"type": "integer", "minimum": 1}
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = run("--check", tmp_path / "old.json")
    assert (result.exit_code, result.stdout) == (0, "no change breaks consumers\n")


def test_an_event_that_is_not_sent_any_longer_is_named(run: Run, tmp_path: Path) -> None:
    """An event that is no longer sent, at all or to a topic, is named."""
    old = contract(run)
    messages = old["components"]["messages"]
    messages["gone"] = messages["contract-placed"]
    channel = {"address": "audit", "messages": {"contract-placed": {"$ref": "#/components/messages/contract-placed"}}}
    old["channels"]["audit"] = channel
    sent = [{"$ref": "#/channels/audit/messages/contract-placed"}]
    old["operations"]["x"] = {"action": "send", "channel": {"$ref": "#/channels/audit"}, "messages": sent}
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = run("--check", tmp_path / "old.json")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["gone: message removed", "contract-placed: no longer sent to audit"]


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"asyncapi": "2.6.0"}', '{"asyncapi": "3.0.0", "channels": 1}'])
def test_what_is_no_contract_is_refused_in_one_line(run: Run, tmp_path: Path, text: str) -> None:
    """An old contract that cannot be read is refused, with the exit code of a wrong command line."""
    (tmp_path / "old.json").write_text(text)
    result = run("--check", tmp_path / "old.json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"Error: --check {tmp_path / 'old.json'}: ")


@pytest.mark.parametrize(("topic", "models"), [("", (OrderPlaced,)), ("t", ()), ("t", (Payload,)), ("t", (int,))])
def test_a_wrong_declaration_is_refused(topic: str, models: Any) -> None:
    """A wrong declaration is refused at decoration."""
    with pytest.raises(ConfigurationError, match=r"bad topic|names no model|is no payload with a type of its own"):
        produces(topic, *models)
