"""Credentials that have expired although they were just refreshed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials

from balog_celery.errors import QueueError
from balog_celery.sqs.endpoints import Connection
from balog_celery.sqs.translation import calling_s3, calling_sqs


def expired() -> dict[str, Any]:
    """What a provider answers whose credentials have expired."""
    time = (datetime.now(timezone.utc) - timedelta(minutes=1)).isoformat()
    return {"access_key": "AKIA", "secret_key": "secret", "token": "token", "expiry_time": time}


@pytest.mark.parametrize("calling", [calling_sqs, calling_s3])
def test_credentials_that_are_refreshed_too_late_are_an_expired_token(calling: Any) -> None:
    """botocore's RuntimeError for them is an expired token, which is tried again; any other is raised as it is."""
    connection = Connection(calling.__name__.removeprefix("calling_"), "us-east-1", None, "key", "secret", None)
    credentials = RefreshableCredentials.create_from_metadata(expired(), refresh_using=expired, method="container-role")

    with pytest.raises(QueueError, match="still expired") as raised, calling(connection, "name", "Permission"):
        credentials.get_frozen_credentials()
    assert raised.value.code == "ExpiredToken"

    with pytest.raises(RuntimeError, match="another"), calling(connection, "name", "Permission"):
        raise RuntimeError("another")
