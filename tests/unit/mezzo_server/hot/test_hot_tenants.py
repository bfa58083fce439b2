"""How the hot tier's memory is shared between tenants, and how it goes from one to another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.arenas import HotShares
from mezzo_server.hot.slots import PAGE_BYTES, Slot, SlotMap, arena_bytes_for
from mezzo_server.hot.tier import HotTier

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
ARENA = arena_bytes_for(32 * PAGE_BYTES)


class Known(HotShares):
    def __init__(self) -> None:
        self.weights: dict[bytes, float] = {}
        self.most: dict[bytes, int] = {}
        self.quota: dict[bytes, int] = {}
        self.gone: set[bytes] = set()
        self.refusals = 0

    def weight(self, tenant: bytes) -> float:
        return self.weights.get(tenant, 1.0)

    def exists(self, tenant: bytes) -> bool:
        return tenant not in self.gone

    def hot_bytes_max(self, tenant: bytes) -> int:
        return self.most.get(tenant, 0)

    def hot_share(self, tenant: bytes) -> int:
        return self.quota.get(tenant, 0)

    def hot_refused(self, tenant: bytes) -> None:
        self.refusals += 1


class Node:
    """A tier and tenants that put chunks into it."""

    def __init__(self, arenas: int = 4, **more: object) -> None:
        self.shares = Known()
        self.hot = HotTier(
            bytes_max=arenas * ARENA,
            arena_bytes=32 * PAGE_BYTES,
            new_arena=AnonymousArena,
            held_fraction=1.0,
            **more,  # type: ignore[arg-type]
        )
        self.hot.memory.shares = self.shares
        self.maps = {tenant: SlotMap() for tenant in (A, B, C)}
        self._next = 0

    def put(self, tenant: bytes, count: int = 1, pages: int = 4) -> list[Slot]:
        slots = []
        for _ in range(count):
            self.hot.tick()
            self._next += 1
            slot = self.hot.reserve(self.maps[tenant], tenant, b"%d" % self._next, pages * PAGE_BYTES)
            if slot is not None:
                assert self.hot.ready(slot, 1)
                slots.append(slot)
            self.check()
        return slots

    def arenas(self, tenant: bytes) -> int:
        return sum(arena.tenant == tenant for arena in self.hot.arenas())

    def check(self) -> None:
        memory = self.hot.memory
        assert memory.bytes <= memory.bytes_max
        for tenant, most in self.shares.most.items():
            assert memory.bytes_of(tenant) <= most
        for tenant in self.maps:
            assert memory.bytes_of(tenant) >= sum(a.bytes for a in memory if a.tenant == tenant)


def test_no_tenant_has_more_arenas_than_its_quota() -> None:
    node = Node(arenas=4)
    node.shares.most[A] = 2 * ARENA
    node.put(A, 200)
    assert node.arenas(A) == 2
    assert node.shares.refusals > 0
    assert len(list(node.maps[A])) == 16, "its two arenas are full"


def test_tenants_without_an_arena_are_forgotten() -> None:
    node = Node(arenas=1)
    node.put(A, 10)
    for number in range(50):
        assert node.hot.reserve(SlotMap(), b"%16d" % number, b"k", 4 * PAGE_BYTES) is None
    node.hot.tick()
    assert set(node.hot._tenants) == {A}
    assert len(node.put(A, 10)) == 10


def test_who_comes_when_all_memory_is_taken_gets_his_share() -> None:
    node = Node(arenas=8)
    node.put(A, 200)
    assert node.arenas(A) == 8
    node.put(B, 400)
    assert node.arenas(B) == 4
    assert node.arenas(A) == 4
    assert len(list(node.maps[B])) == 32
    node.put(A, 400)
    assert (node.arenas(A), node.arenas(B)) == (4, 4), "and nobody takes more than his share back"


def test_a_share_is_by_weight() -> None:
    node = Node(arenas=8)
    node.shares.weights = {A: 1.0, B: 3.0}
    node.put(A, 200)
    node.put(B, 400)
    assert (node.arenas(A), node.arenas(B)) == (2, 6)


def test_a_share_is_by_quota_where_there_is_one() -> None:
    node = Node(arenas=8)
    node.shares.quota = {A: 7 * ARENA, B: ARENA}
    node.put(A, 200)
    node.put(B, 400)
    assert (node.arenas(A), node.arenas(B)) == (7, 1)


def test_memory_of_a_tenant_that_is_no_more_goes_first() -> None:
    node = Node(arenas=4)
    node.put(A, 20)
    node.put(B, 100)
    node.shares.gone = {A}
    node.put(C, 400)
    assert node.arenas(A) == 0
    assert node.arenas(C) == 2


def test_slots_in_use_stay_where_they_are() -> None:
    node = Node(arenas=4)
    held = node.put(A, 200)[-32:]
    held = [slot for slot in held if node.hot.hold(slot)]
    generations = [slot.generation for slot in held]
    node.put(B, 100)
    assert node.arenas(B) == 0, "all of A's arenas are in use"
    assert [slot.generation for slot in held] == generations
    for slot in held:
        node.hot.let_go(slot)
    node.put(B, 400)
    assert node.arenas(B) == 2


def test_whoever_reads_in_place_sees_another_generation_before_an_arena_goes() -> None:
    closed: list[dict[int, int]] = []
    node = Node(arenas=2)

    def unmade(arena: AnonymousArena) -> None:
        closed.append({page: arena.generation(page) for page in range(0, 32, 4)})

    node.hot.memory.unmade = unmade  # type: ignore[assignment]
    slots = node.put(A, 200)[-16:]
    seen = {(slot.arena, slot.page): slot.generation for slot in slots}
    node.put(B, 100)
    assert len(closed) == 1
    for words in closed:
        for (_, page), generation in seen.items():
            assert words[page] != generation


def test_an_arena_that_clients_have_mapped_is_not_closed_under_them() -> None:
    node = Node(arenas=2)
    node.put(A, 200)
    clients = [object(), object()]
    for arena in node.hot.arenas():
        for client in clients:
            node.hot.memory.lend(arena.number, client)
    node.put(B, 50)
    assert node.arenas(B) == 0
    assert node.hot.lent_wanted in {arena.number for arena in node.hot.arenas()}
    assert set(node.hot.memory.borrowers(node.hot.lent_wanted)) == set(clients)
    for client in clients:
        node.hot.memory.returned(client)
    node.put(B, 50)
    assert node.arenas(B) == 1
    assert not node.hot.lent_wanted


def test_memory_is_counted_until_it_is_free() -> None:
    """Closing and making take time, in which others go on."""
    waiting: list[Callable[[], None]] = []
    node = Node(arenas=2)
    node.put(A, 200)

    def later(work: Callable[[], None], done: Callable[[], None]) -> None:
        waiting.append(lambda: (work(), done()))  # type: ignore[func-returns-value]

    node.hot.memory.offload = later
    node.put(B, 20)
    assert len(waiting) == 1
    assert node.hot.memory.bytes == 2 * ARENA
    node.put(A, 20)
    waiting.pop(0)()
    assert node.hot.memory.making
    assert node.arenas(B) == 0
    waiting.pop(0)()
    assert node.arenas(B) == 1
    assert node.put(B, 1)


def test_a_giver_that_goes_on_putting_does_not_keep_his_arena() -> None:
    node = Node(arenas=4)
    node.put(A, 200, pages=1)
    for _ in range(200):
        node.put(A, 3, pages=1)
        node.put(B, 1, pages=1)
    assert node.arenas(B) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from([1, 4, 9, 32]), st.integers(1, 8)), max_size=60
    ),
    st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 4)),
)
def test_whatever_comes_nobody_has_more_than_he_may(
    puts: list[tuple[bytes, int, int]], most: dict[bytes, int]
) -> None:
    node = Node(arenas=4)
    node.shares.most = {tenant: arenas * ARENA for tenant, arenas in most.items()}
    held: list[Slot] = []
    for tenant, pages, count in puts:
        for slot in node.put(tenant, count, pages):
            if pages == 9 and node.hot.hold(slot):
                held.append(slot)
    for slot in held:
        node.hot.let_go(slot)
    for _ in range(40):
        node.put(B, 4)
    if node.shares.most.get(B, 9 * ARENA) >= ARENA:
        assert node.arenas(B) >= 1, "who wants some has some in the end"
    with pytest.raises(KeyError):
        node.hot.arena(10_000)
