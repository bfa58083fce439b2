"""Metrics of a pod: where a shard stands in it, and what who plans knows of it."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Metric, by, one
from mezzo_server.metrics.declaring import SHARD, Declaring
from mezzo_server.pod.moving import Drop, Why

SHARD_POD_METRICS: tuple[Metric, ...] = (
    SHARD.gauge("pod_epoch", "Epoch of the map that the shard follows; 0: none.", one("pod_epoch")),
    SHARD.gauge(
        "pod_serving",
        "Whether the shard serves its slots: 1, or 0; 0 too where it is of no pod, and serves everything.",
        one("pod_serving"),
        advice="0 in a pod: it has no membership, or the metadata were away for too long. The log says which.",
    ),
    SHARD.gauge(
        "pod_serves_seconds",
        "For so long it would serve if the metadata were away from now on.",
        one("pod_serves_s"),
        advice="Normally 74 to 84 with a lease of 90 s. Falling: the lease is not renewed; at 0 nothing is served.",
    ),
    SHARD.gauge(
        "pod_lease_age_seconds",
        "Since the last renewal of its membership that came through was sent; -1: it has none.",
        one("pod_lease_age_s"),
        advice="Over a fifth of pod.lease_s: the metadata engine cannot be reached.",
    ),
    SHARD.gauge(
        "pod_slots",
        "Slots that the shard owns, those that it had lately and is asked for still, and those that it is second for.",
        by({"owned": "pod_slots", "before": "pod_slots_before", "second": "pod_slots_second"}),
        ("held",),
    ),
    SHARD.counter(
        "pod_wrong_epoch",
        "Requests refused because another shard has what they asked for.",
        one("pod_wrong_epoch"),
        advice="A few at each change of the map. Lasting: clients that do not get the new map, or do not look whom they"
        " are talking to.",
    ),
    SHARD.counter(
        "pod_not_serving",
        "Requests refused because the shard had no membership to serve under.",
        one("pod_not_serving"),
    ),
    SHARD.counter(
        "pod_writes_withheld",
        "Puts and deletes that were done and not acknowledged, since the shard was not to have their slots any more.",
        one("pod_writes_withheld"),
    ),
    SHARD.counter(
        "pod_memberships_lost",
        "Times that the membership had ended, or another process had taken it.",
        one("pod_memberships_lost"),
    ),
    SHARD.counter(
        "pod_moved_chunks",
        "Chunks that moved here from other shards: since a read missed them (`read`), or as second copies (`copy`).",
        by({why.value: f"pod_moved_chunks_{why}" for why in Why}),
        ("why",),
    ),
    SHARD.counter(
        "pod_moved_bytes", "Their bytes.", by({why.value: f"pod_moved_bytes_{why}" for why in Why}), ("why",)
    ),
    SHARD.counter(
        "pod_moves_wanted", "Chunks that were to be moved here from other shards.", one("pod_moves_wanted")
    ),
    SHARD.counter(
        "pod_moves_dropped",
        "Of these, and of those that there was no room for, the ones that did not come, by reason.",
        by({drop.value: f"pod_moves_dropped_{drop}" for drop in Drop}),
        ("reason",),
        advice="`absent`, `there`, `same`, `deleted` and `lost` are as it should be. `full` and `late`: more is read than"
        " pod.move_bytes_per_s lets move; it stays at the former owner, and is asked for there. `failed`: docs/pod.md.",
    ),
    SHARD.gauge("pod_moves_queued", "Chunks that wait to be moved here.", one("pod_moves_queued")),
    SHARD.gauge("pod_moves_in_flight", "Chunks that are being moved here.", one("pod_moves_in_flight")),
    SHARD.counter(
        "pod_moves_wait_seconds",
        "Time for which moving waited for its bandwidth (pod.move_bytes_per_s).",
        one("pod_moves_wait_us", scale=1e-6),
    ),
    SHARD.gauge(
        "pod_moves_forgotten",
        "Deleted keys that are remembered, so that nothing brings them back.",
        one("pod_moves_forgotten"),
        advice="At 32,768 nothing is moved here until fewer are deleted.",
    ),
    SHARD.counter(
        "pod_pulled_chunks", "Chunks that moved from here to other shards.", one("pod_pulled_chunks")
    ),
    SHARD.counter("pod_pulled_bytes", "Their bytes.", one("pod_pulled_bytes")),
    SHARD.counter(
        "pod_offers", "Chunks that other shards were told to have a second copy of.", one("pod_offers")
    ),
    SHARD.gauge("pod_offers_queued", "Chunks that they are to be told of.", one("pod_offers_queued")),
    SHARD.counter(
        "pod_offers_dropped",
        "Chunks that they were not told of: too many at a time, not in time, or not theirs any more.",
        one("pod_offers_dropped"),
        advice="These have one copy until they are read at the second, or put again. Lasting: a second cannot be reached.",
    ),
    SHARD.counter("pod_offers_failed", "Attempts to tell them that failed.", one("pod_offers_failed")),
    SHARD.counter(
        "pod_left_told",
        "Chunks that are here no more and of which their seconds have said that they do not give them either.",
        one("pod_left_told"),
    ),
    SHARD.gauge(
        "pod_left_queued",
        "Chunks that are here no more and of which their seconds are to say so.",
        one("pod_left_queued"),
        advice="Lasting: a second cannot be reached. Until it is, or has left the map, these are not put again.",
    ),
    SHARD.gauge(
        "pod_left_anew",
        "Shards that are to compare all second copies that they have from here: since this one started, or for more was to be told"
        " than is kept.",
        one("pod_left_anew"),
        advice="Until they say so nothing is put here of which they would have the second copy.",
    ),
    SHARD.counter("pod_left_failed", "Attempts to tell seconds of it that failed.", one("pod_left_failed")),
    SHARD.counter(
        "pod_puts_barred",
        "Puts of chunks that were declined since their second may give other bytes still.",
        one("pod_puts_barred"),
    ),
    SHARD.gauge(
        "pod_popular_chunks",
        "Chunks of this shard that another has a copy of since they are got often, and that readers are told so of.",
        one("pod_popular_chunks"),
    ),
    SHARD.gauge(
        "pod_popular_bytes",
        "Copies of other shards' popular chunks that were taken in here, bytes.",
        one("pod_popular_bytes"),
        advice="At pod.popular_bytes no more are taken: `mezzo_shard_pod_popular_refused_total` counts them.",
    ),
    SHARD.counter(
        "pod_popular_refused",
        "Copies of other shards' popular chunks that were not taken in, for want of room.",
        one("pod_popular_refused"),
    ),
    SHARD.counter("pod_plans_read", "Maps of the pod that the shard took over.", one("pod_plans_read")),
    SHARD.gauge(
        "pod_part",
        "The part of each tenant's quota that the shard enforces by default, of 1; 1 too where it is of no pod.",
        one("pod_part"),
        advice="1/256 for more than some seconds in a pod: it was not told its part. Is there a front-end?",
    ),
    SHARD.gauge(
        "pod_parts_weighed",
        "Limits of tenants of which the shard enforces another part, since the tenant was near its part somewhere.",
        one("pod_parts_weighed"),
    ),
    SHARD.gauge(
        "pod_part_settled",
        "Whether the parts are what they are to become: 1; 0: another round is on its way.",
        one("pod_part_settled"),
    ),
    SHARD.counter(
        "pod_failures",
        "Attempts to reach the metadata for the membership that failed.",
        one("pod_failures"),
    ),
)


def planning_metrics(declare: Declaring) -> tuple[Metric, ...]:
    """Of a process that plans."""
    return (
        declare.gauge("pod_epoch", "Epoch of the pod's map, as it is known here; 0: none.", one("pod_epoch")),
        declare.gauge("pod_members", "Shards that are registered.", one("pod_members")),
        declare.gauge(
            "pod_members_behind",
            "Registered shards that have not said yet that they follow this map; no other map is made before.",
            one("pod_members_behind"),
            advice="Lasting: a shard does not follow, and holds up changes of the map until its lease ends.",
        ),
        declare.gauge(
            "pod_slots_moved",
            "Slots whose former owner is still asked.",
            one("pod_slots_moved"),
        ),
        declare.counter("pod_plans", "Maps that this process made.", one("pod_plans")),
        declare.counter("pod_plans_lost", "Maps that another process had made first.", one("pod_plans_lost")),
        declare.counter(
            "pod_rounds_written", "Divisions of quotas that this process made.", one("pod_rounds_written")
        ),
        declare.gauge("pod_rounds", "Number of the division of quotas in force; 0: none.", one("pod_rounds")),
        declare.gauge(
            "pod_parts_weighed",
            "Limits of tenants whose parts are weighed by what shards use and want of them.",
            one("pod_parts_weighed"),
        ),
        declare.gauge(
            "pod_parts_behind",
            "Registered shards that have not said yet that they enforce this division; no other is made before.",
            one("pod_parts_behind"),
            advice="Lasting: a shard does not follow, and holds up what others want of quotas until its lease ends.",
        ),
        declare.gauge(
            "pod_age_seconds",
            "Time since the metadata last told of the pod; -1: never, or there is no pod.",
            one("pod_age_s"),
            advice="Over some 10 s: the engine is away. The last map stays.",
        ),
        declare.counter(
            "pod_failures", "Attempts to reach the metadata for the pod that failed.", one("pod_failures")
        ),
    )
