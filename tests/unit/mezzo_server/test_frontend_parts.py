"""The parts of the front-end that decide: order of pieces, windows, leases, namespaces. No gRPC, no clock."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import Busy, InternalError, InvalidArgument, TooLarge, Unavailable
from mezzo.frontend.wire import Piece
from mezzo.v1 import store_pb2
from mezzo_server.access.authentication import EVERYBODY
from mezzo_server.access.principal import Principal, Scopes
from mezzo_server.frontend.caller import calling
from mezzo_server.frontend.calls import CALL_S_MAX, Calls, time_left
from mezzo_server.frontend.get import Wanted, cut_windows, pack
from mezzo_server.frontend.leases import LeaseTable
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.numbers import SECONDS, FrontendNumbers
from mezzo_server.frontend.patience import RESERVE_S, for_next, for_shards
from mezzo_server.frontend.put import PACE_BYTES, Putting, patience_s
from mezzo_server.frontend.room import Room, aligned
from mezzo_server.frontend.shares import Shares

CHUNKS = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6)


@given(CHUNKS, st.integers(1, 200))
def test_what_is_packed_for_a_get_is_what_a_put_takes(chunks, piece_bytes):
    messages = list(pack([(index, memoryview(data)) for index, data in enumerate(chunks)], piece_bytes))
    for pieces in messages[:-1]:
        assert sum(len(piece.data) for piece in pieces) == piece_bytes
    assert 0 < sum(len(piece.data) for piece in messages[-1]) <= piece_bytes
    room = [bytearray(len(data)) for data in chunks]
    putting = Putting([len(data) for data in chunks], [memoryview(buffer) for buffer in room])
    for pieces in messages:
        assert not putting.whole
        for piece in pieces:
            putting.take(piece)
    assert putting.whole
    assert [bytes(buffer) for buffer in room] == chunks


@given(CHUNKS, st.data())
def test_no_piece_is_taken_but_the_next_one(chunks, data):
    room = [bytearray(len(chunk)) for chunk in chunks]
    putting = Putting([len(chunk) for chunk in chunks], [memoryview(buffer) for buffer in room])
    due = data.draw(st.integers(0, len(chunks) - 1))
    for index in range(due):
        putting.take(Piece(index, 0, chunks[index]))
    before = [bytes(buffer) for buffer in room]
    wrong = data.draw(
        st.builds(Piece, st.integers(0, 7), st.integers(0, 400), st.binary(max_size=400)).filter(
            lambda piece: (
                (piece.chunk, piece.offset) != (due, 0) or not 0 < len(piece.data) <= len(chunks[due])
            )
        )
    )
    with pytest.raises(InvalidArgument):
        putting.take(wrong)
    assert [bytes(buffer) for buffer in room] == before


@given(st.lists(st.integers(1, 100_000), max_size=20), st.integers(4096, 200_000))
def test_windows_have_all_chunks_in_order_within_their_bound(sizes, window_bytes):
    chunks = [Wanted(index, size) for index, size in enumerate(sizes)]
    windows = list(cut_windows(chunks, window_bytes))
    assert [chunk for window in windows for chunk in window] == chunks
    for window in windows:
        assert len(window) == 1 or sum(aligned(chunk.room_bytes) for chunk in window) <= window_bytes


def test_a_put_keeps_a_pace():
    assert patience_s(20, 0, 0) == 20
    assert patience_s(20, 0, 15) == 5
    assert patience_s(20, 100, 21) < 0, "a few bytes now and then"
    assert patience_s(20, PACE_BYTES, 21) > 18
    assert patience_s(20, 100 * PACE_BYTES, 60) == 20


T = b"t" * 16
OTHER = b"o" * 16


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Held:
    """A namespace, as far as leases see."""

    tenant = T
    holds = 0

    def hold(self):
        self.holds += 1

    def let_go(self):
        self.holds -= 1


def acquired(table, expires, namespace):
    with table.reserved(namespace.tenant) as add:
        return add(SimpleNamespace(expires=expires), namespace)


def test_leases_leave_the_table_by_name_or_by_time():
    clock = Clock()
    names = iter([b"a" * 16, b"b" * 16, b"c" * 16])
    table = LeaseTable(2, clock, lambda length: next(names))
    namespace = Held()
    first, second = acquired(table, 110.0, namespace), acquired(table, 120.0, namespace)
    assert namespace.holds == 2
    with pytest.raises(Busy, match=r"frontend\.leases_max"), table.reserved(T):
        pass
    assert table.take(first, T).lease.expires == 110.0
    assert table.take(first, T) is None
    assert table.take(b"unknown", T) is None
    # Of another tenant it is as unknown, and stays.
    assert table.take(second, b"other") is None
    assert table.find(second, b"other") is None
    assert table.find(second, T) is not None
    # What is being acquired counts already.
    with table.reserved(T), pytest.raises(Busy), table.reserved(T):
        pass
    with table.reserved(T):
        pass
    clock.now = 120.0
    assert table.take(second, T) is None
    assert (len(table), namespace.holds) == (0, 0)


def test_a_lease_that_was_renewed_stays_in_the_table():
    clock = Clock()
    table = LeaseTable(2, clock, lambda length: b"a" * length)
    namespace = Held()
    name = acquired(table, 110.0, namespace)
    with table.renewing(name, T) as held:
        held.lease.expires = 130.0
    clock.now = 120.0
    assert table.find(name, T) is held
    clock.now = 130.0
    assert table.find(name, T) is None
    assert namespace.holds == 0


def test_a_lease_does_not_end_while_it_is_renewed():
    clock = Clock()
    table = LeaseTable(2, clock, lambda length: b"a" * length)
    namespace = Held()
    name = acquired(table, 110.0, namespace)
    with table.renewing(name, T) as held:
        # The shard has renewed it in time, and its answer comes a little later.
        clock.now = 110.5
        table.expire()
        held.lease.expires = 130.0
    assert table.find(name, T) is held
    with table.renewing(name, T):  # in vain
        clock.now = 130.0
        table.expire()
        assert len(table) == 1
    assert table.find(name, T) is None
    with table.renewing(name, T) as nothing:
        assert nothing is None
    assert (len(table), namespace.holds) == (0, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=200))
def test_the_table_of_leases_stays_as_small_as_what_is_held(steps):
    clock = Clock()
    count = iter(range(10_000))
    table = LeaseTable(1000, clock, lambda length: next(count).to_bytes(length, "big"))
    namespace = Held()
    model = {}
    for add, number in steps:
        if add:
            model[acquired(table, clock.now + number, namespace)] = clock.now + number
        else:
            clock.now += number / 10
        table.expire()
        model = {name: expires for name, expires in model.items() if expires > clock.now}
        assert len(table) == namespace.holds == len(model)
        assert len(table._ends) <= 2 * len(model) + 65


@pytest.mark.parametrize(
    ("count_max", "alone", "two"), [(1, 1, [1, 0]), (4, 3, [2, 2]), (256, 192, [110, 110])]
)
def test_no_tenant_takes_all(count_max, alone, two):
    def taken(shares, *tenants):
        """What each gets, if all take one after another as long as anybody gets one."""
        counts = dict.fromkeys(tenants, 0)
        while True:
            before = sum(counts.values())
            for tenant in tenants:
                with contextlib.suppress(Busy):
                    shares.take(tenant)
                    counts[tenant] += 1
            if sum(counts.values()) == before:
                return list(counts.values())

    assert taken(Shares("things", count_max, "things_max"), T) == [alone]
    assert taken(Shares("things", count_max, "things_max"), T, OTHER) == two
    # Where there are no tenants nobody is there to whom something would be left.
    assert taken(Shares("things", count_max, "things_max"), b"") == [count_max]


def test_what_was_given_back_can_be_had_again():
    shares = Shares("things", 4, "things_max")
    for _ in range(10):
        with shares.held(T), shares.held(T), shares.held(T):
            with pytest.raises(Busy, match=r"3 things, all of this tenant.*\(things_max\)"):
                shares.take(T)
            with shares.held(OTHER), pytest.raises(Busy, match=r"4 things \(things_max\)"):
                shares.take(OTHER)
    assert len(shares) == 0


class FakeClient:
    def __init__(self):
        self.closed = False

    async def close(self):
        self.closed = True


def test_namespaces_in_use_are_kept_and_idle_ones_make_room():
    async def play():
        clients = {}

        def make(principal, name):
            clients[name] = FakeClient()
            return clients[name]

        namespaces = Namespaces(make, 2)
        async with namespaces.use("a"), namespaces.use("b"):
            with pytest.raises(Busy, match=r"frontend\.namespaces_max"):
                async with namespaces.use("c"):
                    pass
        async with namespaces.use("a"):
            pass
        async with namespaces.use("c"):  # b was idle for longest
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (clients["a"].closed, clients["b"].closed) == (False, True)
        with pytest.raises(InvalidArgument):
            async with namespaces.use(""):
                pass
        await namespaces.close()
        assert all(client.closed for client in clients.values())

    with calling(EVERYBODY):
        asyncio.run(play())


def test_a_name_is_the_callers_tenants():
    made = []

    def make(principal, name):
        made.append((principal.tenant, name))
        return FakeClient()

    ensured = []

    async def ensure(principal, name):
        ensured.append((principal.tenant, name))
        if name == "refused":
            raise Unavailable("the metadata are away")

    async def play():
        namespaces = Namespaces(make, 2, ensure)
        for tenant in (T, OTHER, T):
            with calling(Principal(tenant, "", Scopes.READ, "c")):
                async with namespaces.use("a") as namespace:
                    assert namespace.tenant == tenant
        assert made == [(T, "a"), (OTHER, "a")]
        # It may have been deleted since, so it is looked for each time.
        assert ensured == [(T, "a"), (OTHER, "a"), (T, "a")]
        with calling(Principal(T, "", Scopes.READ, "c")), pytest.raises(Unavailable):
            async with namespaces.use("refused"):
                pass
        assert len(namespaces) == 2
        # What is asked outside of a call is asked by nobody.
        with pytest.raises(InternalError):
            async with namespaces.use("a"):
                pass

    asyncio.run(play())


def test_room_is_lent_and_given_back():
    async def play():
        numbers = FrontendNumbers()
        room = Room(3 * 4096, 10, numbers)
        async with room.take([1, 4097], 5.0) as extents:
            assert [(extent.offset, extent.length) for extent in extents] == [(0, 1), (4096, 4097)]
            with pytest.raises(Busy, match=r"frontend\.staging_bytes"):
                async with room.take([1], 0.01):
                    pass
        assert numbers.staging_refused == 1
        with pytest.raises(TooLarge, match=r"frontend\.staging_bytes"):
            async with room.take([3 * 4096 + 1], 5.0):
                pass
        async with room.take([3 * 4096], 5.0):
            pass
        room.close()

    asyncio.run(play())


def test_a_tenant_leaves_room_to_others():
    async def play():
        numbers = FrontendNumbers()
        room = Room(9 * 4096, 100, numbers)
        async with contextlib.AsyncExitStack() as mine:
            for _ in range(6):
                await mine.enter_async_context(room.take([4096], 5.0, b"mine"))
            with pytest.raises(Busy, match=r"frontend\.staging_bytes"):
                await mine.enter_async_context(room.take([4096], 0.01, b"mine"))
            late = asyncio.create_task(mine.enter_async_context(room.take([4096], 5.0, b"mine")))
            given_up = asyncio.create_task(mine.enter_async_context(room.take([4096], 5.0, b"mine")))
            async with room.take([2 * 4096], 5.0, b"other"):
                await asyncio.sleep(0)
                assert not late.done()
            given_up.cancel()
            await asyncio.wait([given_up])
            assert not late.done()
            await mine.aclose()
            await late
        async with room.take([9 * 4096], 5.0, b"mine"):
            pass
        async with contextlib.AsyncExitStack() as all_of_it:  # where there are no tenants
            for _ in range(9):
                await all_of_it.enter_async_context(room.take([4096], 0.01))
        assert numbers.staging_refused == 1
        room.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("remaining", "expected"), [(0.5, 0.5), (None, CALL_S_MAX), (1e9, CALL_S_MAX), (-1.0, 0.001)]
)
def test_the_time_that_a_call_has_is_its_callers(remaining, expected):
    assert time_left(SimpleNamespace(time_remaining=lambda: remaining)) == expected


@given(st.floats(0.001, 3600), st.booleans())
def test_shards_get_less_time_than_their_caller_has_where_there_are_several(left_s, more):
    assert for_shards(left_s, several=False) == left_s == for_next(left_s, several=False, more=more)
    assert 0.875 * left_s <= for_shards(left_s, several=True) < left_s
    assert left_s - for_shards(left_s, several=True) <= RESERVE_S
    assert for_next(left_s, several=True, more=False) == for_shards(left_s, several=True)
    assert 0 < for_next(left_s, several=True, more=True) <= left_s / 2, (
        "one that is silent leaves time for the rest"
    )


def test_a_call_gets_the_time_of_its_caller_and_its_error_is_told():
    async def play():
        numbers = FrontendNumbers()
        aborted = []

        async def abort(status, message, metadata):
            aborted.append((status.name, message, dict(metadata)))
            raise ConnectionAbortedError

        async def answer(request, timeout_s):
            raise Busy(f"{timeout_s}", 0.5)

        async def read():
            return b""

        context = SimpleNamespace(time_remaining=lambda: 1.5, abort=abort, read=read)
        handle = Calls(numbers, 10).unary("Lookup", store_pb2.LookupRequest, answer)
        with pytest.raises(ConnectionAbortedError):
            await handle(None, context)
        metadata = {"mezzo-code": "BUSY", "mezzo-retry-after-ms": "500"}
        assert aborted == [("RESOURCE_EXHAUSTED", "1.5", metadata)]
        assert (numbers.errors, numbers.calls["Lookup"], numbers.calls_in_flight) == ({"BUSY": 1}, 1, 0)

    asyncio.run(play())


def test_numbers_of_calls():
    numbers = FrontendNumbers()
    numbers.begin()
    numbers.begin()
    numbers.end("Get", 0.003)
    numbers.end("Get", 1e9, "BUSY")
    assert (numbers.calls["Get"], numbers.calls_in_flight, numbers.calls_in_flight_max) == (2, 0, 2)
    assert numbers.errors == {"BUSY": 1}
    buckets = numbers.seconds["Get"].buckets
    assert buckets[SECONDS.index(0.005)] == buckets[-1] == 1
