"""Both clients against a server by hand: chunks, regions and leases."""

import os

import pytest

import mezzo
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    ErrorCode,
    ProtocolError,
    RegionError,
    TooLarge,
)
from mezzo.protocol.bitmap import pack
from mezzo.protocol.messages import (
    Acquired,
    Cancelled,
    Deleted,
    ErrorReply,
    GetData,
    Got,
    Kind,
    Pong,
    PutDone,
    PutGrant,
    RegionAdded,
    RegionRemoved,
    Released,
)
from tests.contract.peer import UNIX, checksums
from tests.patience import PATIENCE_S


class TestGetOverTheStream:
    def get(self, start, client, network, keys, targets, **options):
        result = start(client.get, keys, targets, **options)
        peer = network.accept()
        return result, peer, peer.expect(Kind.GET)

    def test_chunks_land_in_their_targets(self, client, network, start):
        first, second = bytearray(6), [bytearray(100_000), bytearray(150_001)]
        large = bytes(range(256)) * 976 + b"tail"
        result, peer, get = self.get(
            start, client, network, [b"a", b"b", b"c"], [first, second, bytearray(1)]
        )
        assert (get.body.region, get.body.targets, get.body.capacities) == (0, [], [6, 250_001, 1])
        halves = (large[:70_000], large[70_000:])
        data = GetData(1, 0, [len(half) for half in halves], checksums(b"b", *halves))
        peer.send(Kind.GET_DATA, get.request_id, data, large)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"a", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(2, b"\3", [5, len(large), 0]))
        got = result()
        assert (got.found, got.lengths) == ((True, True, False), (5, len(large), 0))
        assert first == b"bytes\0"
        assert (second[0] + second[1])[: len(large)] == large

    @pytest.mark.parametrize("wrong", ["bytes", "checksum", "key", "part"])
    def test_what_does_not_check_is_a_miss_and_zeroed(self, client, network, start, wrong):
        target = bytearray(b"\xee" * 8)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        payload = b"byteZ" if wrong == "bytes" else b"bytes"
        sums = checksums(b"other" if wrong == "key" else b"k", b"bytes")
        if wrong == "checksum":
            sums[0] ^= 1
        if wrong == "part":
            sums = checksums(b"k", b"", b"bytes")[1:]
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], sums), payload)
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        got = result()
        assert (got.found, got.lengths, got.bytes) == ((False,), (0,), 0)
        assert target == bytes(5) + b"\xee" * 3
        assert client.statistics().checksum_mismatches == 1

    def test_what_the_server_takes_back_is_a_miss_and_zeroed(self, client, network, start):
        target = bytearray(5)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"k", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        assert result().found == (False,)
        assert target == bytes(5)
        assert client.statistics().checksum_mismatches == 0

    def test_a_lost_connection_leaves_no_bytes(self, client, network, start):
        target = bytearray(200_000)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        head = GetData(0, 0, [200_000], [1])
        peer.send(Kind.GET_DATA, get.request_id, head, b"x" * 200_000)
        peer.close()
        network.accept().close()
        with pytest.raises(ConnectionLost):
            result()
        assert target == bytes(200_000)

    @pytest.mark.parametrize(
        ("data", "payload"),
        [
            (GetData(1, 0, [5], [1]), b"12345"),
            (GetData(0, 0, [6], [1]), b"123456"),
            (GetData(0, 1, [5], [1]), b"12345"),
            (GetData(0, 0, [5], [1, 2]), b"12345"),
        ],
    )
    def test_data_that_nobody_asked_for(self, client, network, start, data, payload):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        peer.send(Kind.GET_DATA, get.request_id, data, payload)
        with pytest.raises(ProtocolError):
            result()

    def test_data_for_one_key_twice(self, client, network, start):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        for _ in range(2):
            data = GetData(0, 0, [5], checksums(b"k", b"bytes"))
            peer.send(Kind.GET_DATA, get.request_id, data, b"bytes")
        with pytest.raises(ProtocolError, match="not due"):
            result()

    @pytest.mark.parametrize(
        "got", [Got(1, b"\1", [5]), Got(0, b"\0", []), Got(0, b"\2", [0]), Got(1, b"\1", [6])]
    )
    def test_an_end_that_does_not_fit(self, client, network, start, got):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        peer.send(Kind.GOT, get.request_id, got)
        with pytest.raises(ProtocolError):
            result()

    def test_parts(self, client, network, start):
        target = bytearray(10)
        result, peer, get = self.get(start, client, network, [b"k"], [target], part=(1, 2))
        assert (get.body.first_part, get.body.part_count) == (1, 2)
        sums = checksums(b"k", b"0", b"one", b"two")[1:]
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 1, [3, 3], sums), b"onetwo")
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [6]))
        assert result().lengths == (6,)
        assert target == b"onetwo\0\0\0\0"


class TestPutOverTheStream:
    def test_only_what_is_granted_is_sent(self, client, network, start):
        sources = [b"first", [b"sec", b"ond"], bytes(range(256)) * 8192]
        result = start(client.put, [b"a", b"b", b"c"], sources, position=7)
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        assert (put.body.lengths, put.body.region, put.body.sources) == ([5, 6, 1 << 21], 0, [])
        assert (put.body.position, put.body.positions) == (7, [])
        peer.grant(put.request_id, PutGrant([2]))
        peer.grant(put.request_id, PutGrant([0]))
        for index, key, source in ((2, b"c", sources[2]), (0, b"a", b"first")):
            data = peer.expect(Kind.PUT_DATA)
            assert (data.body.index, data.body.checksums) == (index, checksums(key, source))
            assert peer.payload == source
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\2", 1, 1))
        done = result()
        assert done.states == (mezzo.PutState.STORED, mezzo.PutState.EXISTS, mezzo.PutState.FAILED)
        assert (done.stored, done.exists, done.failed) == (1, 1, 1)
        assert client.statistics().bytes_put == 5

    def test_what_the_server_does_not_take(self, client, network, start):
        result = start(client.put, [b"a", b"b", b"c"], [b"a", b"b", b"c"])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"", b"\1", 0, 1, b"\4", 1))
        done = result()
        assert done.states == (mezzo.PutState.EXISTS, mezzo.PutState.FAILED, mezzo.PutState.DECLINED)
        assert (done.stored, done.exists, done.failed, done.declined) == (0, 1, 1, 1)
        assert client.statistics().bytes_put == 0

    def test_checksums_of_parts_over_several_buffers(self, client, network, start):
        result = start(client.put, [b"k"], [[b"abc", b"defg", b"h"]], parts=[2, 5, 1])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        assert put.body.parts == [[2, 5, 1]]
        peer.grant(put.request_id, PutGrant([0]))
        assert peer.expect(Kind.PUT_DATA).body.checksums == checksums(b"k", b"ab", b"cdefg", b"h")
        assert peer.payload == b"abcdefgh"
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert result().stored == 1

    @pytest.mark.parametrize("grants", [[1], [0, 0]])
    def test_grants_that_make_no_sense(self, client, network, start, grants):
        result = start(client.put, [b"k"], [b"bytes"])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        peer.send(Kind.PUT_GRANT, put.request_id, PutGrant(grants))
        with pytest.raises(ProtocolError):
            result()

    @pytest.mark.parametrize(
        "done",
        [PutDone(b"\1", b"\1", 1, 1), PutDone(b"\2", b"\0", 1, 0), PutDone(b"\1", b"", 1, 0, b"\1", 1)],
    )
    def test_an_end_that_does_not_fit(self, client, network, start, done):
        result = start(client.put, [b"k"], [b"bytes"])
        peer = network.accept()
        peer.send(Kind.PUT_DONE, peer.expect(Kind.PUT).request_id, done)
        with pytest.raises(ProtocolError):
            result()

    def test_too_long_for_the_server(self, client, network, start):
        result = start(client.put, [b"k"], [b"bytes"])
        network.accept(chunk_bytes_max=4)
        with pytest.raises(TooLarge, match="chunk_bytes_max = 4"):
            result()

    def test_a_get_goes_on_while_a_put_cannot(self, client, network, start):
        """Neither side reads before it has sent: this must not stand still."""
        chunk = bytes(8 << 20)
        put_result = start(client.put, [b"p"], [chunk])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        target = bytearray(len(chunk))
        get_result = start(client.get, [b"g"], [target])
        get = peer.expect(Kind.GET)
        peer.grant(put.request_id, PutGrant([0]))
        sums = checksums(b"g", chunk)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [len(chunk)], sums), chunk)
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [len(chunk)]))
        assert get_result().count == 1
        peer.expect(Kind.PUT_DATA)
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert put_result().stored == 1

    def test_payload_that_was_not_begun_is_not_sent_after_a_cancel(self, make, connected, start):
        client = make(cancel_grace_s=PATIENCE_S)
        peer = connected(client)
        chunk = bytes(8 << 20)
        result = start(client.put, [b"a", b"b"], [chunk, chunk], timeout_s=0.3)
        put = peer.expect(Kind.PUT)
        peer.grant(put.request_id, PutGrant([0, 1]))
        # Nothing is read until the time is over: the first chunk stands half in the socket.
        inner = getattr(client, "_client", client)
        while client.statistics().timeouts == 0 and "CANCELLING" not in repr(inner._link.session._in_flight):
            pass
        assert peer.expect(Kind.PUT_DATA).body.index == 0
        assert peer.expect(Kind.CANCEL).request_id == put.request_id
        peer.send(Kind.CANCELLED, put.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()


class TestSharedMemory:
    def test_a_region_is_registered_once(self, make, network, start):
        client = make(UNIX)
        region = client.region(10_000)
        region.view[:5] = b"bytes"
        result = start(
            client.put, [b"a", b"b"], [region[:5], [region[8:9], region[6:8]]], parts=[[2, 3], [3]]
        )
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        assert (add.body.region, add.body.offset, add.body.length) == (region.number, 0, 10_000)
        assert len(peer.descriptors) == 1
        assert os.pread(peer.descriptors[0], 5, 0) == b"bytes"
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, False))
        put = peer.expect(Kind.PUT)
        assert put.body.region == region.number
        assert put.body.sources == [[0, 5], [8, 1, 6, 2]]
        assert put.body.parts == [[2, 3], [3]]
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\3", b"\0", 2, 0))
        assert result().stored == 2
        result = start(client.get, [b"a"], [region[100:200]])
        get = peer.expect(Kind.GET)
        assert get.body.targets == [[100, 100]]
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        assert result().lengths == (5,)
        assert len(peer.descriptors) == 1

    def test_chunks_of_one_region_go_as_one_request_or_as_the_limits_say(self, make, network, start):
        client = make(UNIX)
        region = client.region(4 * 4096)
        targets = [region[at : at + 4096] for at in range(0, 4 * 4096, 4096)]
        result = start(client.get, [b"a", b"b", b"c"], targets[1:])
        peer = network.accept(shm=True, keys_max=3)
        add = peer.expect(Kind.REGION_ADD)
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, False))
        get = peer.expect(Kind.GET)
        assert (get.body.keys, get.body.targets) == (
            [b"a", b"b", b"c"],
            [[at, 4096] for at in (4096, 8192, 12288)],
        )
        peer.send(Kind.GOT, get.request_id, Got(2, b"\5", [9, 0, 7]))
        assert (result().found, result().lengths) == ((True, False, True), (9, 0, 7))
        result = start(client.put, [b"a", b"b", b"c", b"d"], targets, position=5)
        first, second = peer.expect(Kind.PUT), peer.expect(Kind.PUT)
        assert [put.body.keys for put in (first, second)] == [[b"a", b"b", b"c"], [b"d"]]
        assert (second.body.sources, second.body.position) == ([[12288, 4096]], 8)
        peer.send(Kind.PUT_DONE, second.request_id, PutDone(b"\0", b"\1", 0, 1))
        peer.send(Kind.PUT_DONE, first.request_id, PutDone(b"\7", b"\0", 3, 0))
        assert (result().stored, result().exists) == (3, 1)
        assert client.statistics().bytes_put == 3 * 4096

    def test_a_region_that_the_server_refuses(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        results = [start(client.get, [b"k"], [region[:9]])]
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        peer.send(Kind.ERROR, add.request_id, ErrorReply(ErrorCode.REGION, "no room for regions"))
        for result in results:
            with pytest.raises(RegionError, match="no room"):
                result()
        result = start(client.get, [b"k"], [region[:9]])
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(False, False))
        peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
        assert result().count == 0

    def test_a_closed_region_is_forgotten(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:9]])
        peer = network.accept(shm=True)
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        get = peer.expect(Kind.GET)
        closing = region.close
        closing()  # with a transfer in flight: the memory stays until that has ended
        descriptor = region._descriptor
        os.fstat(descriptor)
        remove = peer.expect(Kind.REGION_REMOVE)
        assert remove.body.region == region.number
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        result()
        peer.send(Kind.REGION_REMOVED, remove.request_id, RegionRemoved())
        with pytest.raises(RegionError, match="closed"):
            _ = region.view
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_a_region_that_is_closed_while_it_is_added(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:9]])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        region.close()
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        get = peer.expect(Kind.GET)
        remove = peer.expect(Kind.REGION_REMOVE)
        assert remove.body.region == region.number
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        peer.send(Kind.REGION_REMOVED, remove.request_id, RegionRemoved())
        assert result().count == 0

    def test_foreign_memory_goes_through_staging(self, make, network, start):
        client = make(UNIX, staging_bytes=65536)
        result = start(client.put, [b"a", b"b"], [b"foreign", b"memory"])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        assert add.body.length == 65536
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        put = peer.expect(Kind.PUT)
        (first, first_bytes), (second, second_bytes) = put.body.sources
        assert os.pread(peer.descriptors[0], first_bytes, first) == b"foreign"
        assert os.pread(peer.descriptors[0], second_bytes, second) == b"memory"
        assert first % 4096 == second % 4096 == 0
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\3", b"\0", 2, 0))
        assert result().stored == 2
        target = bytearray(9)
        result = start(client.get, [b"a"], [target])
        get = peer.expect(Kind.GET)
        os.pwrite(peer.descriptors[0], b"foreign", get.body.targets[0][0])
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [7]))
        assert result().lengths == (7,)
        assert target == b"foreign\0\0"
        assert client.statistics().bytes_copied == 20

    def test_foreign_memory_larger_than_staging(self, make, network, start):
        client = make(UNIX, staging_bytes=8192)
        result = start(client.get, [b"a"], [bytearray(8193)])
        network.accept(shm=True)
        with pytest.raises(TooLarge, match="staging_bytes = 8192"):
            result()

    def test_foreign_memory_in_turns(self, make, network, start):
        client = make(UNIX, staging_bytes=8192)
        result = start(client.put, [b"%d" % index for index in range(5)], [bytes(4096)] * 5, position=3)
        peer = network.accept(shm=True)
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        positions = []
        for _ in range(3):
            put = peer.expect(Kind.PUT)
            positions.append((put.body.position, len(put.body.keys)))
            stored = pack([True] * len(put.body.keys))
            peer.send(Kind.PUT_DONE, put.request_id, PutDone(stored, b"", len(put.body.keys), 0))
        assert positions == [(3, 2), (5, 2), (7, 1)]
        assert result().stored == 5

    def test_a_chunk_lies_in_one_region(self, make, network, start):
        client = make(UNIX)
        one, two = client.region(4096), client.region(4096)
        result = start(client.put, [b"k"], [[one[:10], two[:10]]])
        network.accept(shm=True)
        with pytest.raises(mezzo.InvalidArgument, match="several regions"):
            result()

    def test_without_shared_memory_extents_go_over_the_stream(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        region.view[:5] = b"bytes"
        result = start(client.put, [b"k"], [[region[:2], region[2:5]]])
        peer = network.accept(shm=False)
        put = peer.expect(Kind.PUT)
        assert put.body.region == 0
        peer.grant(put.request_id, PutGrant([0]))
        peer.expect(Kind.PUT_DATA)
        assert peer.payload == b"bytes"
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert result().stored == 1


class TestLeases:
    def test_the_pieces_of_a_long_prefix_are_one_lease(self, client, network, start):
        keys = [b"%d" % index for index in range(5)]
        result = start(client.acquire, keys, 30.0)
        peer = network.accept(keys_max=2)
        for lease, prefix in ((71, 2), (72, 1)):
            acquire = peer.expect(Kind.ACQUIRE)
            assert acquire.body.lease_ms == 30_000
            peer.send(Kind.ACQUIRED, acquire.request_id, Acquired(lease, prefix, prefix * 10, 20_000, 5))
        lease = result()
        assert (lease.prefix, lease.bytes, lease.held) == (3, 30, True)
        released = start(lease.release)
        for number in (71, 72):
            frame = peer.expect(Kind.RELEASE)
            assert frame.body.lease == number
            peer.send(Kind.RELEASED, frame.request_id, Released(True))
        assert released() is True
        assert lease.release() is False

    def test_it_ends_with_its_connection(self, client, network, start):
        result = start(client.acquire, [b"k"], 30.0)
        peer = network.accept()
        peer.send(Kind.ACQUIRED, peer.expect(Kind.ACQUIRE).request_id, Acquired(9, 1, 5, 30_000, 5))
        lease = result()
        peer.close()
        result = start(client.ping)
        peer = network.accept()
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()
        assert not lease.held
        assert lease.release() is False

    def test_it_ends_by_the_clock(self, make, network, start):
        clock = [50.0]
        client = make(surroundings=network.surroundings(now=lambda: clock[0]))
        result = start(client.acquire, [b"k"], 30.0)
        peer = network.accept()
        peer.send(Kind.ACQUIRED, peer.expect(Kind.ACQUIRE).request_id, Acquired(9, 1, 5, 2_000, 5))
        lease = result()
        assert (lease.expires, lease.held) == (52.0, True)
        clock[0] = 52.0
        assert not lease.held


def test_delete_of_many(make, network, start):
    result = start(make().delete, [b"a", b"b", b"c"])
    peer = network.accept(keys_max=2)
    for bits in (b"\2", b"\1"):
        peer.send(Kind.DELETED, peer.expect(Kind.DELETE).request_id, Deleted(1, bits))
    assert result().deleted == (False, True, True)
