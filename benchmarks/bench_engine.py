"""Figures 1 to 3: the engine's CPU per event, against plain boto3 and kombu, and against a naive loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench_base import BenchSqs, Child, Figure, Options, median, ratios, servers, work_off

Rounds = dict[str, list[dict[str, float]]]

_ROLES = ("floor", "floor_publish_bytes", "floor_publish", "engine_hand_off", "engine_publish", "naive")
_measured: dict[Options, Rounds] = {}


@contextmanager
def hand_off_engine(env: dict[str, str | None], limit: int | None = None) -> Iterator[Child]:
    """Run an engine that hands its tasks to a process which reports them as done at once."""
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    with ExitStack() as stack:
        acker_env = {**env, "BENCH_FD": str(fd), "BENCH_LIMIT": str(limit) if limit else None}
        stack.callback(Child("acker", acker_env, fds=[fd]).close)
        fd = ours.fileno()
        stack.callback((engine := Child("engine_hand_off", {**env, "BENCH_FD": str(fd)}, fds=[fd])).close)
        ours.close()
        theirs.close()
        yield engine


def measure(options: Options) -> Rounds:
    """Measure all sides round by round, once for all of their figures."""
    if options in _measured:
        return _measured[options]
    rounds, events = options.pick(7, 3), options.pick(3000, 1000)
    results: Rounds = {role: [] for role in _ROLES}
    with ExitStack() as stack:
        sqs = stack.enter_context(BenchSqs())
        valkey = stack.enter_context(servers.Valkey())
        status = str(sqs.dir)
        env = {
            **sqs.env,
            "BENCH_BROKER": valkey.url,
            "BENCH_HIGH_WATER": "100000000",
            "BENCH_STATUS_DIR": status,
        }
        children = {role: _child(role, env, stack) for role in _ROLES}

        def forget_tasks() -> None:
            with valkey.client() as client:
                client.delete("celery")

        for child in children.values():  # the first calls of each open connections and fill caches
            work_off(sqs, child, 200, forget_tasks)
        for number in range(rounds):
            order = _ROLES if number % 2 == 0 else tuple(reversed(_ROLES))
            for role in order:
                count = events // 3 if role == "naive" else events
                before = sqs.counts(role)["cpu"]
                result = work_off(sqs, children[role], count, forget_tasks)
                sqs_cpu = (sqs.counts(role)["cpu"] - before) / count * 1e6
                results[role].append({**result, "sqs_us": sqs_cpu})
    _measured[options] = results
    return results


def _child(role: str, env: dict[str, str | None], stack: ExitStack) -> Child:
    if role == "engine_hand_off":
        return stack.enter_context(hand_off_engine(env))
    child = Child(role, env)
    stack.callback(child.close)
    return child


def us(results: Rounds, role: str) -> list[float]:
    """Return the CPU per event of *role* in each round, in microseconds."""
    return [result["us"] for result in results[role]]


def _sides(results: Rounds, *roles: str) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for role in roles:
        sides[f"{role}_us"] = median(us(results, role))
        sides[f"{role}_range_us"] = [round(min(us(results, role))), round(max(us(results, role)))]
        for key in ("events_per_receive", "events_per_delete", "wall_us", "sqs_us"):
            sides[f"{role}_{key}"] = median(result[key] for result in results[role])
    return sides


def engine_hand_off(options: Options) -> Figure:
    """Compare the engine with hand-off to receiving and deleting alone."""
    results = measure(options)
    value = median(ratios(us(results, "engine_hand_off"), us(results, "floor")))
    return Figure("engine-hand-off", value, "<= 1.25", _sides(results, "engine_hand_off", "floor"))


def engine_publish(options: Options) -> Figure:
    """Compare the publishing engine to receiving, deleting and publishing prebuilt messages."""
    results = measure(options)
    engine = us(results, "engine_publish")
    value = median(ratios(engine, us(results, "floor_publish_bytes")))
    sides = _sides(results, "engine_publish", "floor_publish_bytes", "floor_publish")
    sides["ratio_if_kombu_encodes_the_bodies"] = median(ratios(engine, us(results, "floor_publish")))
    return Figure("engine-publish", value, "<= 1.25", sides)


def naive_vs_hand_off(options: Options) -> Figure:
    """Compare the naive loop to hand-off."""
    results = measure(options)
    value = median(ratios(us(results, "naive"), us(results, "engine_hand_off")))
    return Figure("naive-vs-hand-off", value, ">= 10", _sides(results, "naive", "engine_hand_off"))


def naive_vs_publish(options: Options) -> Figure:
    """Compare the naive loop to the publishing engine."""
    results = measure(options)
    value = median(ratios(us(results, "naive"), us(results, "engine_publish")))
    return Figure("naive-vs-publish", value, ">= 6", _sides(results, "naive", "engine_publish"))


FIGURES = {
    "engine-hand-off": engine_hand_off,
    "engine-publish": engine_publish,
    "naive-vs-hand-off": naive_vs_hand_off,
    "naive-vs-publish": naive_vs_publish,
}
