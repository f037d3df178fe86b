"""Every decoder, with a body that it reads: what each way of an event has to bring back."""

from __future__ import annotations

from functools import partial
from typing import Any

from balog_celery.events.decoders import At, Attribute, JSONMapping, auto, cloudevents, eventbridge, s3, sns
from balog_celery.events.decoders import json as any_json
from balog_celery.events.records import decode
from engines import DATA, sample
from sample_events import event_text

#: Samples that no kind is known of without a mapping.
UNKNOWN = ("github-push", "shopify-order", "stripe", "segment")

#: A decoder, a body that it reads, and the message attributes that it needs.
CASES: dict[str, tuple[Any, str, dict[str, str]]] = {
    **{
        f"auto:{path.stem}": (auto, path.read_text(encoding="utf-8"), {})
        for path in sorted(DATA.glob("*.json"))
        if path.stem not in UNKNOWN
    },
    **{f"mapping:{name}": (JSONMapping(cls_type="thing"), sample(name), {}) for name in UNKNOWN},
    "auto:record": (auto, event_text(), {}),
    "auto:binary": (auto, '{"n": 1}', {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "s", "ce-id": "1"}),
    "auto:lambda": (auto, "{}", {"RequestID": "r", "ErrorCode": "500", "ErrorMessage": "m"}),
    "balog": (partial(lambda body: [decode(body)]), event_text(), {}),
    "cloudevents": (cloudevents, sample("cloudevents-batch"), {}),
    "eventbridge": (eventbridge, sample("eventbridge-ec2"), {}),
    "json": (any_json, '{"n": 1}', {}),
    "json:record": (any_json, event_text(), {}),
    "s3": (s3, sample("s3"), {}),
    "sns": (sns, sample("sns-s3"), {}),
    "sns:json": (partial(sns, inner=any_json), sample("sns-s3"), {}),
    "constant": (JSONMapping(cls_type="thing", id=At("id")), '{"id": 1, "x": "boom"}', {}),
    "no id": (JSONMapping(cls_type="thing"), '{"x": "boom"}', {}),
    "attribute": (JSONMapping(cls_type=Attribute("X-GitHub-Event")), '{"x": 1}', {"X-GitHub-Event": "push"}),
    "each": (JSONMapping(cls_type="thing", each=At("records")), '{"records": [{"n": 1}, {"n": 2}]}', {}),
    "user's": (lambda body: [decode(event_text(name, "order")) for name in ("a", "b")], "whatever", {}),
}
