"""Every metric of a shard, and which of its numbers are deliberately none."""

from __future__ import annotations

from mezzo_server.metrics import tls
from mezzo_server.metrics.admission import ADMISSION_METRICS
from mezzo_server.metrics.catalog import Histograms, Metric, by, one
from mezzo_server.metrics.declaring import SHARD
from mezzo_server.metrics.following import catalog_metrics
from mezzo_server.metrics.pod import SHARD_POD_METRICS
from mezzo_server.metrics.shard_devices import CHECK_METRICS, DEVICE_METRICS
from mezzo_server.metrics.shard_requests import REQUEST_METRICS, TRANSFERS, US
from mezzo_server.metrics.tenants import TENANT_METRICS
from mezzo_server.metrics.writes import WRITE_METRICS

CHUNK_METRICS = (
    SHARD.gauge("chunks", "Chunks that are present.", one("chunks")),
    SHARD.gauge("live_bytes", "Bytes of the chunks that are present.", one("bytes_live")),
    SHARD.gauge(
        "capacity_bytes",
        "Bytes in segments of all devices.",
        one("bytes_total"),
        advice="Live bytes near it are normal for a cache; evictions and the hit rate say whether it is"
        " too small.",
    ),
    SHARD.counter(
        "get_chunks",
        "Chunks asked for with get, by what came of it: found in the hot tier, on a device, or a miss.",
        by({"hot": "chunks_got_hot", "device": "chunks_got_device", "miss": "chunks_missed"}),
        ("outcome",),
        advice="The hit rate is 1 - miss / all. Falling with rising evictions: more capacity.",
    ),
    SHARD.counter(
        "get_bytes",
        "Bytes of chunks found with get, by tier.",
        by({"hot": "bytes_got_hot", "device": "bytes_got_device"}),
        ("tier",),
    ),
    SHARD.counter("put_chunks", "Chunks that were stored.", one("chunks_put")),
    SHARD.counter("put_bytes", "Bytes of chunks that were stored.", one("bytes_put")),
    SHARD.counter("deleted_chunks", "Chunks that clients deleted.", one("chunks_deleted")),
    SHARD.counter(
        "evicted_chunks",
        "Chunks that went because space was needed.",
        one("chunks_evicted"),
        advice="Compare with what is put: chunks live for about capacity / eviction rate seconds.",
    ),
    SHARD.counter(
        "trimmed_chunks",
        "Chunks that went because their tenant may have no more.",
        one("chunks_trimmed"),
        advice="Normal for a tenant at its hard limit of capacity; its own new chunks took their place.",
    ),
    SHARD.counter(
        "trimmed_bytes",
        "Bytes of chunks that went because their tenant may have no more.",
        one("bytes_trimmed"),
    ),
    SHARD.counter(
        "evicted_bytes", "Bytes of chunks that went because space was needed.", one("bytes_evicted")
    ),
    SHARD.counter(
        "rewritten_bytes",
        "Bytes that reclaim wrote again because their chunks should live on.",
        one("rewritten_bytes"),
        advice="Write amplification is 1 + this / put bytes. High: many leases, or a hot set near capacity.",
    ),
    SHARD.counter("rewritten_chunks", "Chunks that reclaim wrote again.", one("chunks_rewritten")),
    SHARD.counter("expired_chunks", "Chunks whose time was over.", one("chunks_expired")),
    SHARD.counter("expired_bytes", "Bytes of chunks whose time was over.", one("bytes_expired")),
    SHARD.gauge(
        "expired_chunks_at_start",
        "Chunks that the last start found on the devices and did not bring back, because their time was over.",
        one("chunks_expired_at_start"),
        advice="Nearly all, after a reboot: the wall clock was ahead. See docs/life.md.",
    ),
    SHARD.gauge(
        "deadlines",
        "Places in the timing wheel: chunks with a deadline, and those of them that are gone and not noticed"
        " yet; 8 bytes each.",
        one("deadlines"),
    ),
    SHARD.gauge(
        "anchor_age_seconds",
        "Since the time was last written down on the devices; -1: not since the start.",
        one("anchor_age_s"),
        advice="Over a minute while there are deadlines: a device does not take its superblock. See the log.",
    ),
    SHARD.counter(
        "erased_chunks",
        "Chunks that went because their tenant or namespace was deleted or purged.",
        one("chunks_erased"),
    ),
    SHARD.counter(
        "erased_bytes",
        "Bytes of chunks that went because their tenant or namespace was deleted or purged.",
        one("bytes_erased"),
    ),
    SHARD.gauge(
        "erasing_chunks",
        "Chunks that are erased, and out of reach, and whose space is not accounted as dead yet.",
        one("chunks_erasing"),
        advice="Falls by hundreds of thousands a second; reclaim waits for it.",
    ),
    SHARD.gauge(
        "unknown_chunks",
        "Chunks that the last start found on the devices and did not bring back, because the metadata know"
        " nothing of their tenant or namespace.",
        one("chunks_unknown"),
        advice="Above 0: the shard was started with other metadata (`metadata.engine`) than its chunks were"
        " put with. Restart it with the right ones before reclaim has taken their space.",
    ),
    SHARD.counter("tombstones", "Tombstones written for deletes.", one("tombstones_written")),
)

QUEUE_METRICS = (
    SHARD.gauge(
        "puts_waiting",
        "Records of puts that wait for space on a device.",
        one("puts_waiting"),
        advice="Lasting: puts come faster than reclaim makes space; they are refused as busy in the end.",
    ),
    SHARD.gauge(
        "put_bytes_waiting", "Payload of puts accepted and not yet written.", one("put_bytes_waiting")
    ),
    SHARD.gauge(
        "put_blocks_bytes",
        "Blocks of puts accepted and not yet ended, counted against their tenants' capacity.",
        one("put_block_bytes_under_way"),
    ),
    SHARD.counter("writes_waited", "Records that had to wait for space.", one("writes_waited")),
    SHARD.gauge(
        "transfers_in_flight",
        "Transfers submitted to all devices and not reaped.",
        one("transfers_in_flight"),
    ),
    SHARD.gauge(
        "transfers_waiting", "Transfers that wait for room in a device's queue.", one("transfers_waiting")
    ),
    SHARD.gauge(
        "transfers_scheduled",
        "Transfers that wait for their tenant's turn before a device is given them.",
        one("transfers_scheduled"),
        advice="Lasting: tenants want more than the devices give; see who in the metrics of tenants.",
    ),
    SHARD.gauge(
        "turns_waiting",
        "Steps of connections that wait for their tenant's turn on the event loop.",
        one("turns_waiting"),
        advice="Lasting: the loop is busy, and tenants ask for more than their parts of it.",
    ),
    SHARD.gauge("scheduled_bytes", "Bytes of those transfers.", one("bytes_scheduled")),
    SHARD.gauge("worker_jobs", "Jobs with the worker threads.", one("workers_in_flight")),
    SHARD.gauge(
        "jobs_scheduled",
        "Jobs that wait for their tenant's turn before the worker threads are given them.",
        one("jobs_scheduled"),
        advice="Lasting: tenants want more checksums, copies and encryption than the threads do; more `shard.workers` may help.",
    ),
    SHARD.gauge(
        "staging_bytes",
        "Memory for payload on its way, by pool: of connections, and of the store.",
        by({"connections": "staging_bytes", "store": "store_staging_bytes"}),
        ("pool",),
    ),
    SHARD.gauge(
        "staging_free_bytes",
        "What is free of it.",
        by({"connections": "staging_free_bytes", "store": "store_staging_free_bytes"}),
        ("pool",),
    ),
    SHARD.gauge(
        "staging_waiting",
        "Requests that wait for staging memory.",
        by({"connections": "staging_waiting", "store": "store_staging_waiting"}),
        ("pool",),
        advice="Lasting: raise `limits.staging_bytes` (connections) or `shard.store_staging_bytes` (store).",
    ),
    SHARD.counter(
        "staging_refused",
        "Requests that waited for staging memory in vain: puts were answered BUSY, chunks of gets a miss.",
        by({"connections": "staging_refused", "store": "store_staging_refused"}),
        ("pool",),
        advice="Clients that read or send slowly hold it, or it is too little: see `limits.staging_wait_s`.",
    ),
    SHARD.counter(
        "gets_without_memory",
        "Chunks that were answered as a miss because there was no staging memory to read them into.",
        one("gets_without_memory"),
        advice="Raise `shard.store_staging_bytes`.",
    ),
    SHARD.gauge(
        "output_bytes", "Answers and payload queued to be sent, over all connections.", one("output_bytes")
    ),
    SHARD.counter(
        "streams_revoked",
        "Gets over tcp that were cut off because their client was slow and the segment was wanted.",
        one("streams_revoked"),
    ),
)

CLIENT_METRICS = (
    SHARD.gauge("leases", "Leases held.", one("leases")),
    SHARD.gauge(
        "leased_bytes",
        "Bytes under lease; a chunk in two leases counts twice.",
        one("leased_bytes"),
        advice="At `mezzo_shard_leased_bytes_limit` no more is leased; shorter leases help.",
    ),
    SHARD.gauge(
        "leased_chunks",
        "Chunks under lease; one in two leases counts twice.",
        one("leased_chunks"),
        advice="At `limits.leased_chunks_max` no more are leased.",
    ),
    SHARD.gauge("leased_bytes_limit", "Bytes that leases may hold.", one("leased_bytes_max")),
    SHARD.gauge(
        "leases_overdue", "Expired leases whose chunks are still held in place.", one("leases_overdue")
    ),
    SHARD.counter(
        "connections_ended_overdue",
        "Connections ended because the room that their overdue leases held was wanted.",
        one("connections_ended_overdue"),
        advice="Clients hold chunks in place for longer than their leases: longer leases, or quicker clients.",
    ),
    SHARD.gauge(
        "events_namespaces",
        "Namespaces whose events are kept, because somebody reads them.",
        one("events_namespaces"),
    ),
    SHARD.gauge(
        "events_readers",
        "Requests that wait for an event.",
        one("events_readers"),
        advice="At `limits.events_readers_max`, or half of it for one tenant, further ones are refused as busy.",
    ),
    SHARD.gauge("events_bytes", "Memory of kept events.", one("events_bytes")),
    SHARD.counter(
        "events_gaps",
        "Answers that told a reader of events of a gap: too slow, or after a restart.",
        one("events_gaps"),
        advice="Rising without restarts: readers are too slow for `limits.events_max`, `limits.events_bytes_max`.",
    ),
    SHARD.gauge("regions", "Regions that clients registered.", one("regions")),
    SHARD.gauge("region_bytes", "Bytes in regions.", one("region_bytes")),
    SHARD.gauge("region_bytes_limit", "Bytes that regions may have.", one("regions_bytes_max")),
    SHARD.gauge(
        "regions_lingering",
        "Regions of closed connections that wait for transfers to end.",
        one("regions_lingering"),
    ),
)

HOT_METRICS = (
    SHARD.gauge(
        "hot_capacity_bytes", "Memory that the hot tier may take; 0: there is none.", one("hot_bytes_max")
    ),
    SHARD.gauge("hot_used_bytes", "Memory of the hot tier's slots that hold a chunk.", one("hot_bytes_used")),
    SHARD.gauge(
        "hot_held_bytes",
        "Memory of slots that clients hold in place.",
        one("hot_bytes_held"),
        advice="At `hot.held_fraction` of the capacity no more is given in place.",
    ),
    SHARD.gauge("hot_overdue_bytes", "Memory of slots held by expired leases.", one("hot_bytes_overdue")),
    SHARD.gauge("hot_chunks", "Chunks in the hot tier.", one("hot_chunks")),
    SHARD.gauge("hot_arenas", "Arenas of the hot tier.", one("hot_arenas")),
    SHARD.gauge("hot_arena_bytes", "Memory in arenas.", one("hot_bytes")),
    SHARD.counter(
        "hot_arenas_failed",
        "Arenas that could not be made.",
        one("hot_arenas_failed"),
        advice="The host has less memory than `hot.bytes`, or a cgroup allows less.",
    ),
    SHARD.counter(
        "hot_arenas_taken",
        "Arenas taken from tenants with more than their share, for others with less.",
        one("hot_arenas_taken"),
        advice="Rising all the time: tenants come and go, or shares change; each costs what was hot there.",
    ),
    SHARD.counter(
        "connections_ended_lent",
        "Connections ended because they had arenas mapped that another tenant has a right to.",
        one("connections_ended_lent"),
    ),
    SHARD.counter(
        "hot_too_large",
        "Chunks that are too large for an arena and so never hot.",
        one("hot_too_large"),
        advice="Raise `hot.arena_bytes` if they matter.",
    ),
    SHARD.counter("hot_fills", "Chunks that became hot.", one("hot_fills")),
    SHARD.counter("hot_evictions", "Chunks that left the hot tier for others.", one("hot_evictions")),
    SHARD.counter(
        "hot_no_room",
        "Chunks that did not become hot because there was no room.",
        one("hot_no_room"),
        advice="Rising with high held bytes: clients hold too much; else a larger `hot.bytes`.",
    ),
)

PROCESS_METRICS = (
    SHARD.gauge(
        "loop_stalled",
        "1 if the event loop did not answer this scrape in time: all else is what it last told.",
        one("loop_stalled"),
        advice="Alert on it: nothing is served meanwhile. The log names what held the loop.",
    ),
    SHARD.histogram(
        "loop_hold_seconds",
        "How long callbacks held the event loop.",
        Histograms("loop_hold"),
        advice="Nothing should be over 1 ms; what is delays every request by as much.",
    ),
    SHARD.gauge("loop_hold_longest_seconds", "The longest hold.", one("loop_hold_max_us", scale=US)),
    SHARD.counter(
        "loop_holds_over_1ms",
        "Callbacks that held the loop for over a millisecond.",
        one("loop_holds_over_1ms"),
    ),
    SHARD.counter(
        "loop_held_seconds",
        "Time in callbacks; its rate is the share of one core that the loop uses.",
        one("loop_held_us", scale=US),
        advice="Near 1 per second the shard is at its limit: more shards.",
    ),
    SHARD.counter("gc_collections", "Garbage collections.", one("collections")),
    SHARD.gauge("gc_longest_seconds", "The longest garbage collection.", one("collection_max_us", scale=US)),
    SHARD.counter(
        "faults",
        "Faults of ours that were caught.",
        one("faults"),
        advice="Report them, with the log.",
    ),
    SHARD.gauge(
        "resident_memory_bytes", "Memory of the process, shared pages included.", one("memory_bytes")
    ),
    SHARD.gauge("uptime_seconds", "Time since the shard's start.", one("uptime_s")),
    SHARD.info(
        "What runs: version, incarnation (drawn at each start), durability, policy, io, loop.",
        ("version", "incarnation", "durability", "policy", "io", "loop"),
    ),
)

METRICS: tuple[Metric, ...] = (
    *REQUEST_METRICS,
    *ADMISSION_METRICS,
    *catalog_metrics(SHARD),
    *SHARD_POD_METRICS,
    *CHUNK_METRICS,
    *CHECK_METRICS,
    *DEVICE_METRICS,
    *QUEUE_METRICS,
    *CLIENT_METRICS,
    *HOT_METRICS,
    *TENANT_METRICS,
    *WRITE_METRICS,
    *tls.SHARD_METRICS,
    *PROCESS_METRICS,
)

NOT_EXPORTED = {
    "chunks_got": "the sum of the tiers",
    "bytes_got": "the sum of the tiers",
    "segments_total": "the sum of the states",
    "requests": "the sum of the kinds",
    "errors": "the sum of the codes",
    "busy": "a code of errors",
    "cancelled": "an outcome of requests",
    "loop_callbacks": "the count of the histogram of holds",
    **{f"requests_with_device_{kind}": "the count of the histogram of device time" for kind in TRANSFERS},
}
"""Numbers of `shard_stat` that are no metric of their own, and why."""

FROM_THE_ENDPOINT = frozenset({"loop_stalled"})
"""Numbers that the endpoint adds to what the shard told."""
