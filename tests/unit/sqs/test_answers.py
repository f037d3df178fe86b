"""Only SQS's own answers count: any other answer is an error, and never a success."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balog_celery.errors import AccessDenied, QueueError, QueueNotFound
from balog_celery.sqs import clients
from balog_celery.sqs.diagnostics import missing_permissions, oldest_message_age
from balog_celery.sqs.endpoints import Connection
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, EntryFailure, Message, OutgoingMessage, TypedValue
from balog_celery.sqs.queues import SQSQueue
from balog_celery.sqs.received import read_messages
from scripted_sqs.raw import GOOD, KEYS, URL, PiecesServer, Server, error_answer, serving

BODIES = ["a", "é", "c"]
HANDLES = ["x", "y", "z"]
BATCHES: dict[str, Callable[[SQSQueue], list[EntryFailure]]] = {
    "delete": lambda queue: queue.delete(HANDLES),
    "change_visibility": lambda queue: queue.change_visibility(HANDLES, 5),
    "send": lambda queue: queue.send([OutgoingMessage(body) for body in BODIES]),
}
OTHERS: dict[str, Callable[[SQSQueue], Any]] = {
    "url": lambda queue: SQSQueue("events", region="us-east-1", endpoint_url=_endpoint(queue), **KEYS).url,
    "create": lambda queue: queue.create(),
    "attributes": lambda queue: queue.attributes(),
    "refused": missing_permissions,
    "receive": lambda queue: queue.receive(10, 0),
}
CALLS = {**BATCHES, **OTHERS}


def _endpoint(queue: SQSQueue) -> str | None:
    return queue.connection.endpoint_url


@pytest.fixture(scope="module", params=["direct", "client"])
def sqs(request: pytest.FixtureRequest, shared_clients: None) -> Iterator[Server]:
    """A server in the place of SQS, called on the fast path or through boto3's client."""
    with pytest.MonkeyPatch.context() as patched, serving(Server()) as server:
        patched.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        if request.param == "client":
            patched.setattr(clients, "needs_client", lambda _client: "a test")
        yield server
        clients.clients.forget()


@pytest.fixture
def server(sqs: Server) -> Server:
    """The server, which answers each request well and has seen none."""
    sqs.otherwise = GOOD
    sqs.seen.clear()
    return sqs


@pytest.fixture
def queue(server: Server) -> SQSQueue:
    """A queue on the server."""
    return SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)


def say(server: Server, answer: Any, status: int = 200) -> None:
    """Make *server* give this answer from now on."""
    server.otherwise = status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


FOREIGN = {
    "a web page": b"<html><body>Sign in to the hotel's network</body></html>",
    "nothing": b"",
    "spaces": b"  \n",
    "a text": b"OK",
    "compressed": gzip.compress(b"{}"),
    "not UTF-8": b"\xff\xfe{}",
    "cut off": b'{"Successful": [',
    "deep": b"[" * 100_000,
    "null": None,
    "a list": [],
    "a list of answers": [{"Successful": [{"Id": "0"}, {"Id": "1"}, {"Id": "2"}], "QueueUrl": URL}],
    "a string": "text",
    "a number": 1,
    "true": True,
    **{
        f"an error that says {name}": {name: "com.amazonaws.sqs#InternalError", "Messages": None}
        for name in ("__type", "message", "Message", "error", "code")
    },
    **{
        f"{name} is {value!r}": {"Successful": [{"Id": "0"}], "Messages": [], name: value}
        for name, values in {
            "Successful": ["012", {"Id": "0"}, 1, True, [None], ["0"], [["0"]], [{}], [{"Id": 0}], [{"Id": ["0"]}]],
            "Failed": ["1", {"Id": "1"}, 0, False, [7], [{"Id": "1", "Code": 5}], [{"Id": "1", "SenderFault": "no"}]],
            "Messages": ["text", {"Body": "b"}, 3, [None], ["b"], [{}]],
            "QueueUrl": ["", 5, [URL], {}],
            "Attributes": ["x", [], 5, {"VisibilityTimeout": 30}, {"VisibilityTimeout": "soon"}],
        }.items()
        for value in values
    },
}
#: Of the answers above, those that are good ones to some calls, as what they do not ask for is no matter of theirs.
ABOUT = {"Successful": set(BATCHES), "Failed": set(BATCHES), "Messages": {"receive"}, "Attributes": {"attributes"}}
ABOUT["QueueUrl"] = {"url", "create"}


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_not_sqs_is_an_error(server: Server, queue: SQSQueue, call: str) -> None:
    """An answer that is not SQS's is a QueueError that says what to check, and the call is not repeated."""
    for name, answer in FOREIGN.items():
        if call not in ABOUT.get(name.partition(" ")[0], CALLS):
            continue
        server.seen.clear()
        say(server, answer)
        with pytest.raises(
            QueueError, match=r"the answer did not come from SQS: check endpoint_url.+\(UnexpectedResponse: .+\)"
        ) as error:
            CALLS[call](queue)
        assert error.value.code == "UnexpectedResponse", name
        assert "\n" not in str(error.value)
        assert len(server.seen) == 1, name


@pytest.mark.parametrize("call", [*BATCHES, "url", "create", "attributes", "refused"])
@pytest.mark.parametrize("answer", [{}, {"message": "hello"}, {"Successful": None, "Failed": None}, {"QueueUrl": None}])
def test_an_answer_without_what_was_asked_for_is_an_error(
    server: Server, queue: SQSQueue, call: str, answer: Any
) -> None:
    """An answer without the requested member is an error."""
    say(server, answer)
    with pytest.raises(QueueError, match="the answer did not come from SQS"):
        CALLS[call](queue)


def test_an_absent_list_may_be_null(server: Server, queue: SQSQueue) -> None:
    """A null list counts as absent, as the protocol allows."""
    done = [{"Id": "0"}, {"Id": "1"}, {"Id": "2"}]
    say(server, {"Successful": done, "Failed": None, "Messages": None})
    assert [call(queue) for call in BATCHES.values()] == [[], [], []]
    assert queue.receive(10, 0) == []
    failed = [{**entry, "Code": "InternalError", "Message": None, "SenderFault": None} for entry in done]
    say(server, {"Successful": None, "Failed": failed})
    for call in BATCHES.values():
        assert call(queue) == [EntryFailure(index, "InternalError", "", False) for index in range(3)]
    message = {"Body": "b", "ReceiptHandle": "h", "MessageId": "m", "Attributes": None, "MessageAttributes": None}
    say(server, {"Messages": [message]})
    (received,) = queue.receive(10, 0)
    assert (received.body, received.attributes, received.receive_count) == ("b", {}, 1)


@pytest.mark.parametrize("call", BATCHES)
def test_an_entry_that_is_not_mentioned_has_failed(server: Server, queue: SQSQueue, call: str) -> None:
    """An entry that the answer does not mention has failed, because its result is unknown."""
    say(server, {"Successful": [{"Id": "1"}], "Failed": []})
    failures = BATCHES[call](queue)
    assert [(failure.index, failure.sender_fault) for failure in failures] == [(0, False), (2, False)]
    assert all(failure.code and failure.message for failure in failures)


@pytest.mark.parametrize("call", BATCHES)
@pytest.mark.parametrize(
    "answer",
    [
        {"Successful": [{"Id": name} for name in "0123"]},
        {"Successful": [{"Id": name} for name in "012"], "Failed": [{"Id": "7", "Code": "x"}]},
        {"Successful": [{"Id": name} for name in ["0", "1", "2 "]]},
        {"Successful": [{"Id": name} for name in ["0", "1", "02"]]},
        {"Successful": [{"Id": name} for name in "0122"]},
        {"Successful": [{"Id": name} for name in "012"], "Failed": [{"Id": "2", "Code": "x"}]},
    ],
    ids=["more", "another failed", "nearly", "a number", "twice", "both"],
)
def test_the_answer_to_another_call_is_not_believed(server: Server, queue: SQSQueue, call: str, answer: Any) -> None:
    """An answer with unknown or repeated ids is an error."""
    say(server, answer)
    with pytest.raises(QueueError, match="names an entry"):
        BATCHES[call](queue)


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_a_message_that_arrived_as_another_was_not_sent(server: Server, queue: SQSQueue) -> None:
    """A message whose MD5 differs in the answer was not sent."""
    digests = [md5("a"), md5("e"), 5]
    sent = [{"Id": str(index), "MD5OfMessageBody": digest} for index, digest in enumerate(digests)]
    say(server, {"Successful": sent})
    failures = BATCHES["send"](queue)
    assert [(failure.index, failure.code) for failure in failures] == [(1, "MD5Mismatch"), (2, "MD5Mismatch")]
    assert all(failure.doubtful and not failure.sender_fault for failure in failures)
    say(
        server,
        {"Successful": [{**entry, "MD5OfMessageBody": md5(body)} for entry, body in zip(sent, BODIES, strict=True)]},
    )
    assert BATCHES["send"](queue) == []


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
IDS = st.sampled_from(["0", "1", "2"]) | st.sampled_from(["3", "", "00"]) | ANY
ENTRIES = ANY | st.fixed_dictionaries(
    {"Id": IDS},
    optional={
        "Code": st.sampled_from(["InternalError", "ReceiptHandleIsInvalid", "New"]) | ANY,
        "Message": ANY,
        "SenderFault": st.booleans() | ANY,
        "MD5OfMessageBody": st.sampled_from([md5("a"), md5("b")]) | ANY,
    },
)
#: Each entry in one list, in both, or in none.
PLAUSIBLE = st.tuples(*[st.sampled_from(["s", "f", "", "sf"]) | st.just("s")] * 3).map(
    lambda fates: {
        name: [{"Id": str(index)} for index, fate in enumerate(fates) if letter in fate]
        for name, letter in (("Successful", "s"), ("Failed", "f"))
    }
)
BATCH_ANSWERS = (
    PLAUSIBLE
    | ANY
    | st.fixed_dictionaries(
        {}, optional={"Successful": st.lists(ENTRIES, max_size=4) | ANY, "Failed": st.lists(ENTRIES, max_size=3) | ANY}
    )
)
GOOD_MESSAGE = {"Body": "b", "ReceiptHandle": "h", "MessageId": "m"}
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.just(value) | ANY for name, value in GOOD_MESSAGE.items()},
        "Attributes": ANY
        | st.fixed_dictionaries(
            {},
            optional={
                "ApproximateReceiveCount": st.sampled_from(["1", "-1", "1e9", "9" * 5000]) | ANY,
                "ApproximateFirstReceiveTimestamp": ANY,
                "SentTimestamp": ANY,
                "MessageGroupId": ANY,
            },
        ),
        "MessageAttributes": ANY
        | st.dictionaries(
            st.text(max_size=3),
            ANY | st.fixed_dictionaries({}, optional={"StringValue": ANY, "BinaryValue": ANY, "DataType": ANY}),
            max_size=2,
        ),
    },
)
RECEIVED = ANY | st.fixed_dictionaries({"Messages": ANY | st.lists(ANY | MESSAGES, max_size=4)})


def asking(answer: bytes, call: Callable[[SQSQueue], Any], server: Server, queue: SQSQueue) -> Any:
    """Return the result of *call*, or the QueueError that it raises."""
    server.otherwise = 200, answer
    try:
        return call(queue)
    except QueueError as error:
        return error


@pytest.mark.parametrize("call", BATCHES)
def test_only_what_is_listed_as_successful_is_a_success(server: Server, queue: SQSQueue, call: str) -> None:
    """For any JSON as the answer, only entries listed as successful succeed, and the only error is QueueError."""

    @given(BATCH_ANSWERS)
    @settings(max_examples=150)
    def holds(answer: Any) -> None:
        failures = asking(json.dumps(answer).encode(), BATCHES[call], server, queue)
        if isinstance(failures, QueueError):
            return
        failed = [failure.index for failure in failures]
        assert failed == sorted(set(failed) & {0, 1, 2})
        for index in {0, 1, 2} - set(failed):
            (listed,) = [entry for entry in answer["Successful"] if entry["Id"] == str(index)]
            assert all(entry["Id"] != str(index) for entry in answer.get("Failed") or [])
            assert call != "send" or listed.get("MD5OfMessageBody") in (None, md5(BODIES[index]))

    holds()


def test_what_is_received_can_be_read(server: Server, queue: SQSQueue) -> None:
    """For any JSON as the answer, the returned messages are readable."""

    @given(RECEIVED)
    @settings(max_examples=300)
    def holds(answer: Any) -> None:
        messages = asking(json.dumps(answer).encode(), OTHERS["receive"], server, queue)
        if isinstance(messages, QueueError):
            return
        for message in messages:
            assert isinstance(message, Message)
            texts = (message.body, message.handle, message.message_id, message.group, *message.attributes.values())
            assert all(isinstance(text, str) for text in texts)
            numbers = (message.receive_count, message.first_received, message.sent)
            assert all(isinstance(number, int) and 0 <= number < 10**15 for number in numbers)
        good = {**GOOD_MESSAGE, "Body": "one more"}
        if isinstance(answer, dict) and isinstance(answer.get("Messages"), list):
            more = asking(
                json.dumps({"Messages": [*answer["Messages"], good]}).encode(), OTHERS["receive"], server, queue
            )
            assert [message.body for message in more] == [*(message.body for message in messages), "one more"]

    holds()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        "text",
        [],
        {},
        {"Body": None},
        {"ReceiptHandle": ""},
        {"MessageId": 7},
        {"Body": ["b"]},
        {"Attributes": "x"},
        {"Attributes": {"MessageGroupId": 5}},
        {"MessageAttributes": [1]},
        {"MessageAttributes": {"a": "text"}},
        {"MD5OfBody": md5("another body")},
        {"MD5OfBody": 5},
    ],
    ids=str,
)
def test_one_unreadable_message_leaves_the_others(
    server: Server, queue: SQSQueue, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable message is logged and stays in the queue; the others are returned."""
    if isinstance(bad, dict):
        bad = {**GOOD_MESSAGE, **bad} if bad else bad
    good = [{**GOOD_MESSAGE, "MessageId": str(number)} for number in range(9)]
    say(server, {"Messages": [*good[:4], bad, *good[4:]]})
    assert [message.message_id for message in queue.receive(10, 0)] == list("012345678")
    (warning,) = caplog.messages
    assert "1 of 10 messages of events stay in the queue" in warning


@pytest.mark.parametrize("part", ["x", '"', "\\\\u00e9", "é", "Привет", "\U0001f600", "\ud800", "\udc00x"], ids=ascii)
def test_a_large_body_is_received_as_it_was_sent(server: Server, queue: SQSQueue, part: str) -> None:
    """A large body is the same whichever characters it consists of, escaped or not; half of one is no answer."""
    body = part * 50_000
    escaped = json.dumps({"Messages": [{**GOOD_MESSAGE, "Body": body}]}).encode()
    as_it_is = json.dumps({"Messages": [{**GOOD_MESSAGE, "Body": body}]}, ensure_ascii=False)
    for answer in (escaped, as_it_is.encode("utf-8", "surrogatepass")):
        (message,) = asking(answer, OTHERS["receive"], server, queue)
        assert message.body == body
        assert isinstance(asking(answer[:-2], OTHERS["receive"], server, queue), QueueError)


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ({"MD5OfBody": md5("another body")}, ["a1", "b1"]),
        ({"MessageId": None}, ["a1", "b1"]),
        ({"Attributes": {"MessageGroupId": 5}}, ["a1"]),
        ({"Attributes": None, "Body": None}, ["a1"]),
    ],
    ids=str,
)
def test_what_is_behind_an_unreadable_message_in_its_group_stays_too(
    server: Server, bad: Any, kept: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A group is processed in order: what is behind a message that stays in the queue stays there as well."""
    names = ("a1", "a2", "b1", "a3")
    answer = [
        {**GOOD_MESSAGE, "Body": name, "MD5OfBody": md5(name), "Attributes": {"MessageGroupId": name[0]}}
        for name in names
    ]
    answer[1] |= bad
    say(server, {"Messages": answer})
    queue = SQSQueue(URL + ".fifo", region="us-east-1", endpoint_url=server.endpoint, **KEYS)
    assert [message.body for message in queue.receive(10, 0)] == kept
    assert f"{4 - len(kept)} of 4 messages of events.fifo stay in the queue" in caplog.text


def test_over_tls_bodies_are_not_compared_with_their_md5() -> None:
    """TLS ensures by itself that they are as SQS sent them; nor are they where OpenSSL has no MD5."""
    raw = {**GOOD_MESSAGE, "MD5OfBody": md5("another body")}
    assert read_messages([raw], 0.0, compare=True, in_order=False) == []
    assert len(read_messages([raw], 0.0, compare=False, in_order=False)) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hashlib, "md5", Mock(side_effect=ValueError("unsupported hash type md5")))
        assert len(read_messages([raw], 0.0, compare=True, in_order=False)) == 1


@pytest.mark.parametrize(
    "count", ["many", None, [], {}, -3, "1e3", "9" * 5000, 10**20, "nan"], ids=lambda v: str(v)[:9]
)
def test_a_message_without_usable_numbers_is_processed(server: Server, queue: SQSQueue, count: Any) -> None:
    """A message without usable numbers is processed, because SQS only estimates them."""
    names = ("ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp")
    say(server, {"Messages": [{**GOOD_MESSAGE, "Attributes": dict.fromkeys(names, count)}]})
    (message,) = queue.receive(10, 0)
    assert (message.receive_count, message.first_received, message.sent) == (1, 0, 0)


def test_attributes_are_read_with_their_types(server: Server, queue: SQSQueue) -> None:
    """Invalid base64 in a blob does no harm."""
    given = {
        "text": {"DataType": "String", "StringValue": "é"},
        "blob": {"DataType": "Binary", "BinaryValue": "*"},
        "nothing": None,
        "null": {"DataType": "String", "StringValue": None},
        "number": {"DataType": "Number", "StringValue": "1"},
        "bytes": {"DataType": "Binary.x", "BinaryValue": "/w=="},
    }
    say(server, {"Messages": [{**GOOD_MESSAGE, "MessageAttributes": given}]})
    (message,) = queue.receive(10, 0)
    assert message.attributes == {"text": "é", "number": "1"}
    assert message.typed == {"number": TypedValue("Number", "1"), "bytes": TypedValue("Binary.x", b"\xff")}


ERRORS = [
    b"",
    b"<html>",
    b"\xff",
    b"[" * 100_000,
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b'{"__type": 5}',
    b'{"__type": null}',
    b'{"__type": []}',
    b'{"__type": "a#b", "message": {"a": [1]}}',
    b'{"message": 5}',
    b'{"Messages": "x", "Successful": "x", "QueueUrl": [], "Attributes": []}',
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [300, 400, 404, 500])
def test_an_error_that_is_not_sqs_is_ours(server: Server, queue: SQSQueue, call: str, status: int) -> None:
    """An error answer that is not SQS's is a QueueError of one line."""
    for body in ERRORS:
        say(server, body, status)
        with pytest.raises(QueueError) as error:
            CALLS[call](queue)
        assert "\n" not in str(error.value), body


@pytest.mark.parametrize(
    "code",
    [
        "RequestThrottled",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
        "OverLimit",
        "AWS.SimpleQueueService.OverLimit",
        "KmsThrottled",
        "KMS.ThrottlingException",
        "InternalError",
        "InvalidParameterValue",
        "KmsNotFound",
    ],
)
@pytest.mark.parametrize("status", [400, 403])
def test_a_known_code_counts_more_than_the_status(server: Server, queue: SQSQueue, code: str, status: int) -> None:
    """A known code counts more than the HTTP status: SQS throttles with 403."""
    server.otherwise = error_answer(status, code)
    with pytest.raises(QueueError, match=rf"failed.* \({code}: this is {code}\)") as error:
        queue.receive(10, 0)
    assert type(error.value) is QueueError
    assert error.value.code == code


@pytest.mark.parametrize(
    ("status", "code", "text", "words"),
    [
        (400, "RequestThrottled", "", "AWS throttles"),
        (403, "KMS.ThrottlingException", "", "AWS throttles"),
        (403, "AWS.SimpleQueueService.OverLimit", "", "as many messages in flight as SQS allows"),
        (400, "KmsAccessDenied", "", "kms:Decrypt"),
        (400, "KMS.AccessDeniedException", "", "kms:GenerateDataKey"),
        (400, "KMS.DisabledException", "", "enable the key"),
        (403, "ExpiredToken", "", "renew the credentials"),
        (403, "RequestExpired", "", "clock"),
        (403, "RequestTimeTooSkewed", "", "clock"),
        (403, "InvalidSignatureException", "Signature expired: 20150830T123600Z is now earlier", "clock"),
        (403, "SignatureDoesNotMatch", "Signature not yet current: 20150830T123600Z", "clock"),
        (403, "InvalidSignatureException", "Credential should be scoped to a valid region.", "region"),
        (404, "InvalidAddress", "The address is not valid for this endpoint.", "region"),
        (403, "OptInRequired", "", "not enabled"),
        (503, "ServiceUnavailable", "", "outage"),
    ],
)
def test_an_error_says_what_to_do(
    server: Server, queue: SQSQueue, status: int, code: str, text: str, words: str
) -> None:
    """An error has one line with the remedy, and the service's code and text at its end."""
    body = {"__type": f"com.amazonaws.sqs#{code}", "message": text or f"this is {code}"}
    server.otherwise = (status, json.dumps(body).encode())
    with pytest.raises(QueueError) as error:
        queue.receive(10, 0)
    assert words in str(error.value)
    assert f"({code}: {body['message']}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("code", ["KmsAccessDenied", "KMS.AccessDeniedException"])
def test_a_missing_permission_for_the_key_reads_as_one(server: Server, queue: SQSQueue, code: str) -> None:
    """A missing permission on the KMS key is an AccessDenied that keeps the client."""
    server.otherwise = error_answer(400, code)
    for _ in range(2):
        with pytest.raises(AccessDenied, match="kms:Decrypt"):
            queue.receive(10, 0)
    assert len({port for port, _, _ in server.seen}) <= 2  # that of the fast path, and that of the client


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message": "Forbidden"}', b'{"__type": 5}'])
@pytest.mark.parametrize("status", [403, 429, 503])
def test_an_error_without_a_code_is_of_something_in_between(
    server: Server, queue: SQSQueue, status: int, body: bytes
) -> None:
    """It is no missing permission: a firewall or portal that refuses calls may let them pass later."""
    say(server, body, status)
    with pytest.raises(QueueError, match="proxy or portal in between") as error:
        queue.delete(["h"])
    assert (type(error.value), error.value.code) == (QueueError, str(status))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_says_where_it_leads(status: int) -> None:
    """A signature is for one host, and a user and password in the location are nobody's business."""
    location = b"https://user:hunter2@portal.example/login?token=hunter2"
    head = b"HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)
    with serving(PiecesServer(head, closes=False)) as server:
        queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)
        with pytest.raises(QueueError, match=rf"redirect \({status}\) to https://\S*portal\.example/login") as error:
            queue.delete(["h"])
    assert "hunter2" not in str(error.value)
    assert len(server.seen) == 1


def test_a_missing_queue_is_one_at_any_status(server: Server, queue: SQSQueue) -> None:
    """Both of SQS's codes for a missing queue are recognised at any status."""
    for status in (400, 403):
        for code in ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"):
            server.otherwise = error_answer(status, code)
            with pytest.raises(QueueNotFound):
                queue.receive(10, 0)


@pytest.mark.parametrize(
    ("status", "code", "anew"),
    [
        (400, "AccessDenied", False),
        (403, "AccessDeniedException", False),
        (403, "SomethingNew", False),
        (403, "ExpiredToken", True),
        (400, "InvalidClientTokenId", True),
    ],
)
def test_only_bad_credentials_take_a_new_client(
    server: Server, queue: SQSQueue, status: int, code: str, anew: bool
) -> None:
    """Only bad credentials replace the client; a missing permission does not."""
    other = SQSQueue(URL + "-other", region="us-east-1", endpoint_url=server.endpoint, **KEYS)
    other.delete(["h"])
    server.otherwise = error_answer(status, code)
    with pytest.raises(AccessDenied, match=code):
        queue.delete(["h"])
    server.otherwise = GOOD
    other.delete(["h"])
    ports = [port for port, _, _ in server.seen]
    assert (ports[-1] not in ports[:-1]) is anew


TRANSIENT = ["RequestThrottled", "ThrottlingException", "OverLimit", "KmsThrottled", "KMS.ThrottlingException"]
TRANSIENT += [
    "TooManyRequests",
    "ThrottledException",
    "Throttling",
    "ServiceUnavailableException",
    "InternalServiceError",
]
#: A person can repair the cause.
TRANSIENT += ["AccessDenied", "KmsAccessDenied", "KMS.DisabledException", "KmsOptInRequired", "QueueDoesNotExist"]
HOPELESS = ["InvalidMessageContents", "InvalidParameterValue", "ReceiptHandleIsInvalid", "BatchRequestTooLong"]


@pytest.mark.parametrize("call", BATCHES)
@pytest.mark.parametrize("blamed", [True, False, None])
@pytest.mark.parametrize("prefix", ["", "AWS.SimpleQueueService."])
def test_the_code_of_an_entry_says_whether_trying_again_can_help(
    server: Server, queue: SQSQueue, call: str, blamed: bool | None, prefix: str
) -> None:
    """The code of an entry decides whether it is retried, not ``SenderFault``."""
    for known, codes in ((True, HOPELESS), (False, [*TRANSIENT, "InternalError"])):
        for code in codes:
            entry = {"Id": "0", "Code": prefix + code, "SenderFault": blamed}
            say(server, {"Successful": [{"Id": "1"}, {"Id": "2"}], "Failed": [entry]})
            assert BATCHES[call](queue) == [EntryFailure(0, prefix + code, "", known)], code


@pytest.mark.parametrize(("call", "given_up"), [("delete", True), ("change_visibility", True), ("send", False)])
def test_an_unknown_code_is_given_up_only_where_nothing_is_lost(
    server: Server, queue: SQSQueue, call: str, given_up: bool
) -> None:
    """An unknown code gives up a delete, but a send is repeated for a while."""
    done = [{"Id": "1"}, {"Id": "2"}]
    say(server, {"Successful": done, "Failed": [{"Id": "0", "Code": "New", "SenderFault": True}]})
    (failure,) = BATCHES[call](queue)
    assert (failure.sender_fault, failure.doubtful) == (given_up, not given_up)
    say(server, {"Successful": done, "Failed": [{"Id": "0", "Code": "New", "SenderFault": False}]})
    (failure,) = BATCHES[call](queue)
    assert (failure.sender_fault, failure.doubtful) == (False, False)


@pytest.mark.parametrize("stored", [True, False])
def test_a_body_that_s3_does_not_say_it_has_is_not_pointed_to(server: Server, stored: bool) -> None:
    """A body that S3 does not confirm is not sent as a pointer."""
    tag = 'ETag: "5d41"\r\n' if stored else ""
    with serving(PiecesServer(f"HTTP/1.1 200 OK\r\n{tag}Content-Length: 0\r\n\r\n".encode(), closes=False)) as s3:
        where = {"endpoint_url": server.endpoint, "s3_endpoint_url": s3.endpoint}
        queue = SQSQueue(URL, region="us-east-1", payload_buckets=["bucket"], **where, **KEYS)
        message = OutgoingMessage("x" * (MAX_MESSAGE_BYTES + 1))
        if stored:
            assert queue.send([message]) == []
        else:
            with pytest.raises(QueueError, match=r"s3:PutObject on bucket 'bucket' failed \(UnexpectedResponse"):
                queue.send([message])
        assert [action for _, action, _ in server.seen] == ["SendMessageBatch"] * stored


def test_a_client_is_dropped_once(shared_clients: None) -> None:
    """Of several threads with expired credentials, only one replaces the client."""
    connection = Connection("s3", "us-east-1", None, "key", "secret", None)
    first = clients.clients.get(connection)
    assert clients.clients.get(connection) is first
    clients.clients.drop(connection, first)
    second = clients.clients.get(connection)
    assert second is not first
    clients.clients.drop(connection, first)
    assert clients.clients.get(connection) is second


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b"", b"[]", b'{"Datapoints": 5}'])
def test_an_age_that_cloudwatch_does_not_tell_is_none(
    server: Server, queue: SQSQueue, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any answer that is not CloudWatch's gives no age."""
    content = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
    with serving(PiecesServer(content)) as cloudwatch:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", cloudwatch.endpoint)
        monkeypatch.setattr(clients.clients, "_clients", dict(clients.clients._clients))
        assert oldest_message_age(queue) is None
        assert cloudwatch.seen
