"""All settings of the package, with their types, defaults and meanings.

In a Celery configuration each has the prefix ``balog_``: ``balog_region = "eu-west-1"``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from .arguments import is_blank
from .errors import ConfigurationError
from .number_rule import NumbersChecked
from .text import plain_topic, printable, without_secrets
from .topic_settings import DeadLetter, Pollers, Positive, TopicSettings, Visibility, WaitTime

PREFIX = "balog_"


class Settings(NumbersChecked):
    """The ``balog_*`` settings of one Celery app. Times are in seconds, sizes in bytes. An empty text sets nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    packages: tuple[str, ...] = Field((), description="Packages and modules to scan for consumers, by dotted name.")
    ignore: tuple[Any, ...] = Field(
        (),
        description="Modules that the scan skips: dotted names, names relative to a package ('.tests'), or callables.",
    )
    operator: Any = Field(
        None,
        description="The ConsumerOperator: an object, a class that takes no arguments, or the dotted name of either "
        "('proj.events:operator'). Default: topics are used as written, functions are called with the event alone.",
    )
    default_event_handler: Any = Field(
        None,
        description="A function, or its dotted name, that the engine calls with each event that no consumer wants. "
        "Default: the engine counts and deletes such an event.",
    )

    routes: dict[str, Any] = Field(
        {},
        description="Existing Celery tasks that consume events, by topic: {'uploads': {'cls_type': "
        "'aws.s3.ObjectCreated:*', 'task': 'proj.tasks.resize'}}, or a list of these. Each takes the arguments of "
        "consumer_config, such as arguments={'key': At('payload.key')}.",
    )
    middleware: tuple[Any, ...] = Field(
        (),
        description="What is called around every consumer, the outermost first, as mw(call, consumer, event, message), "
        "plain or async: functions, objects, classes that take no arguments, or their dotted names.",
    )

    region: str | None = Field(None, description="The AWS region of the queues. Default: boto3's own chain.")
    endpoint_url: str | None = Field(
        None, description="The endpoint of SQS. Default: AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, else AWS."
    )
    s3_endpoint_url: str | None = Field(
        None, description="Where S3 is. Default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS."
    )
    aws_access_key_id: SecretStr | None = Field(None, description="Default: boto3's own credential chain.")
    aws_secret_access_key: SecretStr | None = Field(None, description="The secret of aws_access_key_id.")
    aws_session_token: SecretStr | None = Field(
        None, description="The session token of aws_access_key_id, if that is temporary."
    )

    event_broker_url: SecretStr | None = Field(
        None,
        description="A broker to receive events from instead of SQS, as a kombu URL: "
        "'amqp://user:password@host:5672/vhost', 'redis://host:6379/0'. Dead letters are kept there too. "
        "It may be Celery's own broker. Default: none; events come from SQS.",
    )
    event_broker_transport_options: dict[str, Any] = Field(
        {},
        repr=False,
        description="kombu's transport options for that broker, as in Celery's broker_transport_options.",
    )

    engine: bool = Field(
        True, description="Whether a worker runs an engine beside itself. False is the same as --no-engine."
    )
    dispatch: Literal["hand-off", "publish"] | None = Field(
        None,
        description="How the engine beside a worker dispatches tasks: 'hand-off' sends them to that worker over a "
        "socket, and deletes a message when its tasks have finished; 'publish' puts them on the broker, and deletes a "
        "message when the broker has them. Tasks for a queue that the worker does not serve are always published. "
        "Default: hand-off; publish with the local SQS, which loses its messages when it stops.",
    )
    fifo_on_failure: Literal["hold", "continue"] = Field(
        "hold",
        description="What happens to a message group of a FIFO topic when one of its events must be retried: 'hold' "
        "keeps the later events waiting until it has succeeded or is a dead letter; 'continue' publishes "
        "its retry on the broker, and goes on with the group.",
    )
    wait_time: WaitTime = Field(20, description="How long a receive waits for a first message, in seconds.")
    pollers: Pollers = Field(
        1,
        description="How many receives, and how many deletes, an engine makes at a time for each topic. One poller "
        "serves 650 events a second if SQS is 10 ms away. The worker's prefetch limit grows by ten for each poller. "
        "FIFO topics and a broker's queues have one.",
    )
    visibility_timeout: Visibility | None = Field(
        None,
        description="How long a received message stays invisible unless the engine extends it, in seconds; sent with "
        "each receive. Default: the queue's own setting, read every minute, or 30 if that is less "
        "than 2 or not known; 60 on Redis. RabbitMQ has no such time.",
    )
    drain: float = Field(
        20.0,
        ge=0,
        description="How long a stopping engine waits for the events in flight, in seconds. If its "
        "worker stops too, it waits until the worker has finished its tasks.",
    )
    dead_letter: DeadLetter = Field(
        "{topic}-dead",
        description="The name of a topic's dead-letter queue, which is in the topic's region and account, or its URL; "
        "{topic} stands for the topic's name. None: dead letters are only logged.",
    )
    decoders: dict[str, Any] = Field(
        {},
        description="The decoders of topics, by topic name: 'auto', 'balog', 'cloudevents', "
        "'eventbridge', 'json', 's3', 'sns', the dotted name of a decoder ('proj.events:decode'), or a decoder such as "
        "JSONMapping(...). Default: 'auto', which recognizes all formats but plain JSON by their shape.",
    )
    payload_bucket: tuple[str, ...] = Field(
        (),
        description="The S3 buckets for bodies that are larger than a message may be, in the format of the Amazon SQS "
        "Extended Client Library. Pointers into these buckets are followed; any other pointer is a dead letter. "
        "`balog send` and dead letters store bodies that the queue does not accept in the first one.",
    )
    payload_threshold: int = Field(
        1_048_576,
        gt=0,
        description="Messages larger than this go to the payload bucket even if the queue would accept them, in bytes.",
    )
    max_body_bytes: int = Field(
        4_194_304,
        gt=0,
        description="The largest body that is decoded, in bytes; a larger one is a dead letter. Bodies beyond SQS's "
        "own limit, 1 MiB, are in S3.",
    )
    max_depth: int = Field(
        100,
        gt=0,
        description="How deep a body may be nested; a deeper one is a dead letter. The JSON parser accepts 200.",
    )
    high_water: Positive = Field(
        10_000, description="Stop receiving for a queue of the broker while more tasks than this wait in it."
    )
    max_in_flight: Positive | None = Field(
        None,
        description="How many messages of each topic an engine holds at a time, including those whose tasks have not "
        "finished. Default: as many as it can keep invisible: 334 for each second of the visibility timeout.",
    )
    topics: dict[str, TopicSettings] = Field(
        {},
        description="Settings of single topics, each in place of the one above: {'orders': {'pollers': 4, "
        "'visibility_timeout': 120, 'wait_time': 5, 'dead_letter': 'x', 'high_water': 500, 'max_in_flight': 50}}. "
        "A topic is named as its consumers name it, or by its queue's name or URL.",
    )
    remember_pauses: bool = Field(
        False,
        description="Whether pauses by `celery control balog_pause` survive a restart of the worker with the same node "
        "name. They are kept in a file in balog_status_dir: set that to a folder that survives the restart, too.",
    )
    outbox: Any = Field(
        None,
        description="The outbox that `balog outbox` relays: a DjangoStore or an SQLAlchemyStore, or the dotted name of "
        "one ('proj.db:store'). With Django: 'balog_celery.outbox.django:store'. Default: none.",
    )
    outbox_relay: bool = Field(
        False, description="Whether each worker runs a relay of the outbox beside it, in a process of its own."
    )
    once_url: SecretStr | None = Field(
        None,
        description="The Redis that stores which events are finished, for consumers with once=: "
        "'redis://host:6379/1'. Default: the result backend, if it is Redis.",
    )
    status_dir: str | None = Field(
        None,
        description="The folder in which an engine writes its status for `balog health` and for its worker. Only this "
        "user may write to it. Default: a folder of this user in `XDG_RUNTIME_DIR`, or else below the one for "
        "temporary files.",
    )
    publish_timeout: float = Field(
        10.0, gt=0, description="How long publishing may take until the broker counts as down, in seconds."
    )

    ship_logs_to: str | None = Field(
        None,
        description="The topic to which worker and engine ship their log, at their log level, as records. "
        "Records logged while consuming that topic are left out. Default: none.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The port on which a worker, or an engine or relay without one, serves /metrics for Prometheus, "
        "/healthz and /readyz. Default: none.",
    )
    metrics_host: str = Field("127.0.0.1", description="The address of that port. Probes of Kubernetes need '0.0.0.0'.")
    web_mask: tuple[str, ...] = Field(
        ("password", "passwd", "secret", "token", "authorization", "api_key", "access_key", "credential", "cookie"),
        description="`balog web` hides the values of fields whose names contain one of these, in the bodies of dead "
        "letters that it shows.",
    )
    telemetry: bool | None = Field(
        None,
        description="Whether to send traces and metrics to OpenTelemetry. Default: if the process has set a provider "
        "of either.",
    )

    local: bool | None = Field(
        None,
        description="Whether to run the local broker and SQS, for development. Default: only `celery -A "
        "balog_celery` does, if neither a broker nor an endpoint is configured.",
    )
    state_dir: str = Field(".balog", description="The folder of the local broker and SQS.")

    @field_validator("packages", "ignore", "middleware", "payload_bucket", "web_mask", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) or callable(value) else value

    @field_validator("routes", "decoders", "topics", "endpoint_url", "s3_endpoint_url", "ship_logs_to")
    @classmethod
    def _without_secrets(cls, value: Any, info: ValidationInfo) -> Any:
        return plain_setting(str(info.field_name), value)

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any]) -> Settings:
        """Read the settings out of a Celery configuration.

        :param conf: ``app.conf``, or any mapping; only its ``balog_`` keys are read.
        :raises ConfigurationError: a key is unknown (the message names a similar one) or a value has a wrong type.
        """
        found = {key[len(PREFIX) :]: conf[key] for key in conf if isinstance(key, str) and key.startswith(PREFIX)}
        given = {name: value for name, value in found.items() if not is_unset(name, value)}
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_error_text(detail, given) for detail in error.errors())) from None


#: The settings that may hold a secret, with their prefix.
SECRETS = frozenset(
    PREFIX + name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
)


def is_unset(name: str, value: Any) -> bool:
    """Return whether *value* of the setting *name* (which has no prefix) is empty, which counts as not set."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return is_blank(text) and name in Settings.model_fields and name != "dead_letter"  # which may mean none: an error


def plain_setting(name: str, value: Any) -> Any:
    """Return *value* of the setting *name* (which has no prefix) without the secrets of a topic's or endpoint's URL.

    A value without any is returned itself.
    """
    plain: Any = value
    if isinstance(value, str):
        plain = plain_topic(value)
    elif isinstance(value, Mapping) and name in ("routes", "decoders", "topics"):
        plain = {plain_topic(topic) if isinstance(topic, str) else topic: one for topic, one in value.items()}
        if name == "topics":
            plain = {topic: without_secrets(one) for topic, one in plain.items()}
    return value if plain == value else plain


def _error_text(detail: Any, given: Mapping[str, Any]) -> str:
    name, *keys = map(str, detail["loc"])
    if name == "topics" and keys:
        return _topic_error(keys[0], keys[1] if len(keys) > 1 else None, detail)
    if detail["type"] == "extra_forbidden":
        hint = _near(PREFIX, name, Settings) or "the settings are listed in balog_celery/settings.py"
        return f"unknown setting {PREFIX}{printable(name)}: {hint}"
    field = Settings.model_fields[name]
    # Never show the value of a secret setting, not even a wrong one.
    is_secret = PREFIX + name in SECRETS or not field.repr
    shown = "" if is_secret else f" {printable(repr(without_secrets(given[name])))}"
    return f"bad value{shown} for setting {PREFIX}{name}: {detail['msg']} ({field.description})"


def _topic_error(topic: str, key: str | None, detail: Any) -> str:
    where, keys = f"{PREFIX}topics[{plain_topic(topic)!r}]", ", ".join(TopicSettings.model_fields)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r} in {where}: {_near('', str(key), TopicSettings) or f'the keys are {keys}'}"
    value = printable(repr(without_secrets(detail["input"])))
    if key not in TopicSettings.model_fields:
        return f"bad value {value} for {where}: give a dict with some of the keys {keys}"
    return f"bad value {value} for {where}[{key!r}]: {detail['msg']} ({Settings.model_fields[key].description})"


def _near(prefix: str, name: str, known: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, known.model_fields, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else ""
