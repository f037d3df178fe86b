"""Nothing is lost: faults injected, counted, survived.

A real worker with its engine, a real broker, and an SQS of our own behind a fault injector. Events are fed; meanwhile
SQS answers wrongly, late, twice or not at all, and processes are killed and frozen. In the end every event must have
been finished by each consumer that wants it, or be a dead letter that says whose::

    python benchmarks/faults.py --events 2500 --seed 1
    python benchmarks/faults.py --events 100000 --seed 1 --gap 10 --seconds 3000 --grace 300
    python benchmarks/faults.py --events 500 --seed 1 --delete-before-dispatch    # must lose: shows that it can

Exit code 1 if events were lost. The SQS is ``fake_sqs.py``, which says what of SQS it keeps: the store behind its
faults is our own, as moto takes time in proportion to its backlog; it never holds more than 2,000 messages. Faults end
when all was sent, every kind was tried, and most has ended; what is then under way has ``--grace`` seconds.

``--gap`` makes every fault rarer, for runs of many events: otherwise nearly all of the time goes into restarting what
was killed. With 10 a run of 100,000 events still sees each kind of kill several times, and SQS go wrong by the
thousand. ``README.md`` has the figures of the last runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from director import Director, Worker
from fault_account import Account, Pair
from fault_brokers import fallen_through, is_empty, make_broker, servers, tasks_left
from fault_project import BROKER_VISIBILITY, SQS_VISIBILITY, TOPIC, bodies, event_id_of, write_project

from balog_celery.tasks import task_id

ROOT = Path(__file__).resolve().parent.parent
#: How many messages the queue may hold before feeding waits.
BACKLOG = 2000
#: Faults go on until so much of everything has ended: what is done after them shows little.
MOSTLY = 0.8
#: After so many quiet seconds nothing more is to be expected: everything would have been delivered again, twice.
QUIET = 2.0 * max(SQS_VISIBILITY, BROKER_VISIBILITY) + 5.0
#: What should never be in a log, and is counted.
ALARMS = ("unexpected error", "settled twice", "the poller of", "there is no dead-letter queue for it")


class SqsProcess:
    """The fake SQS in its own process, seen from its clean side."""

    def __init__(self, seed: int, gap: float) -> None:
        self.faulty, self.clean = servers.free_port(), servers.free_port()
        argv = [sys.executable, Path(__file__).with_name("fake_sqs.py"), self.faulty, self.clean, seed, gap]
        self._program = servers.Program(list(map(str, argv)), name="fake_sqs")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def env(self) -> dict[str, str]:
        """By which the worker's boto3 finds its faulty side."""
        return {
            "AWS_ENDPOINT_URL_SQS": f"http://127.0.0.1:{self.faulty}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def get(self, path: str) -> Any:
        """Ask its control side."""
        with self._opener.open(f"http://127.0.0.1:{self.clean}{path}", timeout=20) as response:
            return json.load(response)

    def call(self, action: str, **asked: Any) -> Any:
        """Make a call of the SQS API."""
        headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "application/x-amz-json-1.0"}
        url = f"http://127.0.0.1:{self.clean}/"
        request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
        with self._opener.open(request, timeout=20) as response:
            return json.load(response)

    def send(self, texts: list[str]) -> None:
        """Put up to ten messages on the topic."""
        entries = [{"Id": str(number), "MessageBody": text} for number, text in enumerate(texts)]
        self.call("SendMessageBatch", QueueUrl=TOPIC, Entries=entries)

    def held(self) -> int:
        """How many messages the topic holds, visible or not."""
        counts = self.call("GetQueueAttributes", QueueUrl=TOPIC)["Attributes"]
        return sum(int(value) for name, value in counts.items() if name.startswith("Approximate"))

    def __enter__(self) -> SqsProcess:
        self._program.start()
        servers.wait_until(self._answers, 20, "the fake SQS")
        for name in (TOPIC, f"{TOPIC}-dead"):
            self.call("CreateQueue", QueueName=name)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.__exit__(None, None, None)

    def _answers(self) -> bool:
        try:
            self.get("/counts")
        except OSError:
            return False
        return True


class Run:
    """One run: feeds, lets the director act, and watches until all ended, nothing moves any more, or time is up."""

    def __init__(self, options: argparse.Namespace, sqs: SqsProcess, director: Director, account: Account) -> None:
        self._options = options
        self._sqs = sqs
        self._director = director
        self._account = account
        self._events = bodies(options.events, options.seed)
        self._started = time.monotonic()
        self._deadline = self._started + options.seconds
        self._looked_at = 0.0
        self._look_at_dead_at = 0.0
        self._room = 0
        self._moved_at = self._started
        self._was = 0
        self.seconds_with_faults = 0.0

    def until_all_is_sent(self) -> None:
        """With faults: feed everything, try every kind at least once, and have most of it done."""
        self._sqs.get("/faults/on")
        while not self._out_of_time(self._options.grace):
            self._director.tick(act=True)
            self._look()
            if not self._feed() and self._director.done >= self._director.round_length and self._mostly_ended:
                break
        self._sqs.get("/faults/off")
        self.seconds_with_faults = self.seconds

    def until_all_has_ended(self, broker: servers.Server) -> None:
        """Without faults: wait for what is under way."""
        self._moved_at = time.monotonic()
        limit = self._moved_at + self._options.grace
        while (
            (self._director.busy or self._was < len(self._account.expected))
            and not self._out_of_time()
            and time.monotonic() < limit
        ):
            self._director.tick(act=False)
            self._look()
            quiet = time.monotonic() - self._moved_at
            if quiet > QUIET or (quiet > 5.0 and not self._director.busy and self._nothing_left(broker)):
                return

    @property
    def seconds(self) -> float:
        """How long it took."""
        return round(time.monotonic() - self._started, 1)

    @property
    def _mostly_ended(self) -> bool:
        return self._was >= MOSTLY * len(self._account.expected)

    def _out_of_time(self, reserve: float = 0.0) -> bool:
        return bool(time.monotonic() > self._deadline - reserve)

    def _nothing_left(self, broker: servers.Server) -> bool:
        return self._sqs.held() == 0 and is_empty(broker) is True

    def _feed(self) -> bool:
        """Send some more, as many as the director's progress and the backlog allow; False when all is sent."""
        allowed = self._options.events * (self._director.done + 1) / self._director.round_length
        if self._room <= 0:
            self._room = BACKLOG - self._sqs.held()
        if self._account.sent >= allowed or self._room <= 0:
            time.sleep(0.05)
            return True
        some = list(itertools.islice(self._events, 10))
        self._room -= len(some)
        for event_id, kind, _ in some:
            self._account.send(event_id, kind)
        if some:
            self._sqs.send([body for _, _, body in some])
        else:
            time.sleep(0.05)
        return bool(some)

    def _look(self) -> None:
        """Read what happened, a few times a second."""
        now = time.monotonic()
        if now < self._looked_at + 0.25:
            time.sleep(0.01)
            return
        self._looked_at = now
        self._account.read_ledger()
        if now >= self._look_at_dead_at:
            self._account.read_dead(self._sqs.get(f"/dump/{TOPIC}-dead"))
            # All of them are read each time, so it must not become what takes the time.
            self._look_at_dead_at = now + 20 * (time.monotonic() - now)
        ended = len(self._account.finished) + len(self._account.dead)
        if ended != self._was:
            self._was, self._moved_at = ended, now
        if self._options.progress:
            print(f"\r{ended} of {len(self._account.expected)} ended", end="", file=sys.stderr, flush=True)


def remaining(account: Account, sqs: SqsProcess, broker: servers.Server) -> set[Pair]:
    """The open pairs that are still in the queue or in the broker. Ask when no worker runs."""
    queued = {event_id_of(message["body"]) for message in sqs.get(f"/dump/{TOPIC}")}
    return pairs_of(account, tasks_left(broker)) | {pair for pair in account.open if pair[1] in queued}


def pairs_of(account: Account, tasks: set[str]) -> set[Pair]:
    """The open pairs that these tasks are for."""
    return {pair for pair in account.open if task_id(pair[1], f"proj.consumers.{pair[0]}") in tasks}


def given_up_in_log(account: Account, log: str) -> set[Pair]:
    """The open pairs that failed for good, and of which the log alone has the event."""
    lines = re.findall(r"proj\.consumers\.(\w+) failed for good on event (\w+) .*The event: ", log)
    return account.open & set(lines)


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it in *folder*; return the figures."""
    broker = make_broker(options.broker)
    with broker, SqsProcess(options.seed, options.gap) as sqs:
        ledger = write_project(folder, broker.url, options.dispatch, redis=options.broker == "valkey")
        env = {**sqs.env, "FAULTS_LEDGER": str(ledger), "FAULTS_BATCH": str(options.batch), "PYTHONPATH": str(ROOT)}
        if options.delete_before_dispatch:
            env["FAULTS_DELETE_FIRST"] = "1"
        with Worker(folder, env) as worker:
            worker.start()
            account = Account(ledger)
            director = Director(worker, broker, options.seed, options.gap)
            the_run = Run(options, sqs, director, account)
            the_run.until_all_is_sent()
            the_run.until_all_has_ended(broker)
            worker.kill_all()
            broker.thaw()
            account.read_ledger()
            account.read_dead(sqs.get(f"/dump/{TOPIC}-dead"))
            left = remaining(account, sqs, broker.start())
            fallen = pairs_of(account, fallen_through(broker))
            faults = Counter(sqs.get("/counts")) + director.counts
            log = worker.log()
            if options.keep:
                (options.keep / "worker.log").write_text(log)
                for name, pairs in (("lost", account.open - left), ("remaining", account.open & left)):
                    (options.keep / f"{name}.txt").write_text("".join(f"{pair}\n" for pair in sorted(pairs)))
                shutil.copy(ledger, options.keep)
                shutil.copytree(broker.dir, options.keep / "broker", ignore=lambda *_: ["s"], dirs_exist_ok=True)
    return {
        **account.figures(left, fallen),
        "lost_but_logged": len(given_up_in_log(account, log)),
        "faults": dict(sorted(faults.items())),
        "alarms": {alarm: count for alarm in ALARMS if (count := len(re.findall(re.escape(alarm), log)))},
        "seconds": the_run.seconds,
        "seconds_with_faults": the_run.seconds_with_faults,
    }


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Nothing is lost: faults injected, counted, survived.")
    parser.add_argument("--events", type=int, default=2500, help="how many to send")
    parser.add_argument("--seed", type=int, default=1, help="of every draw")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--dispatch", choices=["hand-off", "publish"], default="hand-off")
    parser.add_argument("--batch", type=int, default=0, help="let one of the consumers get so many events at once")
    parser.add_argument("--gap", type=float, default=1.0, help="how many times rarer than usual faults are")
    parser.add_argument("--seconds", type=float, default=600.0, help="end after so many, whatever is left")
    parser.add_argument("--grace", type=float, default=90.0, help="how many of them are without faults, at most")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--delete-before-dispatch", action="store_true", help="break it: delete what was received")
    parser.add_argument("--keep", type=Path, help="keep logs, ledger and the broker's files in this folder")
    parser.add_argument("--progress", action="store_true", help="show how far it is")
    return parser.parse_args()


def main() -> int:
    """Run it, print the figures; 1 if anything was lost."""
    options = arguments()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        figures = run(options, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
