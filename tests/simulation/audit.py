"""What must hold of a store's state, recomputed from scratch. The only place that looks inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.sealing import plain_length
from mezzo_server.blockstore.segment import State, life_of, number_of
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.hot.slots import PAGE_BYTES, Slot, data_pages
from mezzo_server.hot.slots import State as SlotState
from mezzo_server.hot.tier import HotTier


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
    of_scope: Counter[tuple[int, int]] = Counter()
    live_count: Counter[int] = Counter()
    pinned: Counter[int] = Counter()
    touched: Counter[int] = Counter()
    expiring: Counter[int] = Counter()
    watched = 0
    tenants: dict[int, Counter[bytes]] = {id(log): Counter() for log in context.logs}
    namespaces: dict[int, Counter[bytes]] = {id(log): Counter() for log in context.logs}
    chunks = 0
    indexed = [(namespace, namespace.shards) for namespace in context.index]
    erased = [(remains.namespace, remains.shards) for remains in context.erasure.remains]
    for namespace, shards in [*indexed, *erased]:
        count = 0
        for shard in shards:
            for key, location in shard.items():
                count += 1
                segment, number = context.lives[life_of(location)], number_of(location)
                table = segment.table
                assert table.keys[number] == key, "the index points at another key"
                assert table.scopes[table.scope[number]] == namespace.scope
                assert table.parts[number], "the index points at a tombstone"
                size = blocks_of(table.length[number]) * BLOCK_BYTES
                live_bytes[segment.life] += size
                of_scope[segment.life, table.scope[number]] += size
                live_count[segment.life] += 1
                touched[segment.life] += table.touched[number]
                expiring[id(segment.log)] += table.expiry_ms[number] > 0
                if table.expiry_ms[number]:
                    watched += not namespace.erased
                    assert (
                        0 < segment.expires_ms <= table.expiry_ms[number]
                        or context.clock.now_ms() >= (table.expiry_ms[number])
                    )
                tenants[id(segment.log)][namespace.scope.tenant] += size
                namespaces[id(segment.log)][namespace.scope.namespace] += size
                if namespace.pins.get(key):
                    pinned[segment.life] += table.length[number]
        if not namespace.erased:
            assert count == namespace.count
            chunks += count
    assert chunks == context.index.count
    assert context.expiry.places >= watched, "a chunk's end would not be noticed"
    for log in context.logs:
        if log.fenced is not None:
            continue
        assert log.expiring == expiring[id(log)], log.device.name
        for segment in log.segments.values():
            assert context.lives[segment.life] is segment
            assert segment.live_bytes == live_bytes[segment.life], segment
            told = [of_scope[segment.life, place] for place in range(len(segment.table.scopes))]
            assert segment.table.live_bytes == told, segment
            assert segment.live_count == live_count[segment.life], segment
            assert segment.pinned_bytes == pinned[segment.life], segment
            assert segment.touched_sum == touched[segment.life], segment
        for tenant, size in log.tenant_bytes.items():
            assert size == tenants[id(log)][tenant], f"tenant {tenant!r} on {log.device.name}"
        for name, size in log.namespace_bytes.items():
            assert size == namespaces[id(log)][name], f"namespace {name!r} on {log.device.name}"


def check_hot(store: BlockStore) -> None:
    """Slots do not overlap, belong to what is visible, and all counts of the hot tier are right."""
    context = context_of(store)
    hot = context.hot
    if hot is None:
        assert not any(namespace.hot.count for namespace in context.index)
        return
    report = hot.report()
    assert report["hot_bytes"] == sum(arena.bytes for arena in hot.arenas()) <= hot.bytes_max
    mapped: dict[int, Slot] = {}
    ready = 0
    for remains in context.erasure.remains:
        for slot in remains.namespace.hot:
            mapped[id(slot)] = slot
            ready += slot.state is SlotState.READY
    for namespace in context.index:
        slots = list(namespace.hot)
        assert len(slots) == namespace.hot.count
        for slot in slots:
            mapped[id(slot)] = slot
            assert slot.owner is namespace.hot
            assert namespace.hot.get(slot.key) is slot
            assert slot.state in (SlotState.FILLING, SlotState.READY)
            if slot.state is SlotState.FILLING:
                assert slot.uses, "nobody fills it"
                continue
            ready += 1
            location = namespace.get(slot.key)
            assert location is not None, "hot and not visible"
            table = context.lives[life_of(location)].table
            assert table.sequence[number_of(location)] == slot.sequence
            assert plain_length(table, number_of(location)) == slot.length <= slot.capacity
    assert ready == report["hot_chunks"]
    used = held = 0
    pages: dict[int, set[int]] = {}
    for slot in slots_of(hot):
        mine = set(range(slot.page, slot.page + slot.capacity // PAGE_BYTES))
        taken = pages.setdefault(slot.arena, set())
        assert not mine & taken, "slots overlap"
        taken |= mine
        arena = hot.arena(slot.arena)
        assert max(mine) < data_pages(arena)
        assert arena.generation(slot.page) == slot.generation > 0
        assert (slot.state is SlotState.FREE) == (id(slot) not in mapped and not slot.busy)
        used += slot.capacity * (slot.state is not SlotState.FREE)
        held += slot.capacity * bool(slot.holds)
    assert used == report["hot_bytes_used"]
    assert held == report["hot_bytes_held"] <= hot.held_bytes_max


def slots_of(hot: HotTier) -> Iterator[Slot]:
    """All slots of all arenas, free ones too."""
    for tenant in hot._tenants.values():
        for cut in tenant.cuts:
            assert cut.live == sum(slot.state is not SlotState.FREE for slot in cut.made)
            assert cut.busy == sum(slot.busy for slot in cut.made)
            if not cut.draining:
                assert cut.has_room == (cut in tenant.pools[cut.slot_pages].roomy)
            yield from cut.made


def check_rest(store: BlockStore) -> None:
    """Nothing is under way: nothing is held, lent, reserved or waited for."""
    context = context_of(store)
    check_space(store)
    check_counts(store)
    check_hot(store)
    if context.hot is not None:
        for slot in slots_of(context.hot):
            assert not slot.uses, f"left in use: {slot}"
            assert not slot.waiters
    staging = context.staging
    assert staging.free_bytes == staging.total_bytes, staging
    assert staging.requests_waiting == 0, staging
    assert store._puts.waiting_bytes == 0
    assert store._puts.in_flight == store._gets.in_flight == store._deletes.in_flight == 0
    assert store._writer.waiting == 0
    assert not context.later
    assert not any(jobs.queue or jobs.schedule.waiting for jobs in context.job_queues)
    assert not context.failures
    assert context.closing or not context.erasure.running
    assert not context.streams
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
