"""S2: can a tenant tell by time which chunks another one has? Its probes of theirs beside those of absent keys.

The figure is the distance from 0.5 of the AUC: the chance that a probe of a key which the other tenant
has took longer than one of a key that nobody has.  0: time tells nothing.  Probes of the attacker's
own chunks beside absent keys show that the method sees a difference where there is one.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mezzo
from benchmarks.harness import Row, Sample, alone
from benchmarks.settings import Settings
from benchmarks.shard import chunk_keys
from benchmarks.tenants import make_tenants
from mezzo_server.testing import running_node

PROBES = 100_000
PROBES_QUICK = 6_000
CHUNKS = 256
CHUNK_BYTES = 16 * 1024
DISTANCE_MAX = 0.02
WARMUP = 2_000

Probe = Callable[[bytes], object]


def rows(settings: Settings) -> Iterator[Row]:
    """Lookup, stat and get, and the control."""
    theirs, own, absent = (chunk_keys(f"timing-{name}", CHUNKS) for name in ("theirs", "own", "absent"))
    count = PROBES_QUICK if settings.quick else PROBES
    with tempfile.TemporaryDirectory(prefix="mezzo-bench-") as home:
        engine = f"sqlite://{Path(home) / 'metadata.db'}"
        config = (
            f'[metadata]\nengine = "{engine}"\n[access]\nanonymous = ""\n[shard]\nscrub_bytes_per_s = 0\n'
        )
        with running_node(config=config, hot="128MiB") as node:
            tokens = make_tenants(engine, ("owner", "attacker"))
            with (
                mezzo.Client(node.grpc, token=tokens["owner"], via="direct", timeout_s=60.0) as owner,
                mezzo.Client(node.grpc, token=tokens["attacker"], via="direct", timeout_s=60.0) as attacker,
            ):
                _fill(owner, theirs)
                _fill(attacker, own)
                target = [attacker.region(CHUNK_BYTES)]
                probes: dict[str, Probe] = {
                    "lookup": lambda key: attacker.lookup([key]),
                    "stat": lambda key: attacker.stat([key]),
                    "get": lambda key: attacker.get([key], target),
                }
                for name, probe in probes.items():
                    yield _row(
                        f"{name} of another tenant's chunks", probe, theirs, absent, count, DISTANCE_MAX
                    )
                yield _row("control: get of one's own chunks", probes["get"], own, absent, count // 5, None)


def auc(first: Sequence[float], second: Sequence[float]) -> float:
    """The chance that one of ``first`` is over one of ``second``, ties counting half (Mann and Whitney, 1947)."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum, place = 0.0, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        mean_rank = (place + 1 + end) / 2
        rank_sum += mean_rank * sum(1 for _, which in ranked[place:end] if which == 0)
        place = end
    wins = rank_sum - len(first) * (len(first) + 1) / 2
    return wins / (len(first) * len(second))


def _row(
    name: str,
    probe: Probe,
    present: Sequence[bytes],
    absent: Sequence[bytes],
    count: int,
    target: float | None,
) -> Row:
    chance = random.Random(7)
    times: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    for number in range(WARMUP + count):
        # The order is a coin's: what drifts meanwhile falls on both alike.
        which = chance.getrandbits(1)
        key = (present, absent)[which][chance.randrange(CHUNKS)]
        began = clock()
        probe(key)
        took = clock() - began
        if number >= WARMUP:
            times[which].append(took)
    value = auc(times[0], times[1])
    return alone(
        [Sample(abs(value - 0.5), {"auc": value, "probes": float(count)})],
        name=name,
        unit="AUC, distance from 0.5",
        ours="blocking client, Unix socket",
        target=target,
    )


def _fill(client: mezzo.Client, keys: Sequence[bytes]) -> None:
    region = client.region(CHUNKS * CHUNK_BYTES)
    places = [region[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] for i in range(CHUNKS)]
    if client.put(keys, places).stored != CHUNKS:
        raise RuntimeError("the chunks that are to be probed were not stored")
