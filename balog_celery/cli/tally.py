"""The result of a replay: counts, and how they are printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from . import output
from .group import EX_INTERRUPTED

#: The reason of a replay that Ctrl-C stopped.
INTERRUPTED = "interrupted"


class Tally:
    """The counts of one replay."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.replayed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.not_meant = 0
        self.no_consumer = 0
        self.again = 0
        #: The keys of the letters that were replayed.
        self.seen: set[tuple[str, str]] = set()
        self.stopped = ""

    def show(self, as_json: bool) -> None:
        """Print the counts. Exit with 1 if a selected event was not replayed, with 130 after Ctrl-C."""
        text = "\n".join(self._lines())
        done = "" if self.dry_run else text.partition("\n")[0]
        if as_json:
            found = {
                "dry_run": self.dry_run,
                "replayed": dict(self.replayed),
                "left": dict(self.left),
                "not_meant": self.not_meant,
                "again": self.again,
                "stopped": self.stopped,
            }
            output.document(found, done=done)
        else:
            output.echo(text, done=done)
            if self.stopped:
                stopped = click.style("stopped", fg="red")
                click.echo(f"{stopped}: {self.stopped}; the other events are where they were", err=True)
        if self.stopped:
            raise SystemExit(EX_INTERRUPTED if self.stopped == INTERRUPTED else 1)
        if self.left:
            raise SystemExit(1)

    def _lines(self) -> Iterator[str]:
        would = "would replay" if self.dry_run else "replayed"
        left = self.left.total() + self.not_meant + self.again
        yield f"{would} {self.replayed.total()}, {'leave' if self.dry_run else 'left'} {left}"
        for destination, count in sorted(self.replayed.items()):
            yield f"  {click.style(str(count), fg='green')} to {destination}"
        for reason, count in sorted(self.left.items()):
            yield f"  {click.style(str(count), fg='yellow')} left: {reason}"
        if self.not_meant:
            yield f"  {self.not_meant} left: not selected by the options"
        if self.no_consumer:
            yield f"    {self.no_consumer} of these failed for no consumer: without --consumer they go to their topic"
        if self.again:
            yield f"  {self.again} left: they repeat the event and consumer of another; replay again for these"
