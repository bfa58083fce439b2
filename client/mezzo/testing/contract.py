"""What every client of Mezzo does, as a suite to subclass. Needs pytest.

    class TestMyClient(ClientContract):
        @pytest.fixture
        def connect(self):
            return lambda namespace: MyClient(..., namespace=namespace)

``connect(namespace)`` makes a client of one and the same store; the store is empty at the start of a
test, or its ``namespace`` fixture names one that is.  The store must hold 8 MiB of chunks, and
lease 1 MiB.  An asynchronous client passes through `mezzo.testing.blocking.Blocking`.

Checks raise AssertionError themselves, so that they hold under ``python -O`` too.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mezzo.errors import ClientClosed, Gone, InvalidArgument, RegionError, TooLarge
from mezzo.events import Cursor, Gap
from mezzo.protocol.messages import EventKind, GapReason
from mezzo.results import PutState

IDENTITY: dict[str, Any] = {
    "model": "org/model-8b",
    "weights_revision": "r1",
    "kv_dtype": "bf16",
    "layout": "NHD",
    "chunk_tokens": 16,
    "chunk_bytes": 4096,
}


def check(truth: object, what: str = "does not hold") -> None:
    """Raise AssertionError unless ``truth``."""
    if not truth:
        raise AssertionError(what)


def same(actual: object, expected: object) -> None:
    """Raise AssertionError unless both are equal."""
    if actual != expected:
        raise AssertionError(f"{actual!r:.400} is not {expected!r:.400}")


def pattern(seed: int, length: int) -> bytes:
    """Bytes in which a shift or a swap shows."""
    return bytes((seed * 37 + index * 7 + (index >> 8) * 11) % 251 for index in range(length))


class ClientContract:
    """Subclass it with a fixture ``connect`` (see the module)."""

    @pytest.fixture
    def connect(self) -> Callable[[str], Any]:
        """Makes a client in a namespace."""
        raise NotImplementedError

    @pytest.fixture
    def namespace(self) -> str:
        """A namespace in which nothing is stored."""
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def client(self, connect: Callable[[str], Any], namespace: str) -> Iterator[Any]:
        """The client under test."""
        client = connect(namespace)
        yield client
        client.close()

    # Bytes in, the same bytes out.

    def test_a_chunk_comes_back_from_a_region(self, client: Any) -> None:
        with client.region(65536) as region:
            data = pattern(1, 16384)
            region.view[:16384] = data
            done = client.put([b"a"], [region[:16384]])
            same((done.stored, done.exists, done.failed, done.states), (1, 0, 0, (PutState.STORED,)))
            got = client.get([b"a"], [region[32768:49152]])
            same((got.found, got.count, got.lengths, got.bytes), ((True,), 1, (16384,), 16384))
            same(bytes(region.view[32768:49152]), data)
            same(bytes(region.view[49152:]), bytes(16384))

    def test_a_chunk_comes_back_from_foreign_memory(self, client: Any) -> None:
        data = pattern(2, 10000)
        same(client.put([b"a"], [data]).stored, 1)
        target = bytearray(10001)
        same(client.get([b"a"], [target]).lengths, (10000,))
        same(bytes(target), data + b"\0")

    @pytest.mark.parametrize("length", [1, 511, 4095, 4096, 4097, 100_000])
    def test_any_length_at_any_place(self, client: Any, length: int) -> None:
        with client.region(400_000) as region:
            data = pattern(length, length)
            region.view[:] = b"\xee" * 400_000
            region.view[77 : 77 + length] = data
            same(client.put([b"k"], [region[77 : 77 + length]]).stored, 1)
            start = 200_003
            same(client.get([b"k"], [region[start : start + length]]).lengths, (length,))
            same(bytes(region.view[start : start + length]), data)
            same(bytes(region.view[start - 64 : start]), b"\xee" * 64)
            same(bytes(region.view[start + length : start + length + 64]), b"\xee" * 64)

    def test_lists_of_extents_and_of_buffers(self, client: Any) -> None:
        with client.region(65536) as region:
            data = pattern(3, 12345)
            region.view[100:5100] = data[:5000]
            region.view[20000:27345] = data[5000:]
            same(client.put([b"k"], [[region[100:5100], region[20000:27345]]]).stored, 1)
            targets = [region[40000:40001], region[50000:62344]]
            same(client.get([b"k"], [targets]).lengths, (12345,))
            same(bytes(region.view[40000:40001]) + bytes(region.view[50000:62344]), data)
            first, second = bytearray(4000), bytearray(8345)
            same(client.get([b"k"], [[first, second]]).count, 1)
            same(bytes(first + second), data)

    def test_several_regions_and_foreign_memory_in_one_call(self, client: Any) -> None:
        with client.region(8192) as one, client.region(8192) as two:
            one.view[:4096], two.view[:4096] = pattern(1, 4096), pattern(2, 4096)
            keys = [b"1", b"2", b"3", b"4"]
            foreign = pattern(3, 5000)
            done = client.put(keys, [one[:4096], two[:4096], foreign, one[:4096]])
            same(done.states, (PutState.STORED,) * 4)
            target = bytearray(5000)
            got = client.get(keys, [two[4096:], one[4096:], target, two[:4096]])
            same(got.lengths, (4096, 4096, 5000, 4096))
            same(bytes(two.view[4096:]), pattern(1, 4096))
            same(bytes(one.view[4096:]), pattern(2, 4096))
            same(bytes(target), foreign)
            same(bytes(two.view[:4096]), pattern(1, 4096))

    def test_many_keys_of_which_some_are_there(self, client: Any) -> None:
        keys = [b"key-%d" % index for index in range(150)]
        chunks = [pattern(index, 100 + index) for index in range(150)]
        same(client.put(keys[::2], chunks[::2]).stored, 75)
        targets = [bytearray(300) for _ in keys]
        got = client.get(keys, targets)
        same(got.found, tuple(index % 2 == 0 for index in range(150)))
        for index in range(0, 150, 2):
            same(bytes(targets[index][: 100 + index]), chunks[index])

    def test_more_keys_than_one_request_takes(self, client: Any) -> None:
        keys = [b"%04x" % index * 16 for index in range(5000)]
        same(client.put(keys[:3], [b"x"] * 3).stored, 3)
        same(client.lookup(keys).prefix, 3)
        same(sum(chunk is not None for chunk in client.stat(keys)), 3)
        same(client.delete(keys).count, 3)

    # Keys that are there, keys that are not.

    def test_a_miss_is_no_error(self, client: Any) -> None:
        got = client.get([b"nothing"], [bytearray(10)])
        same((got.found, got.count, got.lengths, got.bytes), ((False,), 0, (0,), 0))
        same(client.stat([b"nothing"]), (None,))
        same(client.delete([b"nothing"]).deleted, (False,))

    def test_the_first_bytes_of_a_key_stay(self, client: Any) -> None:
        same(client.put([b"k"], [b"first"]).stored, 1)
        done = client.put([b"k", b"new"], [b"other", b"bytes"])
        same(done.states, (PutState.EXISTS, PutState.STORED))
        same((done.stored, done.exists), (1, 1))
        target = bytearray(5)
        client.get([b"k"], [target])
        same(bytes(target), b"first")

    def test_a_key_twice_in_one_put(self, client: Any) -> None:
        done = client.put([b"k", b"k"], [b"one", b"one"])
        same((done.stored, done.exists), (1, 1))

    def test_lookup_counts_the_prefix(self, client: Any) -> None:
        client.put([b"a", b"b", b"d"], [b"1", b"22", b"333"])
        found = client.lookup([b"a", b"b", b"c", b"d"])
        same((found.prefix, found.bytes), (2, 3))
        check(found.load_s >= 0)
        same(client.lookup([b"c", b"a"]).prefix, 0)

    def test_delete_then_put_again(self, client: Any) -> None:
        client.put([b"a", b"b"], [b"1", b"2"])
        gone = client.delete([b"a", b"x", b"b"])
        same((gone.deleted, gone.count), ((True, False, True), 2))
        same(client.get([b"a"], [bytearray(1)]).count, 0)
        same(client.put([b"a"], [b"new"]).stored, 1)
        target = bytearray(3)
        client.get([b"a"], [target])
        same(bytes(target), b"new")

    def test_namespaces_share_nothing(self, connect: Callable[[str], Any], namespace: str) -> None:
        one, two = connect(namespace), connect(f"{namespace}-2")
        try:
            one.put([b"k"], [b"one"])
            same(two.lookup([b"k"]).prefix, 0)
            same(two.put([b"k"], [b"two"]).stored, 1)
            two.delete([b"k"])
            same(one.lookup([b"k"]).prefix, 1)
        finally:
            one.close()
            two.close()

    @pytest.mark.parametrize("name", [None, "named"])
    def test_two_identities_share_nothing(self, client: Any, namespace: str, name: str | None) -> None:
        full = name and f"{namespace[:60]}-{name}"
        one = client.namespace(**IDENTITY, salt=namespace, name=full)
        again = client.namespace(**IDENTITY, salt=namespace, name=full)
        two = client.namespace(**{**IDENTITY, "kv_dtype": "fp8"}, salt=namespace, name=full and f"{full}-fp8")
        try:
            one.put([b"key"], [b"data"])
            same(one.lookup([b"key"]).prefix, 1)
            same(again.lookup([b"key"]).prefix, 1)
            same(two.lookup([b"key"]).prefix, 0)
            same(client.lookup([b"key"]).prefix, 0)
            two.put([b"key"], [b"other"])
            target = bytearray(8)
            same(one.get([b"key"], [target]).lengths, (4,))
            same(bytes(target[:4]), b"data")
        finally:
            for opened in (one, again, two):
                opened.close()

    def test_chunks_of_an_identity_are_no_longer_than_it_says(self, client: Any, namespace: str) -> None:
        typed = client.namespace(**IDENTITY, salt=namespace)
        try:
            with pytest.raises(TooLarge, match=r"chunk 1 has 4097 bytes; .* 4096 \(16 tokens\)"):
                typed.put([b"a", b"b"], [bytes(100), bytes(4097)])
            same(typed.lookup([b"a"]).prefix, 0)
            same(typed.put([b"a", b"b"], [bytes(4096), bytes(100)]).stored, 2)
            with pytest.raises(InvalidArgument, match="tp_rank"):
                typed.namespace(**IDENTITY, tp_rank=1)
        finally:
            typed.close()

    def test_clients_of_a_namespace_see_the_same(self, connect: Callable[[str], Any], namespace: str) -> None:
        one, two = connect(namespace), connect(namespace)
        try:
            one.put([b"k"], [b"bytes"])
            target = bytearray(5)
            same(two.get([b"k"], [target]).count, 1)
            same(bytes(target), b"bytes")
        finally:
            one.close()
            two.close()

    # Parts.

    def test_parts_are_readable_alone(self, client: Any) -> None:
        parts = [1000, 1, 5000, 4096]
        data = pattern(5, sum(parts))
        same(client.put([b"p"], [data], parts=parts).stored, 1)
        start = 0
        for index, length in enumerate(parts):
            target = bytearray(length)
            same(client.get([b"p"], [target], part=(index, 1)).lengths, (length,))
            same(bytes(target), data[start : start + length])
            start += length
        target = bytearray(5001)
        same(client.get([b"p"], [target], part=(1, 2)).lengths, (5001,))
        same(bytes(target), data[1000:6001])
        whole = bytearray(len(data))
        client.get([b"p"], [whole])
        same(bytes(whole), data)

    def test_parts_for_each_chunk(self, client: Any) -> None:
        same(client.put([b"a", b"b"], [b"xyz", b"uvwxyz"], parts=[[1, 2], [3, 3]]).stored, 2)
        targets = [bytearray(2), bytearray(3)]
        same(client.get([b"a", b"b"], targets, part=(1, 1)).lengths, (2, 3))
        same([bytes(target) for target in targets], [b"yz", b"xyz"])
        stats = client.stat([b"a", b"b"])
        same([(chunk.bytes, chunk.parts) for chunk in stats], [(3, 2), (6, 2)])

    def test_parts_beyond_a_chunk(self, client: Any) -> None:
        client.put([b"a"], [b"xyz"], parts=[1, 2])
        target = bytearray(3)
        same(client.get([b"a"], [target], part=(1, 9)).lengths, (2,))
        same(client.get([b"a"], [target], part=(2, 1)).lengths, (0,))

    # Leases.

    def test_a_lease_covers_the_prefix(self, client: Any) -> None:
        client.put([b"a", b"b"], [b"1", b"22"])
        with client.acquire([b"a", b"b", b"c"], 30.0) as lease:
            same((lease.prefix, lease.bytes, lease.held), (2, 3, True))
            same([chunk.leased for chunk in client.stat([b"a", b"b"])], [True, True])
        same(lease.held, False)
        same([chunk.leased for chunk in client.stat([b"a", b"b"])], [False, False])
        same(lease.release(), False)

    def test_release_says_whether_it_was_held(self, client: Any) -> None:
        client.put([b"a"], [b"1"])
        same(client.acquire([b"a"], 30.0).release(), True)

    def test_a_lease_is_renewed_while_it_is_held(self, client: Any) -> None:
        """It lasts longer, and never less; what has ended is `Gone`."""
        client.put([b"a"], [b"1"])
        lease = client.acquire([b"a"], 30.0)
        before = lease.expires
        check(29.0 < lease.renew(1.0) <= 30.0, "a renewal does not shorten")
        check(before <= lease.expires < before + 5.0)
        check(50.0 < lease.renew(60.0) <= 60.0)
        check(before + 20 < lease.expires, "it lasts longer")
        check(lease.held)
        with pytest.raises(InvalidArgument):
            lease.renew(0.0)
        lease.release()
        with pytest.raises(Gone):
            lease.renew(30.0)
        with pytest.raises(Gone):
            client.acquire([b"absent"], 30.0).renew(30.0)

    def test_nothing_to_lease(self, client: Any) -> None:
        lease = client.acquire([b"a"], 30.0)
        same((lease.prefix, lease.bytes, lease.held), (0, 0, False))

    # Loads.

    def test_a_load_that_is_worth_it(self, client: Any) -> None:
        """What computing costs decides; a prefix that is not there is computed."""
        client.put([b"a", b"b"], [pattern(1, 8192), pattern(2, 8192)])
        found = client.lookup([b"a", b"b", b"c"])
        check(0 <= found.load_s <= found.load_high_s)
        check(found.hot_prefix <= found.prefix)
        slow = client.should_load([b"a", b"b", b"c"], 0.001, 16)
        same((slow.load, slow.chunks, slow.prefix, slow.recompute_s), (True, 2, 2, 32 / 0.001))
        check(slow.saved_s > 0)
        quick = client.should_load([b"a", b"b"], 1e15, 16)
        check(not quick.load or quick.load_s == 0.0, quick.reason)
        same(client.should_load([b"absent"], 100.0, 16).chunks, 0)
        for wrong in ((0.0, 16), (100.0, 0)):
            with pytest.raises(InvalidArgument):
                client.should_load([b"a"], *wrong)
        with pytest.raises(InvalidArgument):
            client.should_load([b"a"], 100.0)
        lease = client.acquire([b"a"], 30.0)
        same((lease.found.prefix, lease.found.bytes), (1, 8192))
        lease.release()

    def test_a_deadline_that_is_far_enough(self, client: Any) -> None:
        """It bounds the load, and may be later than the timeout of the client."""
        client.put([b"a"], [pattern(1, 100)])
        same(client.get([b"a"], [bytearray(100)], deadline_s=30.0).count, 1)
        with pytest.raises(InvalidArgument):
            client.get([b"a"], [bytearray(100)], deadline_s=0.0)

    # Events.

    def test_events_come_in_order_and_resume(self, client: Any) -> None:
        """Every put and delete is told once, and a cursor takes a later stream to where the first one was."""
        stream = client.events()
        gap = next(iter(stream))
        same((type(gap), gap.reason), (Gap, GapReason.START))
        client.put([b"a", b"b"], [b"1", b"22"])
        client.put([b"a"], [b"1"])
        client.delete([b"a", b"absent"])
        told = [next(stream) for _ in range(3)]
        same(
            [(event.kind, event.key, event.bytes) for event in told],
            [(EventKind.STORED, b"a", 1), (EventKind.STORED, b"b", 2), (EventKind.DELETED, b"a", 1)],
        )
        same(stream.poll(0.02), ())
        same(Cursor.parse(str(stream.cursor)), told[-1].cursor)
        resumed = client.events(told[0].cursor)
        same(resumed.poll(5.0), tuple(told[1:]))
        stream.close()
        same(list(stream), [])

    def test_a_snapshot_then_events_make_the_present_set(self, connect: Any, namespace: str) -> None:
        """A late joiner, that of a cursor of nowhere, and nothing of other namespaces."""
        client, other = connect(namespace), connect(f"{namespace}-other")
        client.put([b"a", b"b", b"c"], [b"1", b"2", b"3"])
        client.delete([b"b"])
        other.put([b"z"], [b"1"])
        for after in (None, Cursor(b"nowhere to be fo", 5)):
            stream = client.events(after, snapshot=True)
            present: set[bytes] = set()
            gap = next(stream)
            same(gap.reason, GapReason.RESTART if after else GapReason.START)
            same(stream.cursor, None)
            client.put([b"d"], [b"4"])
            while len(present) < 3:
                event = next(stream)
                (present.add if event.stored else present.discard)(event.key)
            same(present, {b"a", b"c", b"d"})
            client.delete([b"d"])
        client.close()
        other.close()

    # What is refused.

    def test_a_target_that_is_too_small(self, client: Any) -> None:
        client.put([b"k"], [pattern(1, 5000)])
        with client.region(8192) as region:
            for target in (bytearray(4999), region[:4096]):
                with pytest.raises(TooLarge):
                    client.get([b"k"], [target])
            same(bytes(region.view), bytes(8192))
            same(client.get([b"k"], [region[:5000]]).count, 1)

    @pytest.mark.parametrize("keys", [[], [b""], [b"x" * 65], ["text"], b"key", [b"ok", None]])
    def test_keys_that_are_none(self, client: Any, keys: Any) -> None:
        with pytest.raises(InvalidArgument):
            client.lookup(keys)
        with pytest.raises(InvalidArgument):
            client.get(keys, [bytearray(1)] * len(keys))

    def test_sources_and_targets_that_are_none(self, client: Any) -> None:
        wrong: Any
        for call in (client.put, client.get):
            for wrong in ([], [b""], [3], [bytearray(1)] * 2, b"x", [[]], [memoryview(bytearray(8))[::2]]):
                with pytest.raises(InvalidArgument):
                    call([b"k"], wrong)
        with pytest.raises(InvalidArgument):
            client.get([b"k"], [b"read-only"])

    @pytest.mark.parametrize("parts", [[2], [3, 1], [0, 3], [], [[1, 2], [3]], [1] * 257])
    def test_parts_that_do_not_fit(self, client: Any, parts: Any) -> None:
        with pytest.raises(InvalidArgument):
            client.put([b"k"], [b"xyz"], parts=parts)
        same(client.lookup([b"k"]).prefix, 0)

    def test_a_life_and_a_priority(self, client: Any) -> None:
        client.put([b"a", b"b"], [b"x", b"y"], ttl_s=3600.0, priority=6)
        client.put([b"c"], [b"z"])
        chunks = client.stat([b"a", b"b", b"c"])
        check(all(chunk is not None for chunk in chunks))
        a, b, c = chunks
        check(3_500_000 < a.ttl_ms <= 3_600_000)
        check((a.priority, b.priority) == (6, 6))
        check((c.ttl_ms, c.priority) == (-1, 3))

    def test_other_arguments_that_are_wrong(self, client: Any) -> None:
        for part in ((-1, 1), (0, 0), (256, 1)):
            with pytest.raises(InvalidArgument):
                client.get([b"k"], [bytearray(1)], part=part)
        with pytest.raises(InvalidArgument):
            client.acquire([b"k"], 0.0)
        with pytest.raises(InvalidArgument):
            client.put([b"k"], [b"x"], position=-1)
        for ttl_s in (0, -1, 2e9, float("nan")):
            with pytest.raises(InvalidArgument):
                client.put([b"k"], [b"x"], ttl_s=ttl_s)
        for priority in (-1, 8):
            with pytest.raises(InvalidArgument):
                client.put([b"k"], [b"x"], priority=priority)
        with pytest.raises(InvalidArgument):
            client.lookup([b"k"], timeout_s=0.0)

    def test_regions_that_are_closed_or_too_small(self, client: Any) -> None:
        region = client.region(5000)
        for start, stop in ((0, 5001), (5001, 5001), (9, 3), (-5001, 0)):
            with pytest.raises(RegionError):
                region[start:stop]
        extent = region[:5000]
        same(client.put([b"k"], [extent]).stored, 1)
        region.close()
        region.close()
        for call in (client.put, client.get):
            with pytest.raises(RegionError):
                call([b"k"], [extent])
        same(client.lookup([b"k"]).prefix, 1)

    # The client itself.

    def test_ping_and_numbers(self, client: Any) -> None:
        check(client.ping() >= 0)
        client.put([b"k"], [b"12345"])
        client.get([b"k"], [bytearray(5)])
        numbers = client.shard_stat()
        check(numbers["chunks"] >= 1)
        statistics = client.statistics()
        same((statistics.bytes_put, statistics.bytes_got), (5, 5))

    def test_a_closed_client(self, connect: Callable[[str], Any], namespace: str) -> None:
        client = connect(namespace)
        client.ping()
        client.close()
        client.close()
        check(client.closed)
        with pytest.raises(ClientClosed):
            client.ping()

    def test_threads_share_a_client(self, client: Any) -> None:
        def work(worker: int) -> None:
            with client.region(3 * 4096) as region:
                for turn in range(20):
                    keys = [b"%d-%d-%d" % (worker, turn, index) for index in range(3)]
                    extents = [region[index * 4096 : index * 4096 + 3000] for index in range(3)]
                    for index in range(3):
                        region.view[index * 4096 : index * 4096 + 3000] = pattern(worker + turn + index, 3000)
                    same(client.put(keys, extents).stored, 3)
                    region.view[:] = bytes(len(region))
                    same(client.lookup(keys).prefix, 3)
                    same(client.get(keys, extents).count, 3)
                    for index in range(3):
                        same(bytes(extents[index].view), pattern(worker + turn + index, 3000))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
