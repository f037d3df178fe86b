"""``balog schema``: writes the app's contract, and compares it with an older one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from celery import Celery

from ..consumers.consumer import Consumer
from ..consumers.operator import resolve_topic
from ..contracts.asyncapi import Operation, asyncapi, key, payload_schema
from ..contracts.compatibility import breaking_changes
from ..contracts.producers import producers
from ..errors import BalogError, ConfigurationError
from ..events.payloads import registered_payloads
from ..text import count_of, printable
from . import output
from .group import balog, command, json_option

#: The AsyncAPI document in a folder.
FILE = "asyncapi.json"


@command(balog)
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help=f"Write {FILE} and a file for each payload here."
)
@click.option(
    "--check", "old", type=click.Path(exists=True, path_type=Path), help="Compare with this file, or folder, instead."
)
@click.option("--title", help="The application's name; default: the Celery app's.")
@click.option("--api-version", default="1.0.0", show_default=True, help="The contract's version.")
@json_option
def schema(
    app: Celery, folder: Path | None, old: Path | None, title: str | None, api_version: str, as_json: bool
) -> None:
    """Write the contract: which events go where.

    An AsyncAPI 3.0 document with topics as channels, types of payload as messages, and producers and consumers as
    operations; with --folder also the JSON Schema of each payload. With --check it names each change since an older
    contract that breaks consumers, a line each, and exits with 1 if there is one.

    \b
    Example:
        celery -A proj balog schema --folder contract
        celery -A proj balog schema --check contract
    """
    if old is not None and folder is not None:
        raise click.UsageError("--folder and --check exclude each other")
    payloads = registered_payloads()
    document = asyncapi(title or app.main or "app", api_version, payloads, _operations(app))
    if old is not None:
        try:
            changes = breaking_changes(_read(old / FILE if old.is_dir() else old), document)
        except ConfigurationError as error:
            raise click.UsageError(f"--check {printable(old)}: {error}") from error
        _report(changes, as_json)
    elif folder is None:
        output.document(document)
    else:
        schemas = {f"{key(cls_type)}.schema.json": payload_schema(model) for cls_type, model in payloads.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in {FILE: document, **schemas}.items():
                (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise BalogError(f"--folder {printable(folder)}: {error.strerror}: name a folder to write to") from error
        done = f"wrote {FILE} and {count_of(len(payloads), 'schema')} of payloads to {folder}"
        if as_json:
            output.document({"folder": str(folder), "payloads": [*payloads]}, done=done)
        else:
            output.echo(done, done=done)


def _operations(app: Celery) -> Iterator[Operation]:
    for topic, consumers in app.balog.topics().items():
        for consumer in consumers:
            summary = (inspect.getdoc(consumer.func) or "").partition("\n")[0]
            cls_types = tuple(sorted(consumer.cls_types or ()))
            yield Operation("receive", consumer.task_name, topic, cls_types, summary, str(consumer.condition or ""))
    for producer in producers():
        # The operator resolves topics of consumers, so it is asked as if one read what this producer sends.
        reader = Consumer(lambda event: None, producer.topic, producer.cls_types, name=producer.name)
        yield Operation(
            "send", producer.name, resolve_topic(app.balog.operator, reader), producer.cls_types, producer.summary
        )


def _report(changes: list[str], as_json: bool) -> None:
    if as_json:
        output.document(changes)
    else:
        output.echo("\n".join(changes) or "no change breaks consumers")
    if changes:
        raise SystemExit(1)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"it cannot be read as JSON: {error}") from None
