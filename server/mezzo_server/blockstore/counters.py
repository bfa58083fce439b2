"""Every counter of the block store, declared once: all exist from the start, with 0.

A name that is counted and not declared here fails a test (tests/unit/mezzo_server/test_metrics_catalog.py).  What
each means to an operator stands in the catalogue of metrics (docs/metrics.md).
"""

from __future__ import annotations

from collections import Counter

NAMES = (
    # chunks asked for and given, by tier
    "chunks_got",
    "bytes_got",
    "chunks_got_hot",
    "bytes_got_hot",
    "chunks_got_device",
    "bytes_got_device",
    "chunks_missed",
    # chunks that came and went
    "chunks_put",
    "bytes_put",
    "chunks_deleted",
    "chunks_evicted",
    "bytes_evicted",
    "chunks_trimmed",
    "bytes_trimmed",
    "chunks_lost",
    "chunks_expired",
    "bytes_expired",
    "chunks_erased",
    "bytes_erased",
    "tombstones_written",
    # space
    "chunks_rewritten",
    "rewritten_bytes",
    "segments_sealed",
    "segments_reclaimed",
    "segments_given_up",
    "flushes",
    # what does not match its checksum
    "mismatches_seen",
    "mismatches_not_confirmed",
    "chunks_corrupt",
    "streams_not_verified",
    "hot_mismatches",
    # what is encrypted and could not be decrypted
    "seals_broken",
    "seals_without_key",
    # what the devices could not do
    "io_errors",
    "read_errors",
    "fences",
    # what waited, was cut off or found no memory
    "writes_waited",
    "gets_without_memory",
    "streams_revoked",
    # background
    "scrubbed_chunks",
    "scrubbed_bytes",
    "scrub_rounds",
    "hot_scrubbed_bytes",
)


NO_HOT_TIER = dict.fromkeys(
    (
        "hot_bytes_max",
        "hot_bytes",
        "hot_bytes_used",
        "hot_bytes_held",
        "hot_chunks",
        "hot_arenas",
        "hot_arenas_failed",
        "hot_arenas_taken",
        "hot_fills",
        "hot_evictions",
        "hot_no_room",
        "hot_too_large",
    ),
    0,
)
"""What `HotTier.report` would say, were there one."""


def counters() -> Counter[str]:
    """All of them, at 0."""
    return Counter(dict.fromkeys(NAMES, 0))
