"""Nothing is lost: faults injected, counted, survived.

A real worker with its engine, a real broker and result backend, and a scripted SQS behind a fault injector. Events
are fed; meanwhile things go wrong. In the end every event must have been finished by each consumer that wants it, or be
a dead letter that says whose::

    python benchmarks/faults.py --events 2500 --seed 1
    python benchmarks/faults.py --events 100000 --seed 1 --gap 10
    python benchmarks/faults.py --events 1000 --faults backend,nonsense --dispatch publish
    python benchmarks/faults.py --events 500 --seed 1 --delete-before-dispatch    # must lose: shows that it can

``--faults`` names the kinds of fault: all that the dispatch allows, unless it is given. ``README.md`` says what each
kind is, and has the figures of the last runs.

The last lines are ``disordered=`` (of the FIFO topic), ``unexplained=`` (duplicates for which no cause is known) and
``lost=``. Exit code 1 if one of them is not 0; 2 if they are, but the run hangs (for
``--grace`` seconds no event ended, and SQS or the broker still holds some), or ``--seconds`` had passed before all
ended; a slow machine only takes longer. What was lost or left, and what is known of it, is listed before.

The SQS is the scripted one of ``tests/scripted_sqs``; it never holds more than 2,000 messages. Faults end when all was
sent, every action was tried, and most has ended.

``--gap`` makes every fault rarer, for runs of many events: otherwise nearly all of the time goes into restarting what
was killed. With 10 a run of 100,000 events still sees each kind of kill, and SQS go wrong by the thousand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from fault_account import Account, Pair
from fault_brokers import Broker, make_broker, servers
from fault_causes import UNEXPLAINED, duplicates_by_cause
from fault_director import Director
from fault_evidence import FAULTS, in_log, never_happened
from fault_machine import Machine
from fault_project import event_id_of, write_project
from fault_run import Run
from fault_sqs import FaultySqs
from fault_worker import Worker

ROOT = Path(__file__).resolve().parent.parent
#: What should never be in a log, and is counted.
ALARMS = ("unexpected error", "settled twice", "the poller of", "there is no dead-letter queue for it")
#: The most lost or left events that are listed with what is known of them.
SHOWN = 30


def remaining(account: Account, sqs: FaultySqs, broker: Broker, unsent: list[str]) -> set[Pair]:
    """Return the open pairs that are in the queue or the broker, or were not sent. Call this when no worker runs."""
    queued = {event_id_of(message["body"]) for message in sqs.queued()}
    queued.update(map(event_id_of, unsent))
    return (broker.take_tasks() & account.open) | {pair for pair in account.open if pair[1] in queued}


def given_up_in_log(account: Account, log: str) -> set[Pair]:
    """Return the open pairs that failed permanently and whose event is only in the log."""
    lines = re.findall(r"proj\.consumers\.(\w+) failed permanently on event (\w+) .*The event: ", log)
    return account.open & set(lines)


def environment(options: argparse.Namespace, sqs: FaultySqs, machine: Machine, ledger: Path) -> dict[str, str | None]:
    """Return the worker's environment."""
    env = {
        **sqs.env,
        "FAULTS_KINDS": ",".join(options.faults),
        "FAULTS_LEDGER": str(ledger),
        "FAULTS_BATCH": str(options.batch),
        "PYTHONPATH": machine.python_path,
    }
    if options.delete_before_dispatch:
        env["FAULTS_DELETE_FIRST"] = "1"
    if options.run_twice:
        env["FAULTS_RUN_TWICE"] = "1"
    return env


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run in *folder*; return the figures."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(make_broker(options.broker))
        backend = stack.enter_context(servers.Valkey()) if "backend" in options.faults else None
        sqs = stack.enter_context(FaultySqs(options.faults, options.seed, options.gap))
        ledger = write_project(folder, options.dispatch, broker.url, backend.url if backend else None, options.faults)
        machine = Machine(folder, ROOT / "balog_celery", options.other_release)
        env = environment(options, sqs, machine, ledger)
        scales = options.pool == "prefork" and "autoscale" in options.faults
        worker = stack.enter_context(Worker(folder, env, options.pool, scales=scales))
        worker.start()
        account = Account(ledger)
        director = Director(worker, broker, backend, sqs, machine, options.faults, options.seed, options.gap)
        the_run = Run(options, sqs, broker, director, account)
        the_run.until_all_is_sent()
        the_run.until_all_has_ended()
        worker.kill_all()
        broker.thaw()
        account.read_ledger()
        account.read_dead(sqs.dead())
        broker.start()
        director.counts["failed_lookups"] = machine.failed_lookups
        figures = outcome(account, sqs, broker, director, the_run, worker.log())
        if options.keep:
            (options.keep / "worker.log").write_text(worker.log())
            shutil.copy(ledger, options.keep)
            shutil.copytree(broker.dir, options.keep / "broker", ignore=lambda *_: ["s"], dirs_exist_ok=True)
    return figures


def outcome(
    account: Account, sqs: FaultySqs, broker: Broker, director: Director, the_run: Run, log: str
) -> dict[str, Any]:
    """Return the figures. Call this when no worker runs."""
    left, deleted = remaining(account, sqs, broker, the_run.unsent), sqs.deleted()
    lost = account.open - left
    messages = [*sqs.dead(), *deleted, *sqs.queued()]
    faults = Counter(sqs.get("/faults")) + director.counts + in_log(log)
    runs = Counter(name for name, _ in account.runs.elements())
    return {
        **account.figures(left, broker.fallen_through()),
        "duplicates_by_cause": duplicates_by_cause(account, messages, broker.redelivered(), director.disturbances),
        "lost_but_logged": len(given_up_in_log(account, log)),
        "known_of_lost": account.known_of(sorted(lost)[:SHOWN], deleted, "SQS never had it", log),
        "known_of_remaining": account.known_of(sorted(account.open & left)[:SHOWN], deleted, "not deleted", log),
        "hangs": the_run.hangs,
        "faults": dict(sorted(faults.items())),
        "never_happened": never_happened(the_run.options.faults, faults + runs),
        "alarms": {alarm: count for alarm in ALARMS if (count := len(re.findall(re.escape(alarm), log)))},
        "seconds": the_run.seconds,
        "seconds_with_faults": the_run.seconds_with_faults,
    }


def fault_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of fault in a comma-separated list."""
    kinds = tuple(filter(None, text.split(",")))
    if unknown := set(kinds) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(FAULTS)}")
    return kinds


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Nothing is lost: faults injected, counted, survived.")
    parser.add_argument("--events", type=int, default=2500, help="how many to send")
    parser.add_argument("--seed", type=int, default=1, help="of every draw")
    parser.add_argument("--faults", type=fault_kinds, help=f"the kinds of fault, with commas: {','.join(FAULTS)}")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--dispatch", choices=["hand-off", "publish"], default="hand-off")
    parser.add_argument("--pool", choices=["prefork", "threads", "gevent"], default="prefork")
    parser.add_argument("--batch", type=int, default=10, help="the size of batches; 0: no consumer takes batches")
    parser.add_argument("--gap", type=float, default=1.0, help="how many times rarer than usual faults are")
    parser.add_argument("--seconds", type=float, default=math.inf, help="the longest run, in seconds; default: any")
    parser.add_argument("--grace", type=float, default=300.0, help="it hangs if no event ends for this many seconds")
    parser.add_argument("--other-release", type=Path, help="a folder with another release, for the kind versions")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--delete-before-dispatch", action="store_true", help="break it: delete what was received")
    parser.add_argument("--run-twice", action="store_true", help="break it: count each run twice")
    parser.add_argument("--keep", type=Path, help="keep logs, ledger and the broker's files in this folder")
    options = parser.parse_args()
    if options.faults is None:
        # An engine that publishes tasks refuses FIFO topics.
        options.faults = tuple(kind for kind in FAULTS if (kind, options.dispatch) != ("fifo", "publish"))
    return options


def tell(figures: dict[str, Any]) -> None:
    """Print the figures; the ones that decide come last."""
    known = {which: figures[f"known_of_{which}"] for which in ("lost", "remaining")}
    print(json.dumps({name: value for name, value in figures.items() if not name.startswith("known_of_")}, indent=2))
    for which, lines in known.items():
        for line in lines:
            print(f"{which}: {line}")
        if figures[which] > len(lines):
            print(f"{which}: and {figures[which] - len(lines)} more")
    if figures["hangs"]:
        print(f"it hangs: no event has ended for {figures['hangs'].pop('for_seconds')} s. Left: {figures['hangs']}")
    for kind, names in figures["never_happened"].items():
        print(f"never happened: {kind} ({', '.join(names)})")
    print(f"disordered={figures['disordered']}")
    print(f"unexplained={figures['duplicates_by_cause'].get(UNEXPLAINED, 0)}")
    if figures["lost_in_transport"]:
        print(f"lost_in_transport={figures['lost_in_transport']} of them, by kombu's transport for Redis")
    print(f"lost={figures['lost']}")


def main() -> int:
    """Run, and print the figures. Return 1 if any is wrong, 2 if the run hangs or something is left."""
    options = arguments()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        figures = run(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    tell(figures)
    wrong = figures["lost"] or figures["disordered"] or UNEXPLAINED in figures["duplicates_by_cause"]
    return 1 if wrong else 2 if figures["remaining"] or figures["hangs"] else 0


if __name__ == "__main__":
    sys.exit(main())
