"""What ``mezzo --help`` shows, told without importing what the commands need: that takes longer than to read it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.util import find_spec

import typer

SUMMARIES = {
    "setup": "Look at this machine and write a configuration that works on it to standard output.",
    "serve": "Run a node: its shards and its gRPC front-end, kept running until SIGTERM or SIGINT.",
    "shard": "Run a shard: store KV chunks on devices and serve them until SIGTERM or SIGINT.",
    "frontend": "Run a gRPC front-end of a shard until SIGTERM or SIGINT.",
    "key": "Make and change the master key of encryption at rest.",
    "meta": "Look after the metadata engine, and serve it to a pod.",
    "pod": "Look at a pod; empty a shard, take it back, make shares even.",
    "locate": "Tell which shard has a chunk, if it is there: by its key alone, without asking any.",
    "tenant": "Make, list, change and delete tenants. A LIMIT is HARD, SOFT:HARD or none.",
    "namespace": "Open, list, change, purge and delete namespaces.",
    "credential": "Issue, list and revoke tokens.",
    "put": "Store files as chunks, and say for each whether it was stored or its key existed already.",
    "get": "Read chunks, one after another, into a file or to standard output.",
    "lookup": "Say how many of the keys, from the first one on, are there, and how long their get would take.",
    "rm": "Delete chunks, and say for each key whether it was there.",
    "stat": "Show what is known of chunks; without a key, the numbers of the shard, or of each shard of the node.",
    "events": "Watch what is stored in a namespace and removed from it, in order.",
    "top": "Show a running shard: hit rates, throughput, latencies, devices, queues. q ends it.",
    "doctor": "Say what this kernel and machine offer a node, and what to do about what is missing.",
    "check": "Verify devices offline: read every record and report. Exit status 1 if anything is wrong.",
    "device": "List, add, drain, replace and grow the devices of a running server.",
    "config": "Show, check and document settings.",
    "kvsize": "Say how many bytes a chunk has: what a namespace's chunk_bytes is.",
    "demo": "Start a node with two tenants, replay a trace as one of them, kill its shard and check what is left.",
    "demo-pod": "Start an etcd and a pod on this machine, replay a trace through it, kill a node meanwhile and start it "
    "again.",
    "bench": "Put load on a running shard and print throughput and latencies.",
    "replay": "Replay a trace against a running shard and check every byte that comes back.",
    "workload": "Generate conversations and agents as a trace, the same for the same seed and parameters.",
    "simulate": "Play policies, or a whole pod with faults, without a node.",
    "completion": "Print the script that lets a shell complete the commands and options of mezzo.",
}
"""The first sentences of the commands' own help, as a test says that they are."""
COMPLETION_VARIABLE = "_MEZZO_COMPLETE"
"""By it a shell asks what completes a line, and that may be of any command."""
ALONE: tuple[list[str], ...] = ([], ["-h"], ["--help"], ["--version"])
"""arguments that no command sees"""


def register(app: typer.Typer, names: Iterable[str]) -> None:
    """Add commands that can be shown, and do nothing."""
    for name in names:
        app.command(name, help=SUMMARIES[name])(_shown)


def are_there(modules: Collection[str]) -> bool:
    """Whether all of them are installed. Imports none."""
    return all(find_spec(module) is not None for module in modules)


def _shown() -> None:
    """Nobody calls it: `ALONE`."""
