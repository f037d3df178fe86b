"""The signer signs as botocore's does; ``test_signature.py`` checks whole requests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.sqs import botocore_compat
from balog_celery.sqs.queues import SQSQueue
from balog_celery.sqs.signature import Signer
from scripted_sqs.raw import KEYS, URL, Server, serving

#: What botocore leaves out or puts in itself.
NOT_OURS = {"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id", "authorization", "x-amz-date", "host"}
NOT_OURS |= {"x-amz-security-token", "x-amz-content-sha256", "date"}
NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,20}\Z").filter(lambda name: name.lower() not in NOT_OURS)
VALUES = st.from_regex(r"\A[ -~]*\Z")
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6, unique_by=lambda header: header[0].lower()).map(dict)
SECRETS = st.sampled_from(["secret", "sécret", "another"])
TIMES = st.datetimes(datetime(2014, 10, 7), datetime(2014, 10, 8, 1), timezones=st.just(timezone.utc))


class At(dict[str, str]):
    """The context of botocore's request, with a fixed time."""

    def __setitem__(self, name: str, value: str) -> None:
        if name != "timestamp":
            super().__setitem__(name, value)


@given(
    st.sampled_from(["/", "/aws/sqs", "/a b", "//a/", "/a/../é", "/a%20b;c=d"]),
    st.lists(
        st.tuples(HEADERS, st.binary(max_size=50), SECRETS, st.sampled_from([None, "token", " to  ken "]), TIMES),
        min_size=1,
        max_size=4,
    ),
)
def test_it_signs_as_botocore_does(
    path: str, requests: list[tuple[dict[str, str], bytes, str, str | None, datetime]]
) -> None:
    """Signatures equal botocore's for any headers, body and path, also after the cached key's day or secret changed."""
    url = f"https://sqs.example.com{path}"
    signer = Signer("sqs", "eu-west-1", botocore_compat.signed_path(url))
    for headers, body, secret, token, time in requests:
        credentials = ReadOnlyCredentials("AKID", secret, token)
        ours = {"Host": "sqs.example.com", **headers}
        signer.sign(ours, body, credentials, time)
        theirs = SimpleNamespace(
            method="POST",
            url=url,
            headers={"Host": "sqs.example.com", **headers},
            body=body,
            params=None,
            context=At(timestamp=time.strftime(SIGV4_TIMESTAMP)),
        )
        SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(theirs)
        theirs.headers["X-Amz-Date"] = ours["X-Amz-Date"]  # the clock's, but not what botocore signed here
        assert ours == theirs.headers


@pytest.mark.usefixtures("own_clients")
def test_a_request_is_signed_with_the_current_time() -> None:
    """The date of a request is now, in UTC."""
    with serving(Server()) as server:
        SQSQueue(URL, region="eu-west-1", endpoint_url=server.endpoint, **KEYS).attributes()  # type: ignore[arg-type]
        date = {name.lower(): value for name, value in server.headers[0].items()}["x-amz-date"]
    time = datetime.strptime(date, SIGV4_TIMESTAMP).replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - time) < timedelta(seconds=60)
