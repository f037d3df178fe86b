"""The name, region, account and neighbours of a topic's queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.sqs.addresses import QueueAddress, beside, dead_letter_topic, queue_address, queue_name, topics_named

ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("sqs.eu-west-1.api.aws", "eu-west-1"),
        ("sqs.cn-northwest-1.api.amazonwebservices.com.cn", "cn-northwest-1"),
        ("sqs-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("sqs-fips.ca-central-1.api.aws", "ca-central-1"),
        ("vpce-0123456789abcdef0-1a2b3c4d.sqs.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("vpce-0123456789abcdef0-1a2b3c4d-eu-west-1a.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
        ("vpce-0123456789abcdef0-1a2b3c4d.sqs.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
        ("queue.amazonaws.com", "us-east-1"),
        ("eu-central-1.queue.amazonaws.com", "eu-central-1"),
        ("queue.us-east-1.amazonaws.com", "us-east-1"),
        ("cn-north-1.queue.amazonaws.com.cn", "cn-north-1"),
        ("sqs.us-east-1.localhost.localstack.cloud:4566", "us-east-1"),
        ("us-east-1.queue.localhost.localstack.cloud:4566", "us-east-1"),
        ("localhost:4566", None),
        ("proxy.eu-west-1.example.com", None),
        ("[::1]:4566", None),
        ("[:4566", None),
    ],
)
@pytest.mark.parametrize("name", ["events", "orders.fifo"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_url_says_name_region_and_account(host: str, region: str | None, name: str, end: str) -> None:
    """A URL has the queue's name, region and account, for each kind of SQS host."""
    assert queue_address(f"https://{host}/{ACCOUNT}/{name}{end}") == QueueAddress(name, region, ACCOUNT)
    assert queue_name(f"https://{host}/{ACCOUNT}/{name}{end}") == name


def test_a_name_says_nothing_else() -> None:
    """A name says nothing about region and account, whatever it looks like."""
    assert queue_address("events") == QueueAddress("events")
    assert queue_address("team/events") == QueueAddress("team/events")


def test_an_account_is_a_number_of_twelve_digits() -> None:
    """Only twelve digits in a URL are an account; other paths are an emulator's."""
    assert queue_address("http://localhost:9324/queue/events").account is None


@pytest.mark.parametrize(
    ("template", "topic", "name"),
    [
        ("{topic}-dead", "events", "events-dead"),
        ("{topic}-dead", "events.fifo", "events-dead.fifo"),
        ("dead", "events", "dead"),
        (None, "events", None),
        (None, f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events", None),
        (
            "{topic}-dead",
            f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events.fifo",
            f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events-dead.fifo",
        ),
        (
            "https://sqs.eu-west-1.amazonaws.com/000000000000/{topic}-dead",
            f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events",
            "https://sqs.eu-west-1.amazonaws.com/000000000000/events-dead",
        ),
        # A queue that is named as a part of its URL.
        ("{topic}-dead", "https://events.example.com/events", "https://events.example.com/events-dead"),
    ],
)
def test_the_dead_letter_queue_is_named_after_the_topic(template: str | None, topic: str, name: str | None) -> None:
    """The dead-letter queue has the topic's name, region and account, and the FIFO suffix at the end."""
    assert dead_letter_topic(template, topic) == name


@given(st.from_regex(r"\A[a-zA-Z0-9_-]{1,80}(\.fifo)?\Z"), st.from_regex(r"\A[a-zA-Z0-9_-]{1,80}(\.fifo)?\Z"))
def test_a_queue_beside_a_url_differs_by_its_name_only(name: str, other: str) -> None:
    """A queue beside a URL has the same region and account."""
    url = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{name}"
    assert queue_address(beside(url, other)) == queue_address(url)._replace(name=other)
    assert beside(beside(url, other), name) == url


def test_a_name_means_every_topic_of_that_name_and_a_url_only_itself() -> None:
    """A name stands for every topic of that name, as accounts may share names; a URL stands for itself only."""
    mine = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events"
    theirs = "https://sqs.eu-west-1.amazonaws.com/210987654321/events"
    assert topics_named("events", [theirs, mine, "events", "other"]) == sorted(["events", mine, theirs])
    assert topics_named(mine, [theirs, mine, "events"]) == [mine]


def test_the_scheme_of_a_url_may_have_capitals() -> None:
    """As RFC 3986 allows."""
    assert queue_address(f"HTTPS://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events") == QueueAddress(
        "events", "eu-west-1", ACCOUNT
    )
