"""What the signer makes of a request, beside what botocore's own makes of it."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from botocore.auth import SigV4Auth
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.signer import Keys, Signer

#: What botocore leaves out or puts in itself.
NOT_OURS = {"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id", "authorization", "x-amz-date", "host"}
NOT_OURS |= {"x-amz-security-token", "x-amz-content-sha256", "date"}
NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,20}\Z").filter(lambda name: name.lower() not in NOT_OURS)
VALUES = st.from_regex(r"\A[!-~]+( [!-~]+)*\Z")
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6, unique_by=lambda header: header[0].lower()).map(dict)
SECRETS = st.sampled_from(["secret", "sécret", "another"])
NOWS = st.datetimes(datetime(2014, 1, 1), datetime(2014, 1, 3), timezones=st.just(timezone.utc))


def request(headers: dict[str, str], body: bytes, path: str) -> SimpleNamespace:
    return SimpleNamespace(
        method="POST",
        url=f"https://sqs.example.com{path}",
        headers={"Host": "sqs.example.com", **headers},
        body=body,
        params=None,
        context={},
    )


@given(
    st.lists(
        st.tuples(
            HEADERS,
            st.binary(max_size=50),
            st.sampled_from(["/", "/aws/sqs", "/a b"]),
            SECRETS,
            st.sampled_from([None, "token"]),
            NOWS,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_it_signs_as_botocore_does(
    requests: list[tuple[dict[str, str], bytes, str, str, str | None, datetime]],
) -> None:
    """Whatever headers, body and path; the key that it has kept is never that of another day or secret."""
    keys: Keys = {}
    for headers, body, path, secret, token, now in requests:
        credentials = ReadOnlyCredentials("AKID", secret, token)
        ours, theirs = request(headers, body, path), request(headers, body, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("botocore.auth.get_current_datetime", lambda now=now: now)
            Signer(credentials, "sqs", "eu-west-1", keys).add_auth(ours)
            SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(theirs)
        assert ours.headers == theirs.headers
        assert len(keys) == 1
