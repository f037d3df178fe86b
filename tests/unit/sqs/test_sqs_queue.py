"""The requests that an SQSQueue makes, seen from the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from balog_celery.errors import ConfigurationError, QueueError, QueueNotFound
from balog_celery.sqs.clients import clients
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import GOOD, HANG_UP, KEYS, URL, Server, error_answer, serving

pytestmark = pytest.mark.usefixtures("own_clients")
ATTEMPT = "ReceiveRequestAttemptId"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An SQS double; boto3's client retries at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with serving(Server()) as server:
        yield server


def queue_at(server: Server, topic: str = URL, **options: Any) -> SQSQueue:
    return SQSQueue(topic, **{"region": "us-east-1", "endpoint_url": server.endpoint, **KEYS, **options})


def attempts_of(server: Server) -> list[str]:
    return [asked[ATTEMPT] for _, action, asked in server.seen if action == "ReceiveMessage"]


def test_each_receive_from_a_fifo_queue_is_an_attempt_of_its_own(server: Server) -> None:
    """Each answered receive from a FIFO queue has its own attempt id."""
    queue = queue_at(server, URL + ".fifo")
    queue.receive(10, 0, 30)
    queue.receive(10, 0, 30)
    queue.read(10, 0, 30)
    attempts = attempts_of(server)
    assert len(attempts) == len(set(attempts)) == 3
    assert all(1 <= len(attempt) <= 128 and attempt.isalnum() for attempt in attempts)


@pytest.mark.parametrize(
    "lost",
    [HANG_UP, error_answer(500, "InternalFailure"), error_answer(503, "ServiceUnavailable"), (502, b"<html>")],
    ids=str,
)
def test_a_receive_whose_answer_was_lost_is_the_same_attempt(server: Server, lost: Any) -> None:
    """A receive after a lost answer has the same attempt id, so SQS sends the same messages."""
    queue = queue_at(server, URL + ".fifo")
    server.script = [lost] * 7
    for _ in range(2):
        with pytest.raises(QueueError):
            queue.receive(10, 0, 30)
    queue.receive(10, 0, 30)
    queue.receive(10, 0, 30)
    *repeated, last = attempts_of(server)
    assert len(repeated) == 8
    assert len(set(repeated)) == 1
    assert last != repeated[0]


def test_a_receive_without_an_answer_in_time_is_the_same_attempt(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receive after a timeout has the same attempt id."""
    monkeypatch.setattr("balog_celery.sqs.direct.RECEIVE_MARGIN", 2.0)
    queue = queue_at(server, URL + ".fifo")
    server.unanswered = {"ReceiveMessage"}
    with pytest.raises(QueueError, match="TimeoutError"):
        queue.receive(10, 0, 30)
    server.unanswered.clear()
    queue.receive(10, 0, 30)
    first, second = attempts_of(server)
    assert first == second


def test_a_standard_queue_knows_no_attempts(server: Server) -> None:
    """A receive from a standard queue has no attempt id, which SQS would refuse."""
    queue_at(server).receive(10, 0, 30)
    assert ATTEMPT not in server.seen[0][2]


@pytest.mark.parametrize("visibility", [0, 30, 43_200])
@pytest.mark.parametrize("topic", [URL, URL + ".fifo"])
def test_the_visibility_timeout_is_sent_with_every_receive(server: Server, topic: str, visibility: int) -> None:
    """Every receive has the visibility timeout, because the queue's own may change."""
    queue = queue_at(server, topic)
    queue.receive(10, 0, visibility)
    queue.read(10, 0, visibility)
    assert [asked["VisibilityTimeout"] for _, _, asked in server.seen] == [visibility] * 2


@pytest.mark.parametrize(
    ("topic", "owner"),
    [("events", {}), (URL, {"QueueOwnerAWSAccountId": "123456789012"}), ("http://localhost:9324/queue/events", {})],
)
def test_a_queue_exists_if_sqs_says_so(server: Server, topic: str, owner: dict[str, str]) -> None:
    """A queue exists if SQS says so, in the account of its URL; the URL alone does not prove it."""
    assert queue_at(server, topic).exists()
    assert server.seen[0][1:] == ("GetQueueUrl", {"QueueName": "events", **owner})
    server.otherwise = error_answer(400, "QueueDoesNotExist")
    assert not queue_at(server, topic).exists()
    server.otherwise = GOOD


def test_a_url_stays_the_queues_url(server: Server) -> None:
    """A URL given as the topic is used unchanged, also after SQS has returned another form of it."""
    queue = queue_at(server, "https://sqs.eu-west-1.amazonaws.com/210987654321/orders")
    assert queue.exists()
    queue.delete(["h"])
    assert server.seen[-1][2]["QueueUrl"] == "https://sqs.eu-west-1.amazonaws.com/210987654321/orders"


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-3.amazonaws.com/123456789012/events", "eu-west-3"),
        ("https://sqs-fips.us-west-2.amazonaws.com/123456789012/events", "us-west-2"),
        ("https://sqs.eu-west-3.api.aws/123456789012/events", "eu-west-3"),
        ("https://vpce-1a-2b.sqs.ap-south-1.vpce.amazonaws.com/123456789012/events", "ap-south-1"),
        ("https://queue.amazonaws.com/123456789012/events", "us-east-1"),
    ],
)
def test_requests_are_signed_for_the_region_of_the_url(server: Server, url: str, region: str) -> None:
    """Requests are signed for the region of the URL, unless another is given."""
    queue_at(server, url, region=None).delete(["h"])
    clients.forget()
    queue_at(server, url, region="sa-east-1").delete(["h"])
    scopes = [headers["Authorization"].split("/")[2] for headers in server.headers]
    assert scopes == [region, "sa-east-1"]


def test_a_queue_that_was_deleted_and_created_again_is_looked_up_again(server: Server) -> None:
    """After a queue was deleted and created again, its URL is looked up again."""
    queue = queue_at(server, "events")
    queue.delete(["h"])
    server.script = [error_answer(400, "QueueDoesNotExist")] * 2
    with pytest.raises(QueueNotFound):
        queue.delete(["h"])
    server.script = [(200, b'{"QueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/again"}')]
    queue.delete(["h"])
    assert server.seen[-1][2]["QueueUrl"].endswith("/again")


CONNECTION = (
    "region",
    "endpoint_url",
    "s3_endpoint_url",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
)


@pytest.mark.parametrize("name", CONNECTION)
def test_an_empty_text_leaves_the_choice_to_boto3(name: str) -> None:
    """An empty text for the connection, as of an empty variable of the environment, counts as not given."""
    queue, plain = SQSQueue("q", **{name: " "}), SQSQueue("q")  # type: ignore[arg-type]
    assert queue.connection == plain.connection
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
    assert SQSQueue(url, region="").connection.region == "eu-west-1"
    assert not SQSQueue("q", payload_buckets=[""]).payloads.writes


@pytest.mark.parametrize("name", CONNECTION)
def test_a_wrong_argument_for_the_connection_is_an_error_that_names_it(name: str) -> None:
    """What is no text is an error that names the argument, and shows no credentials."""
    with pytest.raises(ConfigurationError, match=f"bad {name}.*give a text") as error:
        SQSQueue("q", **{name: 4321})  # type: ignore[arg-type]
    assert ("4321" in str(error.value)) == ("aws" not in name)
