"""A scripted SQS in a process of its own: ``python -m scripted_sqs --port 8000``.

Beside the SQS API each port answers

- ``/load/QUEUE/COUNT``: let COUNT more messages be received; ``/load/QUEUE/COUNT/BYTES``, the first time: larger ones,
  ``/load/QUEUE/COUNT/BYTES/GROUPS``: in this many message groups,
- ``/counts/QUEUE``: what has happened to it, and the CPU time of this process,
- ``/dump/QUEUE``, ``/deleted/QUEUE``: the messages that it holds, and that were deleted,
- ``/fault`` with a JSON body: order a :class:`~.script.Fault`; ``/release``: end them,
- ``/advance/SECONDS``: move the clock on,
- ``/faults/on``, ``/faults/off``, ``/faults``: faults by chance, of the kinds that ``--chance`` names; their counts,
- ``/credentials``: credentials that change, if ``--rotate`` says so: others than the last two are refused.

``--clean-port`` serves the same queues without faults, for who feeds and counts.
"""

from __future__ import annotations

import argparse
import asyncio

from .control import Process


async def main(options: argparse.Namespace) -> None:
    """Serve until killed."""
    process = Process(options)
    servers = [await process.sqs.listen(options.port)]
    if options.clean_port:
        servers.append(await process.sqs.listen(options.clean_port, faulty=False))
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripted_sqs", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="where calls may go wrong")
    parser.add_argument("--clean-port", type=int, default=0, help="where they do not")
    parser.add_argument("--distance", type=float, default=0.0, help="seconds by which answers come later")
    parser.add_argument("--bench", action="store_true", help="every queue exists, and no deleted message is kept")
    parser.add_argument("--chance", default="", help="kinds of fault by chance, with commas")
    parser.add_argument("--seed", type=int, default=1, help="of every draw")
    parser.add_argument("--gap", type=float, default=1.0, help="how many times rarer than usual faults are")
    parser.add_argument("--rotate", type=float, default=0.0, help="seconds for which credentials are given out")
    asyncio.run(main(parser.parse_args()))
