"""Fuzz targets for what is read from devices: superblock, segment header, record, table.

Real structures are changed at random and, half of the time, signed again, so that the parsers behind
the checksums are reached.  Whatever comes, a decoder answers or raises FormatError, in bounded memory.
For longer than the test suite has: ``python -m tests.fuzz.test_fuzz_format SECONDS [SEED]``.
"""

from __future__ import annotations

import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable

import pytest

from mezzo.errors import FormatError
from mezzo_server.blockstore.format import record, segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, digest
from tests.golden import making

ROUNDS = 1500
ALLOCATION_BYTES_MAX = 4 << 20
"""Far below what a lying length could ask for, above what a table of one segment takes."""

INCARNATION = making.INCARNATION
HEADER = making.SEGMENT_HEADER
STRUCTURES = making.structures()
RECORD_FIXED = 84
NUMBERS = (0, 1, 2, 3, 255, 256, 257, 4095, 4096, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**64 - 1)


def mutated(rng: random.Random, data: bytes) -> bytearray:
    """A changed copy: bits, bytes, numbers, pieces moved, cut off."""
    result = bytearray(data)
    # Most changes where the fields are, not in the zeros behind them.
    used = (len(data.rstrip(b"\0")) or 1) if rng.random() < 0.5 else min(200, len(data))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(used)
        kind = rng.randrange(4)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at] = rng.randrange(256)
        elif kind == 2:
            form = rng.choice(("<H", "<I", "<Q"))
            size = struct.calcsize(form)
            at = min(at - at % 4, len(result) - size)
            struct.pack_into(form, result, at, rng.choice(NUMBERS) % (1 << 8 * size))
        else:
            size = rng.randrange(1, 64)
            piece = result[at : at + size]
            other = rng.randrange(used)
            result[other : other + len(piece)] = piece[: len(result) - other]
    if rng.random() < 0.1:
        del result[rng.randrange(len(result)) :]
    return result


def sign_end(data: bytearray, *secret: bytes) -> None:
    """The digest that ends a block, over the block."""
    if len(data) >= BLOCK_BYTES:
        data[BLOCK_BYTES - DIGEST_BYTES : BLOCK_BYTES] = digest(
            *secret, bytes(data[: BLOCK_BYTES - DIGEST_BYTES])
        )


def fuzz_superblock(rng: random.Random) -> None:
    data = mutated(rng, STRUCTURES["superblock"])
    if rng.random() < 0.7:
        sign_end(data, b"mezzo superblock")
    found = superblock.decode(bytes(data))
    # What is believed can be acted on: all segments lie on the device, all numbers name segments.
    if found.segment_offset(found.segment_count) > found.device_bytes:
        raise AssertionError("a segment lies beyond the device")
    superblock.decode(superblock.encode(found))


def fuzz_segment_header(rng: random.Random) -> None:
    data = mutated(rng, STRUCTURES["segment header"])
    if rng.random() < 0.7:
        sign_end(data, b"segment" + HEADER.device_id + HEADER.segment.to_bytes(4, "little"))
    segment_header.decode(bytes(data), HEADER.device_id, HEADER.segment)


def fuzz_record(rng: random.Random) -> None:
    name = rng.choice(("record of chunks", "record of tombstones"))
    data = mutated(rng, STRUCTURES[name])
    if rng.random() < 0.7 and len(data) >= RECORD_FIXED + DIGEST_BYTES:
        (size,) = struct.unpack_from("<I", data, 12)
        start = RECORD_FIXED + DIGEST_BYTES
        data[RECORD_FIXED - DIGEST_BYTES : RECORD_FIXED] = digest(
            INCARNATION, b"entries", bytes(data[start:size])
        )
        data[RECORD_FIXED:start] = digest(INCARNATION, b"record", bytes(data[:RECORD_FIXED]))
    (block,) = struct.unpack_from("<I", data.ljust(24, b"\0"), 20)
    found = record.decode(memoryview(data), block, making.SEGMENT_BLOCKS, INCARNATION)
    for entry in found.entries:
        if entry.parts and not block < entry.block < making.SEGMENT_BLOCKS:
            raise AssertionError("a payload lies outside of the segment")


def fuzz_table(rng: random.Random) -> None:
    data = STRUCTURES[rng.choice(("table", "table without entries"))]
    body, trailer = mutated(rng, data[:-BLOCK_BYTES] or bytes(8)), bytearray(data[-BLOCK_BYTES:])
    if rng.random() < 0.5:
        trailer = mutated(rng, bytes(trailer))
        body = bytearray(data[:-BLOCK_BYTES])
    if rng.random() < 0.8 and len(trailer) == BLOCK_BYTES:
        (size,) = struct.unpack_from("<I", trailer, 16)
        trailer[48:64] = digest(INCARNATION, b"table", bytes(body[:size]))
        sign_end(trailer, INCARNATION, b"trailer")
    found = table.decode_trailer(bytes(trailer), making.SEGMENT_BLOCKS, INCARNATION)
    entries = table.decode(found, memoryview(body)[: found.body_bytes], INCARNATION)
    for number in range(len(entries)):
        entry = entries.entry(number)
        if entry.block + -(-entry.length // BLOCK_BYTES) > found.data_end:
            raise AssertionError("a payload lies outside of the segment")


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "superblock": fuzz_superblock,
    "segment header": fuzz_segment_header,
    "record": fuzz_record,
    "table": fuzz_table,
}


def run(name: str, seed: int) -> bool:
    """One round; whether the structure was believed. Any error but FormatError is a finding."""
    try:
        TARGETS[name](random.Random(f"{name} {seed}"))
    except FormatError:
        return False
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_decoders_take_anything(name: str) -> None:
    believed = sum(run(name, seed) for seed in range(ROUNDS))
    assert 0 < believed < ROUNDS, "both ways are taken"


@pytest.mark.parametrize("name", TARGETS)
def test_decoders_allocate_little(name: str) -> None:
    tracemalloc.start()
    try:
        for seed in range(ROUNDS, ROUNDS + 200):
            tracemalloc.reset_peak()
            run(name, seed)
            _, peak = tracemalloc.get_traced_memory()
            assert peak < ALLOCATION_BYTES_MAX, f"{name}, seed {seed}: {peak} bytes"
    finally:
        tracemalloc.stop()


def main(seconds: float, seed: int) -> None:
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        for name in TARGETS:
            run(name, seed + rounds)
        rounds += 1
    print(f"{rounds} rounds of {len(TARGETS)} targets from seed {seed} on: nothing found")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(48))
