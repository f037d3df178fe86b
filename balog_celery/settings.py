"""Every setting of the package, its type, default and meaning, in one place.

In a Celery configuration each has the prefix ``balog_``: ``balog_region = "eu-west-1"``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from .errors import ConfigurationError
from .text import printable

PREFIX = "balog_"


class Settings(BaseModel):
    """The ``balog_*`` settings of one Celery app. Times are in seconds, sizes in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    packages: tuple[str, ...] = Field((), description="Packages and modules to scan for consumers, by dotted name.")
    ignore: tuple[Any, ...] = Field(
        (), description="What the scan leaves out: dotted names, names relative to a package ('.tests'), or callables."
    )
    operator: Any = Field(
        None,
        description="The ConsumerOperator: an object, a class made without arguments, or the dotted name of either "
        "('proj.events:operator'). Default: topics as they are written, functions called with the event alone.",
    )
    default_event_handler: Any = Field(
        None,
        description="A function, or its dotted name, called in the engine with each event that no consumer wants. "
        "Default: such an event is counted and deleted.",
    )

    region: str | None = Field(None, description="The AWS region of the queues. Default: boto3's own chain.")
    endpoint_url: str | None = Field(
        None, description="Where SQS is. Default: AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, else AWS."
    )
    aws_access_key_id: SecretStr | None = Field(None, description="Default: boto3's own credential chain.")
    aws_secret_access_key: SecretStr | None = Field(None, description="Goes with aws_access_key_id.")
    aws_session_token: SecretStr | None = Field(None, description="Goes with aws_access_key_id, if it is temporary.")

    event_broker_url: SecretStr | None = Field(
        None,
        description="The broker whose queues are listened to, instead of SQS, as a URL that kombu takes: "
        "'amqp://user:password@host:5672/vhost', 'redis://host:6379/0'. Dead letters are kept there as well. "
        "It may be Celery's own broker. Default: none, but SQS.",
    )
    event_broker_transport_options: dict[str, Any] = Field(
        {},
        repr=False,
        description="kombu's options for that broker's transport, as in Celery's broker_transport_options.",
    )

    engine: bool = Field(True, description="Whether a worker runs an engine beside it. The same as --no-engine.")
    dispatch: Literal["hand-off", "publish"] | None = Field(
        None,
        description="How the engine beside a worker has tasks executed: 'hand-off' gives them to that worker over a "
        "socket and deletes a message when its tasks have finished; 'publish' puts them on the broker and deletes it "
        "when the broker has them. Consumers with a queue that the worker does not serve are published in any case. "
        "Default: hand-off; publish with the embedded SQS, which forgets what it holds when it stops.",
    )
    fifo_on_failure: Literal["hold", "continue"] = Field(
        "hold",
        description="What the other events of its group do while an event of a FIFO topic is to be retried: 'hold' has "
        "them wait until it has succeeded or is a dead letter; with 'continue' its retry is a task on the broker, and "
        "the group goes on.",
    )
    wait_time: int = Field(20, ge=0, le=20, description="How long one poll waits for a first message, in seconds.")
    pollers: int = Field(
        1,
        ge=1,
        le=100,
        description="How many receives of each topic an engine may have under way at a time, and as many deletes. One "
        "is good for 650 events a second if SQS is 10 ms away. The worker's room for tasks grows with it, by ten for "
        "each. FIFO topics and a broker's queues have one.",
    )
    visibility_timeout: int | None = Field(
        None,
        ge=2,
        le=43_200,
        description="How long a received message stays invisible unless the engine extends it, in seconds. "
        "Default: the queue's own setting; 60 on Redis. RabbitMQ knows no such time.",
    )
    drain: float = Field(
        20.0, ge=0, description="How long a stopping engine waits for what it has in flight, in seconds."
    )
    dead_letter: str | None = Field(
        "{topic}-dead",
        description="The name of a topic's dead-letter queue; {topic} stands for the topic's name. None: none.",
    )
    decoders: dict[str, Any] = Field(
        {},
        description="What reads the bodies of a topic, by the topic's name: 'auto', 'balog', 'cloudevents', "
        "'eventbridge', 's3', 'sns', the dotted name of a decoder ('proj.events:decode'), or a decoder such as "
        "JSONMapping(...). Default: 'auto', which knows all of those kinds by their shape.",
    )
    payload_bucket: tuple[str, ...] = Field(
        (),
        description="The S3 bucket from which bodies are read that messages point to, as the Amazon SQS Extended "
        "Client Library writes them, and to which `balog send` and dead letters put those beyond 1 MiB; of several, "
        "the first. A pointer to any other bucket is a dead letter.",
    )
    max_body_bytes: int = Field(
        4_194_304,
        gt=0,
        description="The largest body that is decoded, in bytes; a larger one is a dead letter. SQS's own limit is "
        "1 MiB; beyond it are bodies in S3.",
    )
    max_depth: int = Field(
        100,
        gt=0,
        description="How deep a body may be nested; a deeper one is a dead letter. JSON's parser ends at 200.",
    )
    high_water: int = Field(
        10_000,
        gt=0,
        description="With more tasks than this waiting in a queue on the broker, nothing is received for it.",
    )
    once_url: SecretStr | None = Field(
        None,
        description="The Redis that remembers which events were finished, for consumers with once=: "
        "'redis://host:6379/1'. Default: the result backend, if it is Redis.",
    )
    status_dir: str | None = Field(
        None,
        description="The folder in which an engine keeps its status for `balog health` and for its worker. "
        "Default: one of this user's in the folder for temporary files.",
    )
    publish_timeout: float = Field(
        10.0, gt=0, description="How long publishing may take before the broker counts as down, in seconds."
    )

    telemetry: bool | None = Field(
        None,
        description="Whether traces and metrics go to OpenTelemetry. Default: where a provider of either has been set "
        "in the process.",
    )

    local: bool | None = Field(
        None,
        description="Whether to run the embedded broker and SQS, for development. Default: `celery -A balog_celery` "
        "does where neither a broker nor an endpoint is configured; an app of your own does not.",
    )
    state_dir: str = Field(".balog", description="The folder of the embedded broker and SQS.")

    @field_validator("packages", "ignore", "payload_bucket", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) or callable(value) else value

    @field_validator("dead_letter")
    @classmethod
    def _names_the_topic(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                value.format(topic="t")
            except (KeyError, IndexError, ValueError):
                raise ValueError("only {topic} can stand in it") from None
        return value

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any]) -> Settings:
        """Read the settings out of a Celery configuration.

        :param conf: ``app.conf``, or any mapping; only its ``balog_`` keys are looked at.
        :raises ConfigurationError: a key is unknown (the nearest one is named) or a value is of a wrong type.
        """
        given = {key[len(PREFIX) :]: conf[key] for key in conf if isinstance(key, str) and key.startswith(PREFIX)}
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_explain(detail, given) for detail in error.errors())) from None


#: The settings that may hold a secret, with their prefix.
SECRETS = frozenset(
    PREFIX + name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
)


def _explain(detail: Any, given: Mapping[str, Any]) -> str:
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "the settings are listed in balog_celery/settings.py"
        return f"unknown setting {PREFIX}{printable(name)}: {hint}"
    field = Settings.model_fields[name]
    # A value of a secret setting is never shown, not even a wrong one.
    shown = "" if PREFIX + name in SECRETS else f" {printable(repr(given[name]))}"
    return f"bad value{shown} for setting {PREFIX}{name}: {detail['msg']} ({field.description})"


def queue_name(topic: str) -> str:
    """The name of the queue that *topic*, a name or a URL, is."""
    is_url = topic.startswith(("https://", "http://"))
    return topic.rstrip("/").rpartition("/")[2] if is_url else topic


def dead_letter_name(template: str | None, topic: str) -> str | None:
    """The name of the dead-letter queue of *topic*, or None if *template* is None. ``.fifo`` stays at the end."""
    if template is None:
        return None
    plain = topic.removesuffix(".fifo")
    return template.format(topic=plain) + topic[len(plain) :]
