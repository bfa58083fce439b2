"""What must hold of a store's state, recomputed from scratch. The only place that looks inside."""

from __future__ import annotations

from collections import Counter

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.segment import State, life_of, number_of
from mezzo_server.blockstore.store import BlockStore


def context_of(store: BlockStore) -> Context:
    return store._context


def counters(store: BlockStore) -> Counter[str]:
    return store._context.counters


def check_space(store: BlockStore) -> None:
    """Every segment of a serving device is in exactly one place, and none is over its end."""
    for log in context_of(store).logs:
        if log.fenced is not None:
            continue
        free, used, retired = set(log.free), set(log.segments), set(log.superblock.retired)
        assert len(free) == len(log.free), "a segment is free twice"
        assert not free & used, f"free and used: {free & used}"
        assert not free & retired, f"free and retired: {free & retired}"
        assert max(free | used | retired, default=0) < log.superblock.segment_count
        for segment in log.segments.values():
            assert segment.next_block <= log.segment_blocks
            assert segment.refs >= 0
            assert segment.writes >= 0


def check_counts(store: BlockStore) -> None:
    """Live counts, bytes, pinned bytes and tenants' bytes are what the index says."""
    context = context_of(store)
    live_bytes: Counter[int] = Counter()
    live_count: Counter[int] = Counter()
    pinned: Counter[int] = Counter()
    touched: Counter[int] = Counter()
    tenants: dict[int, Counter[bytes]] = {id(log): Counter() for log in context.logs}
    chunks = 0
    for namespace in context.index:
        count = 0
        for shard in namespace.shards:
            for key, location in shard.items():
                count += 1
                segment, number = context.lives[life_of(location)], number_of(location)
                table = segment.table
                assert table.keys[number] == key, "the index points at another key"
                assert table.scopes[table.scope[number]] == namespace.scope
                assert table.parts[number], "the index points at a tombstone"
                size = blocks_of(table.length[number]) * BLOCK_BYTES
                live_bytes[segment.life] += size
                live_count[segment.life] += 1
                touched[segment.life] += table.touched[number]
                tenants[id(segment.log)][namespace.scope.tenant] += size
                if namespace.pins.get(key):
                    pinned[segment.life] += table.length[number]
        assert count == namespace.count
        chunks += count
    assert chunks == context.index.count
    for log in context.logs:
        if log.fenced is not None:
            continue
        for segment in log.segments.values():
            assert context.lives[segment.life] is segment
            assert segment.live_bytes == live_bytes[segment.life], segment
            assert segment.live_count == live_count[segment.life], segment
            assert segment.pinned_bytes == pinned[segment.life], segment
            assert segment.touched_sum == touched[segment.life], segment
        for tenant, size in log.tenant_bytes.items():
            assert size == tenants[id(log)][tenant], f"tenant {tenant!r} on {log.device.name}"


def check_rest(store: BlockStore) -> None:
    """Nothing is under way: nothing is held, lent, reserved or waited for."""
    context = context_of(store)
    check_space(store)
    check_counts(store)
    staging = context.staging
    assert staging.free_bytes == staging.total_bytes, staging
    assert staging.requests_waiting == 0, staging
    assert store._puts.waiting_bytes == 0
    assert store._puts.in_flight == store._gets.in_flight == store._deletes.in_flight == 0
    assert store._writer.waiting == 0
    assert not context.later
    assert not context.jobs
    assert not context.failures
    for namespace in context.index:
        assert not namespace.busy, f"left busy: {list(namespace.busy)[:3]}"
    for log in context.logs:
        assert not log.queue
        assert log.queued_bytes == 0, f"{log.queued_bytes} bytes are still counted as queued"
        for segment in log.segments.values():
            assert segment.refs == 0, f"{segment} has {segment.refs} references"
            assert segment.writes == 0, segment
            assert not segment.streams
            if log.fenced is None:
                assert segment.state in (State.OPEN, State.SEALED), segment
