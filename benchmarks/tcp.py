"""Gets over TCP from a shard whose device is memory, beside one stream of iperf3 on the loopback."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, compared, take_pairs
from benchmarks.reference_network import iperf
from benchmarks.settings import MIB, Settings, size_name
from benchmarks.shard import chunk_keys, shard, window

REGION_BYTES = 192 * MIB
CALL_BYTES = 64 * MIB
"""of one get"""
SEGMENT_BYTES = 256 * MIB
"""three of the largest chunks fit"""
CASES = (4 * MIB, 16 * MIB, 64 * MIB)


def rows(settings: Settings) -> Iterator[Row]:
    """One row for each size, and one for what is lost from the smallest to the largest."""
    for chunk_bytes in CASES:
        slots = REGION_BYTES // chunk_bytes
        with (
            iperf(settings.sample_s) as reference,
            shard("memory:3GiB", segment_bytes=SEGMENT_BYTES) as server,
            window(server, server.tcp, chunk_bytes, slots, batch=CALL_BYTES // chunk_bytes) as client,
        ):
            keys = chunk_keys("tcp", slots)
            client.put(keys)
            samples = take_pairs(reference, lambda: client.get(keys, settings.sample_s), settings.pairs)  # noqa: B023
        yield compared(
            samples,
            name=f"TCP get of {size_name(chunk_bytes)}",
            unit="GB/s",
            reference="iperf3, one stream, loopback",
            ours="memory device, one connection, both checksums",
            target=1.2,
        )
    yield _fall(settings)


def _fall(settings: Settings) -> Row:
    small_bytes, large_bytes = CASES[0], CASES[-1]
    small_slots, large_slots = REGION_BYTES // small_bytes, REGION_BYTES // large_bytes
    with (
        shard("memory:3GiB", segment_bytes=SEGMENT_BYTES) as server,
        window(server, server.tcp, small_bytes, small_slots, batch=CALL_BYTES // small_bytes) as small,
        window(server, server.tcp, large_bytes, large_slots, batch=CALL_BYTES // large_bytes) as large,
    ):
        small_keys = chunk_keys("small", small_slots)
        large_keys = chunk_keys("large", large_slots)
        small.put(small_keys)
        large.put(large_keys)
        samples = take_pairs(
            lambda: small.get(small_keys, settings.sample_s),
            lambda: large.get(large_keys, settings.sample_s),
            settings.pairs,
        )
    return compared(
        samples,
        name=f"TCP get of {size_name(large_bytes)} beside {size_name(small_bytes)}",
        unit="GB/s",
        reference=f"ours with {size_name(small_bytes)}",
        ours="no fall with size",
        target=0.95,
    )
