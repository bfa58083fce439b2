"""Encryption at rest: what is on a device tells nothing, and nothing but what was put comes back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument, TooLarge, Unavailable
from mezzo_server.blockstore.api import GetChunk, PutChunk, PutStatus, Scope
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.blockstore.sealed_stream import staging_bytes_max
from mezzo_server.blockstore.sealing import (
    OVERHEAD_BYTES,
    RUN_BYTES,
    Sealer,
    Unseal,
    bound_to,
    run_seal,
    run_unseal,
)
from mezzo_server.memory import Memory, Span
from mezzo_server.staging import bytes_for_piece
from mezzo_server.workers import InlineWorkers, ThreadWorkers
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import SEGMENT_BYTES, options

STORED, EXISTS = PutStatus.STORED, PutStatus.EXISTS
KEYS = {SCOPE.tenant: b"K" * 32}
OTHER = Scope(b"o" * 16, b"n" * 16)
SECRET = b"what nobody may read "


def secret(length: int) -> bytes:
    return (SECRET * (length // len(SECRET) + 1))[:length]


def on_devices(rig: Rig) -> bytes:
    return b"".join(bytes(device.peek()) for device in rig.devices)


def sealer(run: bytes = b"r" * RUN_BYTES) -> Sealer:
    made = Sealer(run)
    made.set_keys(KEYS)
    return made


@pytest.mark.parametrize("length", [1, 4055, 4056, 4057, 8192, 100_000, 190_000])
@pytest.mark.parametrize("hot", [None, {}, {"fill_puts": False}])
def test_what_was_put_is_got(length: int, hot: dict[str, object] | None) -> None:
    rig = Rig(keys=KEYS, hot=hot)
    data = content(b"k", length)
    assert rig.put(b"k", data) is STORED
    for _ in range(2):
        assert rig.get(b"k") == data
        assert rig.stream(b"k") == data
    info = rig.store.info(SCOPE, b"k")
    assert info is not None
    assert (info.length, info.parts) == (length, (length,))
    assert rig.store.prefix(SCOPE, [b"k"]) == (1, length)
    assert rig.put(b"k", b"other") is EXISTS
    rig.drain()
    for how in ("close", "kill", "cut"):
        rig.restart(how)
        if rig.has(b"k"):
            assert rig.get(b"k") == data
            assert rig.stream(b"k") == data
    rig.drain()


def test_nothing_of_it_is_on_the_device() -> None:
    plain, sealed = Rig(), Rig(keys=KEYS)
    for rig in (plain, sealed):
        for number in range(5):
            key = b"k%d" % number
            rig.put_chunks([chunk(key, secret(30_000), parts=(10_000, 20_000))])
        rig.store.close()
    assert SECRET in on_devices(plain), "it would be found"
    assert SECRET[:8] not in on_devices(sealed)


def test_equal_chunks_are_not_equal_on_the_device() -> None:
    sealer_ = sealer()
    memory = Memory.anonymous(1 << 16)
    source = memory.span(0, 4096)
    texts = set()
    for at in range(8):
        target = memory.span(8192 + at * 5000, 4096 + OVERHEAD_BYTES)
        run_seal(sealer_.seal(SCOPE, b"k", 0, 1), [source], [target])
        texts.add(bytes(target.view[:4096]))
    assert len(texts) == 8


@pytest.mark.parametrize("inline_bytes", [0, 1 << 20])
@pytest.mark.parametrize("hot", [None, {}])
def test_parts_are_read_alone(inline_bytes: int, hot: dict[str, object] | None) -> None:
    rig = Rig(keys=KEYS, hot=hot, options=options(inline_bytes=inline_bytes))
    lengths = (1, 4096, 10_000, 4095, 30_000)
    data = content(b"k", sum(lengths))
    rig.put_chunks([chunk(b"k", data, parts=lengths)])
    for first in range(6):
        for count in range(6):
            end = first + count if count else len(lengths)
            expected = data[sum(lengths[:first]) : sum(lengths[:end])]
            assert (rig.get(b"k", first_part=first, part_count=count) or b"") == expected
    assert rig.stream(b"k") == data
    rig.drain()


def test_extents_that_cut_through_parts() -> None:
    rig = Rig(keys=KEYS)
    lengths = (5000, 12_000, 3000)
    data = content(b"k", sum(lengths))
    bounds = (0, 1, 4999, 9000, 9001, 17_000, len(data))
    spans = []
    for start, end in itertools.pairwise(bounds):
        span = Memory.anonymous(end - start + 3).span(3, end - start)
        span.view[:] = data[start:end]
        spans.append(span)
    assert rig.put_chunks([PutChunk(b"k", lengths, tuple(spans))]).statuses == [STORED]
    for span in spans:
        span.view[:] = bytes(span.length)
    assert rig.get_outcome([GetChunk(b"k", tuple(spans))]).lengths == [len(data)]
    assert b"".join(bytes(span.view) for span in spans) == data
    rig.drain()


def test_neighbours_of_a_target_are_left_alone() -> None:
    rig = Rig(keys=KEYS)
    data = content(b"k", 9001)
    rig.put(b"k", data)
    memory = Memory.anonymous(20_000)
    memory.view[:] = b"\xaa" * memory.length
    assert rig.get_outcome([GetChunk(b"k", (memory.span(4096, 9001),))]).lengths == [9001]
    assert bytes(memory.view[4096 : 4096 + 9001]) == data
    assert set(memory.view[:4096]) | set(memory.view[4096 + 9001 :]) == {0xAA}


def test_the_longest_chunk_makes_room_for_its_tags() -> None:
    rig = Rig(keys=KEYS)
    most = rig.store.chunk_bytes_max
    with pytest.raises(TooLarge, match="encrypted"):
        rig.put(b"k", most)
    assert rig.put(b"k", most - OVERHEAD_BYTES) is STORED
    assert rig.get(b"k", room=most) == content(b"k", most - OVERHEAD_BYTES)


def test_without_its_key_a_chunk_is_a_miss() -> None:
    rig = Rig(keys=KEYS)
    rig.put(b"k", 5000)
    memory = Memory.anonymous(8192)
    rig.store.set_tenant_keys({})
    assert rig.get_outcome([GetChunk(b"k", (memory.span(0, 5000),))]).lengths == [-1]
    assert not any(memory.view)
    assert rig.counters["seals_without_key"] == 1
    assert rig.stream(b"k") is None
    rig.store.set_tenant_keys({SCOPE.tenant: b"X" * 32})
    assert rig.get(b"k") is None, "another key is no key"
    assert rig.counters["seals_broken"] == 1


def test_what_cannot_be_decrypted_is_not_there_for_lookups_either() -> None:
    rig = Rig(keys=KEYS)
    rig.put(b"k", 5000)
    rig.put(b"k", 3000, scope=OTHER)
    rig.store.set_tenant_keys({}, [SCOPE.tenant])
    assert rig.store.prefix(SCOPE, [b"k"]) == (0, 0)
    assert rig.store.sizes(SCOPE, [b"k"])[0] == rig.store.sizes(SCOPE, [b"k", b"l"])[0] == 0
    assert rig.store.info(SCOPE, b"k") is None
    assert rig.store.prefix(OTHER, [b"k"]) == (1, 3000)
    rig.store.set_tenant_keys(KEYS)
    assert rig.store.prefix(SCOPE, [b"k"]) == (1, 5000)


def test_nothing_is_stored_in_the_clear_for_want_of_a_key() -> None:
    rig = Rig(keys=KEYS)
    rig.put(b"k", 5000)
    rig.store.set_tenant_keys({}, without=[SCOPE.tenant])
    with pytest.raises(Unavailable, match="key"):
        rig.put(b"l", 5000)
    assert rig.put(b"l", 5000, OTHER) is STORED
    assert rig.get(b"k") is None
    rig.store.set_tenant_keys(KEYS)
    assert rig.put(b"l", 5000) is STORED
    assert rig.get(b"k") == content(b"k", 5000), "a key that was away for a while"
    rig.drain()


def test_others_are_not_encrypted_and_know_nothing_of_it() -> None:
    rig = Rig(keys=KEYS)
    rig.put(b"k", secret(9000), OTHER)
    rig.put(b"k", secret(9000))
    assert rig.get(b"k", OTHER) == secret(9000)
    assert on_devices(rig).count(secret(9000)) == 1


def test_chunks_from_before_encryption_stay_readable() -> None:
    rig = Rig()
    rig.put(b"old", 9000)
    rig.store.set_tenant_keys(KEYS)
    rig.put(b"new", 9000)
    assert rig.get(b"old") == content(b"old", 9000)
    assert rig.get(b"new") == content(b"new", 9000)
    assert rig.store.prefix(SCOPE, [b"old", b"new"]) == (2, 18_000)


@pytest.mark.parametrize("hot", [None, {}])
def test_reclaim_moves_what_it_cannot_read(hot: dict[str, object] | None) -> None:
    rig = Rig(keys=KEYS, hot=hot, segments=12)
    kept = rig.fill("kept", 8, 5000)
    for key in kept:
        assert rig.store.pin(SCOPE, key)
    rig.store.set_tenant_keys(KEYS)
    rig.fill("more", 12 * SEGMENT_BYTES // 20_000 * 2, 20_000)
    rig.drain()
    assert rig.counters["chunks_rewritten"]
    for key in kept:
        assert rig.get(key) == content(key, 5000)
        assert rig.stream(key) == content(key, 5000)
    rig.restart()
    for key in kept:
        assert rig.get(key) == content(key, 5000)


def test_bytes_that_were_changed_along_with_their_checksum_are_no_hit() -> None:
    """Whoever can write to the device can make checksums; he cannot make tags."""
    rig = Rig(keys=KEYS)
    rig.put(b"k", 5000)
    context = audit.context_of(rig.store)
    namespace = context.index.peek(SCOPE)
    place = context.find(namespace, b"k")
    assert place is not None
    segment, number = place
    at = segment.offset + segment.table.block[number] * 4096
    stored = bytearray(rig.devices[0].peek(at, 5000 + OVERHEAD_BYTES))
    stored[17] ^= 1
    rig.devices[0].poke(at, bytes(stored))
    memory = Memory.anonymous(8192)
    memory.view[: len(stored)] = bytes(stored)
    seed = context.seed(namespace, b"k")
    segment.table.checksum[number] = context.workers.checksum([memory.span(0, len(stored))], seed)
    assert rig.get(b"k") is None
    assert rig.counters["seals_broken"] == 1
    assert rig.counters["chunks_corrupt"] == 1
    assert not rig.has(b"k")
    assert rig.put(b"k", 5000) is STORED, "it may be put again"


@settings(max_examples=60)
@given(
    mine=st.tuples(st.binary(min_size=1, max_size=64), st.integers(0, 255), st.integers(1, 256)),
    other=st.tuples(st.binary(min_size=1, max_size=64), st.integers(0, 255), st.integers(1, 256)),
    data=st.binary(min_size=1, max_size=300),
)
def test_a_part_decrypts_under_no_other_name(
    mine: tuple[bytes, int, int], other: tuple[bytes, int, int], data: bytes
) -> None:
    sealer_ = sealer()
    memory = Memory.anonymous(4096)
    source, target, back = (
        memory.span(0, len(data)),
        memory.span(512, len(data) + OVERHEAD_BYTES),
        memory.span(1024, len(data)),
    )
    source.view[:] = data
    run_seal(sealer_.seal(SCOPE, *mine), [source], [target])
    scopes = [
        SCOPE,
        Scope(SCOPE.tenant, b"m" * 16),
        Scope(SCOPE.tenant, SCOPE.namespace, 1),
        Scope(SCOPE.tenant, SCOPE.namespace, 0, 1),
    ]
    for scope in scopes:
        for name in (mine, other):
            right = scope == SCOPE and name == mine
            result = run_unseal(Unseal(sealer_, SCOPE.tenant, bound_to(scope, *name)), [target], [back])
            assert (result == 0) == right
            if right:
                assert bytes(back.view) == data


@settings(max_examples=30)
@given(runs=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_no_nonce_is_used_twice(runs: list[int]) -> None:
    """Starts draw runs, whatever was lost before them; a run counts on."""
    used = set()
    for number, parts in enumerate(runs):
        started = sealer(bytes([number]) * RUN_BYTES)
        for _ in range(parts):
            seal = started.seal(SCOPE, b"k", 0, 1)
            used.add((seal.key.secret, seal.nonce))
    assert len(used) == sum(runs)


def test_keys_have_the_right_length() -> None:
    with pytest.raises(InvalidArgument, match="32"):
        sealer().set_keys({SCOPE.tenant: b"short"})


@pytest.mark.parametrize("make", [InlineWorkers, ThreadWorkers])
def test_large_parts_leave_the_loop(make: type[Workers]) -> None:
    rig = Rig(keys=KEYS)
    rig.ciphers = make()
    rig.restart("close")
    parts = (100_000, 70_000)
    data = content(b"k", sum(parts))
    assert rig.put_chunks([chunk(b"k", data, parts=parts)]).statuses == [STORED]
    assert rig.get(b"k") == data
    assert rig.stream(b"k") == data
    rig.ciphers.close()


def test_lengths_are_told_as_they_were_put() -> None:
    rig = Rig(keys=KEYS)
    told: list[tuple[bytes, int]] = []

    class Sink:
        def add(self, kind: int, key: bytes, length: int) -> None:
            told.append((key, length))

        def erased(self) -> None:
            raise AssertionError

    rig.store.watch(SCOPE, Sink())
    rig.put_chunks([chunk(b"k", content(b"k", 9_000), parts=(4_000, 5_000))])
    assert rig.store.list_part(SCOPE, 0, 1, 9) == [(b"k", 9_000)]
    assert rig.store.sizes(SCOPE, [b"gap", b"k"], beyond=True)[:2] == (0, 9_000)
    rig.delete(b"k")
    assert told == [(b"k", 9_000), (b"k", 9_000)]


def test_a_key_that_is_destroyed_is_not_kept_by_a_thread_that_was_deriving() -> None:
    made = sealer()

    class Late(dict[bytes, bytes]):
        """The key is destroyed while somebody derives from it."""

        def get(self, key: bytes, default: object = None) -> object:  # type: ignore[override]
            found = super().get(key)
            made.set_keys({})
            return found

    made._keys = Late(KEYS)
    assert made.derive(SCOPE.tenant, b"x" * RUN_BYTES) is not None
    assert made.derive(SCOPE.tenant, b"x" * RUN_BYTES) is None


def test_a_stream_holds_no_more_than_what_it_gives() -> None:
    rig = Rig(keys=KEYS)
    data = content(b"k", 100_000)
    assert rig.put(b"k", data) is STORED
    rig.restart("close")
    stream = rig.store.stream(SCOPE, b"k")
    assert stream is not None
    came: list[Span | None] = []
    stream.next(came.append)
    rig.until(lambda: bool(came))
    assert came[0] is not None
    assert came[0].view == data
    assert rig.staging.held_bytes(SCOPE.tenant) == 25 * 4096
    stream.drop(came[0])
    assert stream.finish()
    assert rig.staging.free_bytes == rig.staging.total_bytes
    rig.drain()


def test_the_longest_chunk_is_streamed_out_of_the_least_memory() -> None:
    most = SEGMENT_BYTES - (64 << 10)
    pool = bytes_for_piece(staging_bytes_max(most))
    assert pool > 2 * most, "its pieces are powers of two"
    rig = Rig(keys=KEYS, options=options(staging_bytes=pool))
    data = content(b"k", most - OVERHEAD_BYTES)
    assert rig.put(b"k", data) is STORED
    assert rig.stream(b"k") == data
    rig.drain()


def test_a_bit_that_flips_in_the_hot_tier_before_it_is_encrypted_is_not_stored() -> None:
    class Radiation(InlineWorkers):
        """Flips a bit of what is about to be encrypted."""

        armed = True

        def submit(self, jobs: Sequence[Job]) -> None:
            for job in jobs:
                if job.task is Task.SEAL and self.armed:
                    job.source[0].view[17] ^= 4
            super().submit(jobs)

    workers = Radiation()
    rig = Rig(keys=KEYS, hot={}, ciphers=workers)
    data = content(b"k", 150_000)
    assert rig.put(b"k", data) is PutStatus.FAILED
    assert not rig.has(b"k")
    workers.armed = False
    assert rig.put(b"k", data) is STORED
    assert rig.get(b"k") == data
    rig.drain()
