"""Metrics of a shard's devices, and of what checks of their bytes found."""

from __future__ import annotations

from mezzo_server.metrics.catalog import EachDevice, by, one
from mezzo_server.metrics.declaring import SHARD

CHECK_METRICS = (
    SHARD.counter(
        "checksum_failures",
        "Bytes that did not match their checksum, by stage. `received`: payload of a put over tcp; `seen`:"
        " a first read from a device; `not_confirmed`: of those, right when read again (a client wrote into"
        " its own region); `confirmed`: the chunk is corrupt and gone; `streamed`: found while sending over"
        " tcp; `hot`: in the hot tier's memory.",
        by(
            {
                "received": "checksum_mismatches_received",
                "seen": "mismatches_seen",
                "not_confirmed": "mismatches_not_confirmed",
                "confirmed": "chunks_corrupt",
                "streamed": "streams_not_verified",
                "hot": "hot_mismatches",
            }
        ),
        ("stage",),
        advice="`confirmed`: a device corrupts data; replace it. `hot`: memory does. `received`: the network"
        " or a client. Callers saw a miss each time, never wrong bytes.",
    ),
    SHARD.counter(
        "seal_failures",
        "Encrypted chunks that could not be decrypted. `broken`: their checksums are right, and yet they are"
        " not what was encrypted under that name; `no_key`: their tenant's key is not there (any more).",
        by({"broken": "seals_broken", "no_key": "seals_without_key"}),
        ("reason",),
        advice="`broken`: somebody wrote to the device, or a tenant's key is another one than it was. `no_key`:"
        " the tenant's key was destroyed, or the master key of `[encryption]` is not the one that wrapped it.",
    ),
    SHARD.gauge(
        "tenants_without_key",
        "Tenants whose chunks are to be encrypted, and whose key cannot be had: their puts are refused.",
        one("tenants_without_key"),
        advice="The master key of `[encryption]` is not the one that wrapped it, or not set on this host.",
    ),
    SHARD.counter(
        "lost_chunks",
        "Chunks that left the index because they were corrupt or could not be read.",
        one("chunks_lost"),
        advice="Find the device in the log and in `mezzo_shard_device_io_errors_total`.",
    ),
    SHARD.counter("read_errors", "Reads of chunks that a device failed.", one("read_errors")),
    SHARD.counter(
        "io_errors",
        "Transfers that a device failed.",
        one("io_errors"),
        advice="A device with more than a few is fenced: prepare its replacement.",
    ),
    SHARD.counter("scrubbed_bytes", "Bytes read and verified by the scrub.", one("scrubbed_bytes")),
    SHARD.counter(
        "hot_scrubbed_bytes", "Bytes of the hot tier verified by its scrub.", one("hot_scrubbed_bytes")
    ),
    SHARD.counter("scrubbed_chunks", "Chunks read and verified by the scrub.", one("scrubbed_chunks")),
    SHARD.counter(
        "scrub_rounds",
        "How often the scrub came to the end of a device.",
        one("scrub_rounds"),
        advice="Raise `shard.scrub_bytes_per_s` if a round takes longer than you want corruption unseen.",
    ),
)

DEVICE_METRICS = (
    SHARD.gauge("devices", "Devices of the store.", one("devices")),
    SHARD.gauge(
        "devices_fenced",
        "Devices that are not used any more after I/O errors.",
        one("devices_fenced"),
        advice="Above 0: replace the device (`mezzo device`); its chunks are misses meanwhile.",
    ),
    SHARD.gauge("device_fenced", "Whether a device is fenced.", EachDevice("fenced"), ("device",)),
    SHARD.gauge(
        "device_capacity_bytes", "Bytes in a device's segments.", EachDevice("bytes_total"), ("device",)
    ),
    SHARD.gauge(
        "device_live_bytes", "Bytes of the chunks on a device.", EachDevice("bytes_live"), ("device",)
    ),
    SHARD.gauge("device_segments", "Segments of a device.", EachDevice("segments_total"), ("device",)),
    SHARD.gauge(
        "device_segments_free", "Free segments of a device.", EachDevice("segments_free"), ("device",)
    ),
    SHARD.gauge(
        "device_segments_retired",
        "Segments of a device that are never used again.",
        EachDevice("segments_retired"),
        ("device",),
        advice="Each stands for an I/O error or a place that did not keep what was written.",
    ),
    SHARD.gauge(
        "device_transfers_in_flight",
        "Transfers submitted to a device and not reaped.",
        EachDevice("transfers_in_flight"),
        ("device",),
    ),
    SHARD.gauge(
        "device_transfers_waiting",
        "Of those in flight, transfers that wait because more than `shard.depth` were submitted.",
        EachDevice("transfers_waiting"),
        ("device",),
        advice="Lasting: the device is saturated. Add one, or ask for less.",
    ),
    SHARD.counter(
        "device_io_errors",
        "Transfers that a device failed, by device.",
        EachDevice("io_errors"),
        ("device",),
    ),
    SHARD.counter(
        "device_written_bytes",
        "Bytes of records written to a device, headers and padding included.",
        EachDevice("bytes_written"),
        ("device",),
    ),
    SHARD.counter("written_bytes", "Bytes of records written to all devices.", one("bytes_written")),
    SHARD.counter("flushes", "Flushes of devices.", one("flushes")),
    SHARD.gauge(
        "segments",
        "Segments by state.",
        by(
            {
                state: f"segments_{state}"
                for state in ("free", "open", "sealing", "sealed", "reclaiming", "retired")
            }
        ),
        ("state",),
        advice="`free` at 2 or less on each device, and puts waiting: reclaim does not keep up.",
    ),
    SHARD.counter("segments_sealed", "Segments that were filled.", one("segments_sealed")),
    SHARD.counter("segments_reclaimed", "Segments that were taken back.", one("segments_reclaimed")),
    SHARD.counter("segments_given_up", "Segments that were retired.", one("segments_given_up")),
    SHARD.counter("fences", "Devices fenced.", one("fences")),
)
