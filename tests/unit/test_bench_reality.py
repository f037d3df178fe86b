"""The benchmark of TLS, distance and large messages: both sides do the same, and the table says what was measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from balog_celery.sqs.answers import read_answer
from balog_celery.sqs.received import read_messages
from scripted_sqs.certificates import server_context
from scripted_sqs.raw import KEYS, serving

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What imports its modules, which are found from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_both_sides_receive_and_delete_what_the_server_gives(
    bench: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_clients: None,
) -> None:
    """Over TLS, the fast path and boto3 get ten messages and delete them, and their CPU is written."""
    servers, calls = bench("reality_server"), bench("reality_calls")
    server = servers.CannedSqs(servers.answer_of("0.6 kB"), 0.0)
    server.socket = server_context(pem := tmp_path / "cert.pem").wrap_socket(server.socket, server_side=True)
    for name, value in {**KEYS, "aws_ca_bundle": str(pem), "aws_default_region": "us-east-1"}.items():
        monkeypatch.setenv(name.upper(), value)
    with serving(server):
        calls.call_in_turns({"0.6 kB": {"TLS": server.server_port}}, 1)
    (kind, way, ours, theirs) = json.loads(capsys.readouterr().out)
    assert (kind, way) == ("0.6 kB", "TLS")
    assert 0 < ours[0] < theirs[0]


def test_the_value_is_the_worst_of_the_largest_messages(bench: Any) -> None:
    """A ratio is the median of the rounds', and the figure's value the largest one of messages of 1 MiB."""
    calls = bench("reality_calls")
    small = ["0.6 kB", "TLS", [300.0], [100.0]]
    text, escaped = (
        ["1 MiB of text", "TLS", [10.0, 9.0, 80.0], [20.0, 10.0, 100.0]],
        ["1 MiB of x", "HTTP", [4.0], [5.0]],
    )
    part = calls.compared([small, text, escaped])
    assert calls.worst(part.sides) == 0.8
    assert "| 10 x 1 MiB of text | TLS | 10 | 20 | 0.80 |" in part.table


def test_an_answer_is_as_large_as_sqs_allows(bench: Any) -> None:
    """An answer has ten different messages, whose bodies are at most 1 MiB of UTF-8, and which a receive returns."""
    servers = bench("reality_server")
    answer = servers.answer_of("1 MiB of emoji, escaped")
    messages = json.loads(answer)["Messages"]
    assert (
        len(read_messages(read_answer("ReceiveMessage", answer)["Messages"], 0.0, compare=True, in_order=False)) == 10
    )
    assert len({message["ReceiptHandle"] for message in messages}) == 10
    assert 1_040_000 < len(messages[0]["Body"].encode()) <= 1_048_576
