"""Chunks of seeded bytes, and how many of them a client gets back."""

from __future__ import annotations

import random

from mezzo import Client


def chunks(seed: int, count: int, nbytes: int) -> dict[bytes, bytes]:
    """So many, of so many bytes each; other keys and bytes for each seed."""
    source = random.Random(seed)
    return {b"%d-%d" % (seed, number): source.randbytes(nbytes) for number in range(count)}


def reads_back(client: Client, stored: dict[bytes, bytes]) -> int:
    """How many are there; none is wrong."""
    outs = [bytearray(len(data)) for data in stored.values()]
    found = client.get(list(stored), outs).found
    for ok, out, data in zip(found, outs, stored.values(), strict=True):
        assert not ok or bytes(out) == data
    return sum(found)
