"""Models of payloads with pydantic's own options."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ConfigDict, Field, model_serializer
from pydantic.alias_generators import to_camel

from balog_celery import RecordError, get_logger
from balog_celery.events.payloads import Payload
from balog_celery.events.records import as_event, decode
from balog_celery.producer.logger import make_record


class Placed(Payload):
    """Its keys are written in another way."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    cls_type: Literal["models.placed"] = "models.placed"
    order_id: int


class Kept(Payload):
    """A part of it is not written."""

    cls_type: Literal["models.kept"] = "models.kept"
    secret: str | None = Field(None, exclude=True)
    note: str | None = None


class Wrapped(Payload):
    """Writes itself."""

    cls_type: Literal["models.wrapped"] = "models.wrapped"
    note: str | None = None

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {"of": "itself"}


class NoObject(Payload):
    """Is written as no object."""

    cls_type: Literal["models.no_object"] = "models.no_object"

    @model_serializer
    def _write(self) -> str:
        return "x"


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (Placed(order_id=3), {"cls_type": "models.placed", "orderId": 3}),
        (Kept(secret="x"), {"cls_type": "models.kept"}),
        (Kept(), {"cls_type": "models.kept"}),
        (Wrapped(), {"cls_type": "models.wrapped", "of": "itself"}),
    ],
)
def test_the_type_is_always_written(payload: Payload, content: dict[str, Any]) -> None:
    """Under its name, by which consumers choose; the rest as the model says."""
    assert as_event(decode(make_record("a", payload)))["payload"] == content


def test_a_model_that_is_no_object_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By those who send, and reported by the logger."""
    with pytest.raises(RecordError, match="NoObject is not written as an object"):
        make_record("a", NoObject())
    get_logger("a").error("done", payload=NoObject())
    assert "NoObject is not written as an object" in caplog.text
