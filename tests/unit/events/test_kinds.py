"""Kinds of events that AWS and others send by themselves: one sample of each in ``tests/data``."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from balog_celery.events.decoders import JSONMapping, auto, reader_of
from balog_celery.events.records import as_event, decode
from balog_celery.sqs.messages import Message
from engines import DATA, sample

STORAGE_ACCOUNT = (
    "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/shop"
    "/providers/Microsoft.Storage/storageAccounts/shopfiles"
)
#: cls_type, id, channel, timestamp, schema and decoder; None where there is no event. The message is m-1, sent at
#: 2023-11-14T22:13:20Z.
KINDS: dict[str, tuple[str, str, str, str, str, str] | None] = {
    "autoscaling-hook": (
        "aws.autoscaling.EC2_INSTANCE_LAUNCHING",
        "71514b9d-6a40-4b26-8523-05e7ee35fa40",
        "my-asg",
        "2021-01-19T00:36:26.533000+00:00",
        "1",
        "autoscaling",
    ),
    "autoscaling-launch": (
        "aws.autoscaling.EC2_INSTANCE_LAUNCH",
        "m-1",
        "my-asg",
        "2021-01-19T00:37:00.533000+00:00",
        "1",
        "autoscaling",
    ),
    "autoscaling-test": None,
    "ceph": (
        "aws.s3.ObjectCreated:Put",
        "LGrizL1J2GP86ts1TqpRzJqk",
        "mybucket1",
        "2019-11-22T13:47:35.124724+00:00",
        "2.1",
        "s3",
    ),
    "cloudtrail": ("aws.cloudtrail.LogDelivery", "m-1", "b", "2023-11-14T22:13:20+00:00", "1", "cloudtrail"),
    "cloudwatch-alarm": (
        "aws.cloudwatch.alarm.ALARM",
        "m-1",
        "Example alarm name",
        "2017-01-12T16:30:42.236000+00:00",
        "1",
        "cloudwatch",
    ),
    "codecommit": (
        "aws.codecommit.TriggerEventTest",
        "m-1",
        "arn:aws:codecommit:us-east-1:123456789012:my-repo",
        "2018-01-26T15:58:33.475000+00:00",
        "1.0",
        "codecommit",
    ),
    "config": (
        "aws.config.ConfigurationItemChangeNotification",
        "m-1",
        "aws.config",
        "2016-02-25T20:01:15+00:00",
        "1.3",
        "config",
    ),
    "debezium-without-schema": (
        "debezium.create",
        "m-1",
        "shop.inventory.customers",
        "2025-02-25T10:00:00.123000+00:00",
        "2.7.0.Final",
        "debezium",
    ),
    "debezium": (
        "debezium.create",
        "m-1",
        "shop.postgres.public.customers",
        "2025-02-25T10:00:00.123000+00:00",
        "2.7.0.Final",
        "debezium",
    ),
    "eventgrid": (
        "azure.eventgrid.Microsoft.Storage.BlobCreated",
        f"{STORAGE_ACCOUNT} 831e1650-001e-001b-66ab-eeb76e069631",
        STORAGE_ACCOUNT,
        "2017-06-26T18:41:00.958410+00:00",
        "1",
        "eventgrid",
    ),
    "kinesis": (
        "aws.kinesis.record",
        "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream shardId-000000000006:49590338271490256608559692538361571095921575989136588898",  # noqa: E501
        "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream",
        "2018-12-17T22:10:50.987000+00:00",
        "1.0",
        "kinesis",
    ),
    "lambda-destination": (
        "aws.lambda.destination.RetriesExhausted",
        "aws.lambda.destination.RetriesExhausted arn:aws:lambda:us-east-2:123456789012:function:my-function:$LATEST e4b46cbf-b738-xmpl-8880-a18cdf61200e",  # noqa: E501
        "arn:aws:lambda:us-east-2:123456789012:function:my-function:$LATEST",
        "2019-11-14T18:16:05.568000+00:00",
        "1.0",
        "lambda",
    ),
    "minio": (
        "aws.s3.ObjectCreated:Put",
        "LG1yemv5n94By7YVkm4NFEpn",
        "images",
        "2019-09-10T14:27:46.868000+00:00",
        "2.0",
        "s3",
    ),
    "pipes-dynamodb": (
        "aws.dynamodb.INSERT",
        "arn:aws:dynamodb:us-east-1:123456789012:table/Example-Table/stream/2016-12-01T00:00:00.000 f07f8ca4b0b26cb9c4e5e77e69f274ee",  # noqa: E501
        "arn:aws:dynamodb:us-east-1:123456789012:table/Example-Table/stream/2016-12-01T00:00:00.000",
        "2016-12-02T01:27:00+00:00",
        "1.1",
        "dynamodb",
    ),
    "pipes-kinesis": (
        "aws.kinesis.record",
        "arn:aws:kinesis:us-east-2:123456789012:stream/pipe-stream shardId-000000000006:495903382714902566085596925383615710959",  # noqa: E501
        "arn:aws:kinesis:us-east-2:123456789012:stream/pipe-stream",
        "2018-12-17T22:10:50.987000+00:00",
        "1.0",
        "kinesis",
    ),
    "pipes-sqs": (
        "aws.sqs.message",
        "arn:aws:sqs:x 059f36b4",
        "arn:aws:sqs:x",
        "2023-11-14T22:13:20+00:00",
        "1",
        "sqs",
    ),
    "r2": ("cloudflare.r2.CopyObject", "m-1", "my-bucket", "2024-05-24T19:36:44.379000+00:00", "1", "r2"),
    "scheduler": (
        "aws.events.aws.scheduler.Scheduled Event",
        "c1d2e3f4-0000-4000-8000-123456789012",
        "aws.scheduler",
        "2023-03-01T10:00:00+00:00",
        "0",
        "eventbridge",
    ),
    "ses-bounce": (
        "aws.ses.Bounce",
        "aws.ses.Bounce 00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa068a-000000",
        "arn:aws:ses:us-east-1:888888888888:identity/example.com",
        "2016-01-27T14:59:38.237000+00:00",
        "1",
        "ses",
    ),
    "ses-complaint": (
        "aws.ses.Complaint",
        "aws.ses.Complaint 000001378603177f-18c07c78-fa81-4a58-9dd1-fedc3cb8f49a-000000",
        "arn:aws:ses:us-east-1:888888888888:identity/example.com",
        "2016-01-27T14:59:38.237000+00:00",
        "1",
        "ses",
    ),
    "ses-event-open": ("aws.ses.Open", "m-1", "aws.ses", "2017-08-09T22:00:19.652000+00:00", "1", "ses"),
    "ses-receipt": ("aws.ses.Received", "m-1", "aws.ses", "2015-09-11T20:32:33.936000+00:00", "1", "ses"),
    "sns-budgets": (
        "aws.budgets.Notification",
        "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "arn:aws:sns:us-east-1:123456789012:topic",
        "2024-05-02T00:54:06.655000+00:00",
        "1",
        "sns",
    ),
    "sns-cloudformation": (
        "aws.cloudformation.CREATE_COMPLETE",
        "arn:aws:cloudformation:us-east-1:123456789012:stack/my-stack/8d2c 4d1c5d50-582f-11e6-9b1d-50d5cad95262",
        "my-stack",
        "2016-08-01T21:37:28.126000+00:00",
        "1",
        "sns",
    ),
    "sns-record": (
        "aws.sns.Notification",
        "63a3f6b6-d533-4a47-aef9-fcf5cf758c76",
        "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "2012-03-29T05:12:16.901000+00:00",
        "1",
        "sns",
    ),
    "sp-api": (
        "amazon.sp-api.ORDER_CHANGE",
        "d0e9e693-c3ad-4373-979f-ed4ec98dd746",
        "amazon.sp-api",
        "2020-07-13T19:42:04.284000+00:00",
        "1.0",
        "sp-api",
    ),
    "stepfunctions": ("aws.states.TaskToken", "m-1", "aws.states", "2023-11-14T22:13:20+00:00", "1", "stepfunctions"),
}


def read(body: str, **more: Any) -> list[Any]:
    message = Message(body, "handle", "m-1", 0.0, sent=1_700_000_000_000, **more)
    return [event for event, _ in reader_of(auto, "topic")(message)]


def by_sns(body: str) -> str:
    return json.dumps({**json.loads(sample("sns")), "Message": body})


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_known_by_its_shape(name: str) -> None:
    """A kind is recognised by its shape; id and time are the source's or the message's, the payload the document."""
    events = read(sample(name))
    if KINDS[name] is None:
        assert events == []
        return
    (event,) = events
    header = event.header
    known = (event.payload.cls_type, header.id, header.channel, header.timestamp.isoformat(), event.schema_version)
    assert (*known, header.decoder) == KINDS[name]
    payload = as_event(event)["payload"]
    assert payload.pop("cls_type") == event.payload.cls_type
    document = json.loads(sample(name))
    held = document if isinstance(document, list) else document.get("Records", [document])
    if name != "sns-record":
        assert payload in held
    assert decode(reader_of(auto)(sample(name))[0][1]).payload.cls_type == event.payload.cls_type


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("sns-")])
def test_a_kind_is_known_in_an_envelope_of_sns(name: str) -> None:
    """A kind is recognised in an SNS envelope, whose id is used where the document has none."""
    events = read(by_sns(sample(name)))
    kind = KINDS[name]
    if kind is None:
        assert events == []
        return
    (event,) = events
    assert (event.payload.cls_type, event.header.channel, event.schema_version) == (kind[0], kind[2], kind[4])
    assert event.header.id == (json.loads(sample("sns"))["MessageId"] if kind[1] == "m-1" else kind[1])
    assert event.header.timestamp.isoformat() in (kind[3], "2012-03-29T05:12:16.901000+00:00")
    assert event.header.context.sns["TopicArn"] == json.loads(sample("sns"))["TopicArn"]


@pytest.mark.parametrize(
    ("change", "cls_type", "channel"),
    [
        ({"op": "t", "before": ..., "after": ...}, "truncate", "shop.postgres.public.customers"),
        ({"op": "m", "before": ..., "after": ..., "message": {"prefix": "p", "content": "Ymfy"}}, "message", ""),
        ({"op": "d", "before": {"id": 1004}, "after": None}, "delete", "shop.postgres.public.customers"),
        ({"op": "r", "ts_ms": "1740477600123"}, "read", "shop.postgres.public.customers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_changes_of_debezium(change: dict[str, Any], cls_type: str, channel: str) -> None:
    """A truncation, a message in the log, a delete and a snapshot are of types of their own; a time may be a text."""
    document = json.loads(sample("debezium"))
    document["payload"] |= change
    document["payload"] = {key: value for key, value in document["payload"].items() if value is not ...}
    if cls_type == "message":
        document["payload"]["source"] |= {"schema": "", "table": ""}
    (event,) = read(json.dumps(document))
    assert event.payload.cls_type == f"debezium.{cls_type}"
    assert event.header.channel == (channel or "shop.postgres")
    assert event.header.timestamp.isoformat() == "2025-02-25T10:00:00.123000+00:00"


def test_what_has_some_keys_of_a_record_is_told_what_to_do() -> None:
    """A document with some keys of a record gets advice about decoders, not about its schema."""
    for body in ('{"header": {}, "payload": {}}', '{"schema": {}, "payload": {"a": 1}}', '{"payload": 3}'):
        with pytest.raises(ValueError, match=r"not a record of balog: name a decoder for its topic in balog_decoders"):
            auto(body)


def test_sns_is_kept_in_the_context() -> None:
    """Subject, MessageAttributes, Timestamp and TopicArn of SNS are in the context, also in the task."""
    attributes = {"tenant": {"Type": "String", "Value": "a"}}
    body = json.dumps(
        {**json.loads(by_sns(sample("cloudwatch-alarm"))), "Subject": "s", "MessageAttributes": attributes}
    )
    ((_, text),) = reader_of(auto)(body)
    told = json.loads(sample("sns"))
    assert as_event(decode(text))["header"]["context"]["sns"] == {
        "MessageId": told["MessageId"],
        "TopicArn": told["TopicArn"],
        "Subject": "s",
        "Timestamp": told["Timestamp"],
        "MessageAttributes": attributes,
    }


BINARY = {
    "ce-specversion": "1.0",
    "ce-type": "com.example.placed",
    "ce-source": "/shop",
    "ce-id": "1",
    "ce-time": "2024-01-01t00:00:00z",
    "ce-tenant": "a",
    "content-type": "application/json; charset=utf-8",
}


@pytest.mark.parametrize("prefix", ["ce-", "ce_", "cloudEvents:", "cloudEvents_"])
@pytest.mark.parametrize("by", ["sqs", "sns"])
def test_cloudevents_in_binary_mode(prefix: str, by: str) -> None:
    """Binary-mode CloudEvents have their attributes in SQS's or SNS's message attributes, or in a broker's headers."""
    attributes = {name.replace("ce-", prefix): value for name, value in BINARY.items()}
    if by == "sqs":
        (event,) = read('{"n": 9007199254740993}', attributes=attributes)
    else:
        given = {name: {"Type": "String", "Value": value} for name, value in attributes.items()}
        (event,) = read(json.dumps({**json.loads(by_sns('{"n": 9007199254740993}')), "MessageAttributes": given}))
    assert (event.payload.cls_type, event.header.id, event.header.channel) == ("com.example.placed", "/shop 1", "/shop")
    assert event.header.timestamp.isoformat() == "2024-01-01T00:00:00+00:00"
    assert as_event(event)["payload"] == {
        "specversion": "1.0",
        "type": "com.example.placed",
        "source": "/shop",
        "id": "1",
        "time": "2024-01-01t00:00:00z",
        "tenant": "a",
        "datacontenttype": "application/json; charset=utf-8",
        "data": {"n": 9007199254740993},
        "cls_type": "com.example.placed",
    }


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("text/plain", "3", {"data": "3"}),
        ("application/cloudevent+json", "3", {"data": 3}),
        (None, "hi", {"data": "hi"}),
        (None, "[1]", {"data": [1]}),
        ("image/png", "\udc89P", {"data_base64": "iVA="}),
        ("text/plain", "", {}),
    ],
)
def test_the_data_of_a_cloudevent_in_binary_mode(content_type: str | None, body: str, data: dict[str, Any]) -> None:
    """The data of a binary-mode CloudEvent is JSON by content type or default, else text or base64."""
    attributes = {name: value for name, value in BINARY.items() if name != "content-type"}
    (event,) = read(
        body, attributes=attributes if content_type is None else {**attributes, "content-type": content_type}
    )
    payload = as_event(event)["payload"]
    assert {name: payload[name] for name in payload if name.startswith("data") and name != "datacontenttype"} == data


@pytest.mark.parametrize("content_type", ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=x"])
def test_the_content_type_decides_the_mode_of_a_cloudevent(content_type: str) -> None:
    """In structured mode a sender may repeat the attributes (HTTP protocol binding of CloudEvents 1.0, 3.2.2)."""
    inner = {"specversion": "1.0", "type": "inner", "source": "/s", "id": "2", "data": {"n": 1}}
    (event,) = read(json.dumps(inner), attributes={**BINARY, "content-type": content_type})
    assert as_event(event)["payload"] == {**inner, "cls_type": "inner"}


def test_a_batch_of_cloudevents_may_come_with_attributes() -> None:
    """Its content type says that it is one."""
    batch = [{"specversion": "1.0", "type": "t", "source": "/s", "id": str(number)} for number in range(2)]
    attributes = {**BINARY, "content-type": "application/cloudevents-batch+json"}
    assert [event.header.id for event in read(json.dumps(batch), attributes=attributes)] == ["/s 0", "/s 1"]


def test_bad_json_of_a_cloudevent_in_binary_mode_is_a_dead_letter() -> None:
    """A binary-mode CloudEvent with a JSON content type and bad JSON is undecodable."""
    with pytest.raises(ValueError, match="not JSON"):
        read("{", attributes=BINARY)


LAMBDA = {"RequestID": "r", "ErrorCode": "200", "ErrorMessage": "timed out"}


def test_what_lambda_could_not_process_says_why() -> None:
    """An event from a dead-letter queue of Lambda has Lambda's error in its context."""
    (event,) = read(sample("s3"), attributes=LAMBDA)
    assert (event.payload.cls_type, event.header.context.__pydantic_extra__["lambda"]) == (
        "aws.s3.ObjectCreated:Put",
        LAMBDA,
    )
    (event,) = read('{"any": 1}', attributes=LAMBDA)
    assert (event.payload.cls_type, event.header.id) == ("aws.lambda.DeadLetter", "m-1")
    assert event.header.context.__pydantic_extra__["lambda"] == LAMBDA


#: Topic, message attributes, and what is expected.
MAPPINGS: dict[str, tuple[str, dict[str, str], tuple[str, str, str, str]]] = {
    "github-push": (
        "github",
        {"X-GitHub-Event": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"},
        ("push", "72d3162e-cc78-11e3-81ab-4c9367dc0958", "Codertocat/Hello-World", "2023-11-14T22:13:20+00:00"),
    ),
    "shopify-order": (
        "shopify",
        {
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
            "X-Shopify-Triggered-At": "2023-03-29T18:00:27.877041743Z",
            "X-Shopify-Shop-Domain": "shop.myshopify.com",
        },
        (
            "orders/create",
            "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
            "shop.myshopify.com",
            "2023-03-29T18:00:27.877041+00:00",
        ),
    ),
    "stripe": ("stripe", {}, ("payment_intent.succeeded", "evt_1ABC", "stripe", "2022-01-01T00:00:00+00:00")),
    "segment": ("segment", {}, ("track", "022bb90c", "segment", "2015-12-10T04:08:31.905000+00:00")),
}


def documented() -> dict[str, JSONMapping]:
    """The mappings of webhooks in docs/event-sources.md."""
    page = (DATA.parents[1] / "docs" / "event-sources.md").read_text()
    (text,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if '"github"' in block)
    scope: dict[str, Any] = {}
    exec(text, scope)
    mappings: dict[str, JSONMapping] = scope["balog_decoders"]
    return mappings


@pytest.mark.parametrize("name", MAPPINGS)
def test_webhooks_are_mapped(name: str) -> None:
    """The mappings of webhooks in the documentation work: GitHub, Shopify, Stripe, Segment."""
    topic, attributes, expected = MAPPINGS[name]
    message = Message(sample(name), "handle", "m-1", 0.0, sent=1_700_000_000_000, attributes=attributes)
    ((event, _),) = reader_of(documented()[topic], topic)(message)
    header = event.header
    assert (event.payload.cls_type, header.id, header.channel, header.timestamp.isoformat()) == expected
    payload = as_event(event)["payload"]
    assert payload.pop("cls_type") == expected[0]
    assert payload == json.loads(sample(name))


def test_every_sample_is_used() -> None:
    """Every sample file is used here or in test_decoders.py."""
    source = (DATA.parent / "unit" / "events" / "test_decoders.py").read_text()
    others = set(re.findall(r'^    "([\w-]+)": \[', source, re.MULTILINE))
    assert {path.stem for path in DATA.glob("*.json")} == {*KINDS, *MAPPINGS, *others}


def test_the_page_names_each_kind_and_the_samples_have_all() -> None:
    """Each kind of the page's table has a sample here, and each sample has its kind there."""
    page = (DATA.parents[1] / "docs" / "event-sources.md").read_text()
    table = page.partition("`auto` also recognises")[2].partition("\n- ")[0]
    types = re.findall(r"^\| [^|]+ \| [^`|]*`([^`]+)`", table, re.MULTILINE)
    patterns = [re.compile(re.sub(r"<[^>]+>", ".+", name.replace(".", r"\."))) for name in types[1:]]
    # Those that a decoder's own name stands for, and the one that Lambda's attributes make.
    samples = {kind[0] for kind in KINDS.values() if kind is not None} | {"aws.lambda.DeadLetter"}
    samples -= {one for one in samples if one.startswith(("aws.s3.", "aws.events.", "aws.sns."))}
    assert [pattern for pattern in patterns if not any(map(pattern.fullmatch, samples))] == []
    assert {one for one in samples if not any(pattern.fullmatch(one) for pattern in patterns)} == set()
