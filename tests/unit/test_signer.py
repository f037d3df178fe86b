"""What the signer makes of a request, beside what botocore's own makes of it."""

from __future__ import annotations

from types import SimpleNamespace

from botocore.auth import SigV4Auth
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.signer import Keys, Signer

#: What botocore leaves out or puts in itself.
NOT_OURS = {"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id", "authorization", "x-amz-date", "host"}
NOT_OURS |= {"x-amz-security-token", "x-amz-content-sha256", "date"}
NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,20}\Z").filter(lambda name: name.lower() not in NOT_OURS)
VALUES = st.from_regex(r"\A[ -~]*\Z")
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6, unique_by=lambda header: header[0].lower()).map(dict)
SECRETS = st.sampled_from(["secret", "sécret", "another"])
TIMES = st.sampled_from(["20141007T150651Z", "20141007T235959Z", "20141008T000000Z"])


class At(dict[str, str]):
    """A request's context at a time of its own, whatever the clock says."""

    def __setitem__(self, name: str, value: str) -> None:
        if name != "timestamp":
            super().__setitem__(name, value)


def request(headers: dict[str, str], body: bytes, path: str, time: str) -> SimpleNamespace:
    return SimpleNamespace(
        method="POST",
        url=f"https://sqs.example.com{path}",
        headers={"Host": "sqs.example.com", **headers},
        body=body,
        params=None,
        context=At(timestamp=time),
    )


@given(
    st.lists(
        st.tuples(
            HEADERS,
            st.binary(max_size=50),
            st.sampled_from(["/", "/aws/sqs", "/a b"]),
            SECRETS,
            st.sampled_from([None, "token", " to  ken "]),
            TIMES,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_it_signs_as_botocore_does(
    requests: list[tuple[dict[str, str], bytes, str, str, str | None, str]],
) -> None:
    """Whatever headers, body and path; the key that it has kept is never that of another day or secret."""
    keys: Keys = {}
    for headers, body, path, secret, token, time in requests:
        credentials = ReadOnlyCredentials("AKID", secret, token)
        ours, theirs = request(headers, body, path, time), request(headers, body, path, time)
        Signer(credentials, "sqs", "eu-west-1", keys).add_auth(ours)
        SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(theirs)
        # The date is the clock's, and not what is signed here.
        assert ours.headers["Authorization"] == theirs.headers["Authorization"]
        assert ours.headers.keys() == theirs.headers.keys()
        assert len(keys) == 1
