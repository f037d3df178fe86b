"""``balog dead replay --native``: SQS itself moves all dead letters of a queue back to their topics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from celery import Celery

from ..dead_letters.scan import QueueScan
from ..errors import BalogError
from ..sqs.addresses import queue_name
from ..sqs.move_tasks import MAX_RATE, NO_SOURCE, MessageMover, MoveTask
from ..sqs.queues import SQSQueue
from ..text import count_of, printable
from . import output
from .dead_queues import DeadLetterQueue, LetterFilter, dead_letter_queues
from .group import EX_INTERRUPTED

#: How many dead letters of a queue are looked at before it is moved.
_SAMPLE = 100
#: The time between two questions how far a task is, in seconds.
_INTERVAL = 1.0


class Move(NamedTuple):
    """A dead-letter queue whose messages SQS can move.

    :param sources: the names of the topics to which they go back.
    :param waiting: about how many there are.
    """

    name: str
    mover: MessageMover
    sources: Sequence[str]
    waiting: int


def replay_natively(
    app: Celery, letters: LetterFilter, *, rate: float | None, all_consumers: bool, dry_run: bool, as_json: bool
) -> None:
    """Move all dead letters of the selected topic, or of all topics, back to where the redrive policy took them.

    :raises click.UsageError: an option asks for what SQS cannot do.
    :raises BalogError: SQS cannot move the letters of a queue as ``dead replay`` would. No queue was moved then.
    """
    if not letters.is_empty or all_consumers:
        raise click.UsageError("--native moves every dead letter to its topic: of the filters it takes only --topic")
    if rate is not None and not (rate.is_integer() and 1 <= rate <= MAX_RATE):
        raise click.UsageError(f"--native takes a whole --rate from 1 to {MAX_RATE}, not {rate:g}")
    moves = [move for source in dead_letter_queues(app, letters.topic) if (move := _plan(app, source, letters.topic))]
    results: list[dict[str, Any]] = []
    for move in moves:
        if dry_run:
            results.append(_result(move, "", 0, move.waiting))
        else:
            results.append(_run(move, None if rate is None else int(rate)))
        if not as_json:
            _print(results[-1])
        if results[-1]["status"] not in ("", "COMPLETED"):
            break
    if as_json:
        output.document(results, done="" if dry_run else "; ".join(map(_moved, results)))
    elif not moves:
        output.echo("there are no dead letters to move")
    if results and (status := results[-1]["status"]) not in ("", "COMPLETED"):
        raise SystemExit(EX_INTERRUPTED if status == "CANCELLED" else 1)


def _plan(app: Celery, source: DeadLetterQueue, topic: str | None) -> Move | None:
    """Return how to move the letters of a queue; None if it is empty.

    :raises BalogError: SQS would not move them, or not to where ``dead replay`` sends them.
    """
    queue = source.queue
    name = printable(queue.name)
    if not isinstance(queue, SQSQueue):
        raise BalogError(f"{name} is not on SQS, which alone has --native: replay without it")
    waiting = int(queue.attributes().get("ApproximateNumberOfMessages", 0))
    if not waiting:
        return None
    mover = MessageMover(queue)
    sources = mover.sources()
    if not sources:
        raise BalogError(f"no redrive policy names {name}, so SQS cannot move its messages: replay without --native")
    selected = app.balog.topics() if topic is None else [topic]
    if others := sorted(sources - set(map(queue_name, selected))):
        raise BalogError(
            f"{name} also takes messages of {printable(', '.join(others))}, which SQS would move as well: "
            "replay without --native"
        )
    if (task := mover.latest()) is not None and task.is_active:
        raise BalogError(
            f"SQS moves the messages of {name} already ({task.moved} of about {task.to_move}): wait for the end of "
            f"that task, or end it: {_how_to_cancel(task)}"
        )
    if _has_sent_letters(queue):
        raise BalogError(
            f"{name} holds dead letters that a worker sent there, each for one consumer; SQS moves only those of its "
            "redrive policy: replay without --native"
        )
    return Move(queue.name, mover, sorted(sources), waiting)


def _has_sent_letters(queue: SQSQueue) -> bool:
    """Return whether there is a letter among the first that was sent to the queue.

    A task that meets one that was not among the first fails there, and moves nothing wrong.
    """
    looked = 0
    with QueueScan(queue) as scan:
        for messages in scan:
            if not all(message.moved_from for message in messages):
                return True
            looked += len(messages)
            if looked >= _SAMPLE:
                break
    return False


def _run(move: Move, rate: int | None) -> dict[str, Any]:
    """Start a task and follow it to its end. Ctrl-C cancels it."""
    before = move.mover.latest()
    earlier = before.started if before is not None else -1
    task: MoveTask | None = None
    try:
        move.mover.start(rate)
        with output.progress(move.waiting, "moving") as advance:
            shown = 0
            while True:
                found = move.mover.latest()
                if found is not None and found.started != earlier:
                    task = found
                    advance(task.moved - shown)
                    shown = task.moved
                    if not task.is_active:
                        break
                time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        return _cancel(move, earlier)
    failure = _explain(move, task) if task.status != "COMPLETED" else ""
    return _result(move, task.status, task.moved, max(task.to_move, task.moved), failure)


def _cancel(move: Move, earlier: int) -> dict[str, Any]:
    """Cancel the task that Ctrl-C has interrupted, if SQS has started it.

    :param earlier: when the task before it was started.
    """
    task = move.mover.latest()
    if task is None or task.started == earlier:
        return _result(move, "CANCELLED", 0, move.waiting)
    moved = task.moved
    if task.is_active:
        try:
            moved = move.mover.cancel(task)
        except BalogError as error:
            raise BalogError(f"SQS goes on moving {move.name}: {error}; end it: {_how_to_cancel(task)}") from error
    return _result(move, "CANCELLED", moved, max(task.to_move, moved))


def _explain(move: Move, task: MoveTask) -> str:
    if task.failure == NO_SOURCE:
        return (
            f"SQS stopped at a dead letter that was sent to {printable(move.name)}, not moved there by a redrive "
            "policy: replay the others without --native"
        )
    return f"SQS stopped: {printable(task.failure or task.status)}"


def _how_to_cancel(task: MoveTask) -> str:
    return f"aws sqs cancel-message-move-task --task-handle {printable(task.handle, 1000)}"


def _result(move: Move, status: str, moved: int, total: int, failure: str = "") -> dict[str, Any]:
    return {
        "queue": move.name,
        "topics": list(move.sources),
        "status": status,
        "moved": moved,
        "total": total,
        "failure": failure,
    }


def _print(result: dict[str, Any]) -> None:
    if not result["status"]:
        output.echo(f"would move about {_of_queue(result)}")
        return
    output.echo(_moved(result), done=_moved(result))
    if result["status"] != "COMPLETED":
        why = result["failure"] or "interrupted"
        click.echo(f"{click.style('stopped', fg='red')}: {why}; the other dead letters are where they were", err=True)


def _moved(result: dict[str, Any]) -> str:
    return f"moved {result['moved']} of about {_of_queue(result)}"


def _of_queue(result: dict[str, Any]) -> str:
    queue, to = printable(result["queue"]), printable(", ".join(result["topics"]))
    return f"{count_of(result['total'], 'dead letter')} of {queue} to {to}"
