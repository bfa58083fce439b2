"""Regions, places, staging, the send queue, backoff: the parts of the SDK that hold memory or time."""

import array
import ctypes
import fcntl
import gc
import itertools
import mmap
import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo import mapping
from mezzo.backoff import Backoff
from mezzo.checksum import chunk_seed, part_checksum
from mezzo.errors import Busy, InvalidArgument, RegionError, TooLarge, Unavailable
from mezzo.outgoing import BUFFERS_MAX, Payload, SendQueue
from mezzo.places import check_parts, places
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Kind, Ping, PutData
from mezzo.staging import ALIGN_BYTES, Staging
from mezzo.transfers import CheckedSink, cut, zero
from tests.held import descriptors


class TestOwnedRegions:
    def test_its_size_is_sealed(self):
        with mapping.owned(5000) as region:
            assert (len(region), len(region.view), region.sealed, region.adopted) == (5000, 5000, True, False)
            assert os.fstat(region.descriptor).st_size == 2 * mmap.PAGESIZE
            for size in (0, 1 << 20):
                with pytest.raises(PermissionError):
                    os.ftruncate(region.descriptor, size)
            seals = fcntl.fcntl(region.descriptor, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_SHRINK
            assert not os.get_inheritable(region.descriptor)

    @pytest.mark.parametrize("length", [0, -1])
    def test_it_has_bytes(self, length):
        with pytest.raises(InvalidArgument):
            mapping.owned(length)

    @pytest.mark.parametrize("call", ["os.memfd_create", "os.posix_fallocate", "mmap.mmap"])
    def test_no_memory_is_unavailable(self, monkeypatch, call):
        def fail(*args, **kwargs):
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(f"mezzo.mapping.{call}", fail)
        before = descriptors()
        with pytest.raises(Unavailable, match="Cannot allocate"):
            mapping.owned(4096)
        assert descriptors() <= before

    def test_more_than_the_machine_has(self):
        with pytest.raises(Unavailable, match="this machine has"):
            mapping.owned(1 << 62)

    def test_views_outlive_it(self):
        region = mapping.owned(4096)
        view = region.view[:10]
        region.close()
        view[:3] = b"abc"
        assert bytes(view[:4]) == b"abc\0"

    def test_a_region_that_is_dropped_leaves_no_descriptor(self):
        region = mapping.owned(4096)
        descriptor = region.descriptor
        heard = []

        class Listener:
            def closed(self, number):
                heard.append(number)

        listener = Listener()
        number = region.number
        region.call_on_close(listener.closed)
        del region
        gc.collect()
        assert heard == [number]
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)

    def test_slices(self):
        with mapping.owned(100) as region:
            assert region[10:].length == 90
            assert region[:-10][1:] == (0, 90)
            assert region[-10:-4][1:] == (90, 6)
            assert "100 bytes, owned, open" in repr(region)
            for wrong in (slice(None, None, 2), 5):
                with pytest.raises(InvalidArgument, match="step"):
                    region[wrong]


class TestAdoptedRegions:
    def test_a_memfd_is_sealed_against_shrinking(self):
        descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, 3 * mmap.PAGESIZE)
            os.pwrite(descriptor, b"engine", mmap.PAGESIZE)
            region = mapping.adopted(descriptor, 1000, mmap.PAGESIZE)
            assert (region.sealed, region.adopted, region.offset) == (True, True, mmap.PAGESIZE)
            assert region.descriptor != descriptor
            assert bytes(region.view[:6]) == b"engine"
            region.view[:1] = b"E"
            assert os.pread(descriptor, 1, mmap.PAGESIZE) == b"E"
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, 4 * mmap.PAGESIZE)  # growing stays the engine's right
            region.close()
            os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def test_what_cannot_be_sealed_is_adopted_all_the_same(self):
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.ftruncate(file.fileno(), 8192)
            with mapping.adopted(file.name, 8192) as region:
                assert not region.sealed
                region.view[:2] = b"ok"
            assert os.pread(file.fileno(), 2, 0) == b"ok"

    def test_what_does_not_fit(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(bytes(8192))
        with pytest.raises(RegionError, match="has 8192 bytes"):
            mapping.adopted(path, 8193)
        with pytest.raises(RegionError, match="less than offset"):
            mapping.adopted(str(path), 4097, 4096)
        with pytest.raises(InvalidArgument, match="page size"):
            mapping.adopted(path, 100, 1)
        with pytest.raises(InvalidArgument, match="at least one"):
            mapping.adopted(path, 0)
        with pytest.raises(RegionError, match="cannot open"):
            mapping.adopted(tmp_path / "missing", 1)
        with pytest.raises(RegionError, match="cannot open"):
            mapping.adopted(1 << 20, 1)
        with path.open("rb") as readable, pytest.raises(RegionError, match="cannot map"):
            mapping.adopted(readable.fileno(), 8192)


class TestStaging:
    def staging(self, size=16 * ALIGN_BYTES, **options):
        self.regions = []

        def make(length):
            self.regions.append(mapping.owned(length))
            return self.regions[-1]

        return Staging(make, size, **options)

    def test_memory_is_made_at_first_use_and_given_up_at_the_end(self):
        staging = self.staging()
        assert not self.regions
        got = []
        staging.request(10, got.append)
        staging.close()
        assert not self.regions[0].closed
        staging.give(got[0].piece)
        assert self.regions[0].closed

    def test_first_come_first_served(self):
        staging = self.staging(2 * ALIGN_BYTES)
        order = []
        first = staging.request(2 * ALIGN_BYTES, lambda _: order.append(1))
        second = staging.request(2 * ALIGN_BYTES, lambda _: order.append(2))
        staging.request(ALIGN_BYTES, lambda _: order.append(3))
        fourth = staging.request(ALIGN_BYTES, lambda _: order.append(4))
        assert order == [1]
        staging.cancel(fourth)
        staging.give(first.piece)
        assert order == [1, 2]
        staging.cancel(second)
        assert order == [1, 2, 3]

    def test_those_behind_one_that_gave_up_go_on(self):
        staging = self.staging(2 * ALIGN_BYTES)
        order = []
        staging.request(ALIGN_BYTES, lambda _: order.append("held"))
        large = staging.request(2 * ALIGN_BYTES, lambda _: order.append("large"))
        larger = staging.request(2 * ALIGN_BYTES, lambda _: order.append("larger"))
        for _ in range(20):  # those that pass it are not without end
            small = staging.request(ALIGN_BYTES, lambda _: order.append("small"))
            if small.piece is None:
                break
            staging.give(small.piece)
        assert order == ["held", "small", "small"]
        staging.cancel(larger)
        assert small.piece is None
        staging.cancel(large)
        assert small.piece is not None

    def test_one_that_does_not_fit_is_passed_for_a_while(self):
        staging = self.staging(4 * ALIGN_BYTES)
        order = []
        held = staging.request(3 * ALIGN_BYTES, lambda _: order.append("held"))
        staging.request(2 * ALIGN_BYTES, lambda _: order.append("large"))
        small = staging.request(ALIGN_BYTES, lambda _: order.append("small"))
        assert order == ["held", "small"]
        staging.give(held.piece)
        assert order == ["held", "small", "large"]
        staging.give(small.piece)

    def test_limits(self):
        staging = self.staging(ALIGN_BYTES, waiting_max=1)
        staging.request(1, lambda _: None)
        staging.request(1, lambda _: None)
        with pytest.raises(Busy, match="wait for staging"):
            staging.request(1, lambda _: None)
        with pytest.raises(TooLarge, match=f"staging_bytes = {ALIGN_BYTES}"):
            staging.request(ALIGN_BYTES + 1, lambda _: None)

    def test_tainted_memory_is_not_lent_again(self):
        staging = self.staging()
        kept, lost = (staging.request(1, lambda _: None) for _ in range(2))
        self.regions[0].taint("unix:///shard")
        fresh = staging.request(1, lambda _: None)
        assert fresh.piece.extent.region is self.regions[1]
        staging.give(kept.piece)
        assert not self.regions[0].closed
        staging.give(lost.piece)
        assert self.regions[0].closed

    def test_no_memory_is_told_to_the_one_who_asked(self):
        def make(length):
            raise Unavailable("no memory")

        got = []
        Staging(make, 1).request(1, got.append)
        assert got[0].piece is None
        assert isinstance(got[0].error, Unavailable)


class StagingPieces(RuleBasedStateMachine):
    """Pieces never overlap, all requests are served in the end, and no memory is lost."""

    def __init__(self):
        super().__init__()
        self.staging = Staging(mapping.owned, 16 * ALIGN_BYTES)
        self.ready, self.waiting = [], []

    @rule(length=st.integers(1, 16 * ALIGN_BYTES))
    def ask(self, length):
        self.waiting.append(self.staging.request(length, self.arrived))

    def arrived(self, request):
        self.ready.append(request)

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def give(self, data):
        request = self.ready.pop(data.draw(st.integers(0, len(self.ready) - 1)))
        self.staging.give(request.piece)

    @invariant()
    def no_overlap(self):
        taken = sorted((request.piece.extent.offset, request.piece.length) for request in self.ready)
        for (offset, length), (following, _) in itertools.pairwise(taken):
            assert offset + length <= following
        assert all(offset + length <= 16 * ALIGN_BYTES for offset, length in taken)

    def teardown(self):
        while self.ready:
            self.staging.give(self.ready.pop().piece)
        assert all(request.piece is not None for request in self.waiting)
        whole = self.staging.request(16 * ALIGN_BYTES, lambda _: None)
        assert whole.piece is not None
        self.staging.give(whole.piece)
        self.staging.close()


StagingPieces.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestStagingPieces = StagingPieces.TestCase


class TestSendQueue:
    def drain(self, queue, sizes):
        sent, descriptors, turn = b"", [], 0
        while True:
            buffers, descriptor = queue.gather()
            if not buffers:
                return sent, descriptors
            assert len(buffers) <= BUFFERS_MAX
            data = b"".join(buffers)
            count = min(len(data), sizes[turn % len(sizes)])
            turn += 1
            if descriptor is not None:
                descriptors.append((len(sent), descriptor))
            sent += data[:count]
            assert queue.sent(count) == bool(queue)

    @given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), views=st.integers(1, 150))
    def test_everything_goes_out_in_order(self, sizes, views):
        queue = SendQueue()
        pieces = [bytes([index]) * (1 + index % 3) for index in range(views)]
        chunk = b"".join(pieces)
        ping = encode(Kind.PING, 1, Ping())
        queue.append(ping)
        queue.append(ping, descriptor=42)
        queue.append_payload(Payload(5, 0, [memoryview(piece) for piece in pieces], [len(chunk)], 99))
        queue.append(ping)
        data = encode(Kind.PUT_DATA, 5, PutData(0, [part_checksum(99, 0, [chunk])]), len(chunk))
        sent, descriptors = self.drain(queue, sizes)
        assert sent == ping + ping + data + chunk + ping
        # With the first byte of its frame, again as long as none was taken, and never later.
        assert set(descriptors) == {(len(ping), 42)}
        assert not queue

    def test_abandoned_payload_is_left_out(self):
        queue = SendQueue()
        ping = encode(Kind.PING, 1, Ping())
        for request_id in (5, 6):
            queue.append_payload(Payload(request_id, 0, [memoryview(b"abc")], [3], 0))
        queue.abandon(5)
        queue.append(ping)
        sent, _ = self.drain(queue, [1000])
        assert sent.endswith(b"abc" + ping)
        assert sent.count(b"abc") == 1

    def test_what_comes_next_may_need_its_checksums(self):
        queue = SendQueue()
        payload = Payload(5, 0, [memoryview(b"abc")], [3], 0)
        queue.append(encode(Kind.PING, 1, Ping()))
        queue.append_payload(payload)
        assert queue.unprepared is None
        queue.sent(sum(map(len, queue.gather()[0])))
        assert queue.unprepared is payload
        payload.prepare()
        assert queue.unprepared is None


@given(
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    first_part=st.integers(0, 3),
    flip=st.one_of(st.none(), st.integers(0, 239)),
)
def test_a_sink_verifies_parts_over_any_split(parts, cuts, steps, first_part, flip):
    length = sum(parts)
    data = bytearray(index % 251 for index in range(length))
    seed = chunk_seed(bytes(32), b"key")
    start, sums = 0, []
    for number, part_bytes in enumerate(parts):
        sums.append(part_checksum(seed, first_part + number, [data[start : start + part_bytes]]))
        start += part_bytes
    if flip is not None:
        data[flip % length] ^= 1
    views, start, turn = [], 0, 0
    while start < length:
        views.append(memoryview(data)[start : start + cuts[turn % len(cuts)]])
        start += cuts[turn % len(cuts)]
        turn += 1
    sink = CheckedSink(views, seed, first_part, parts, sums)
    received, turn = 0, 0
    while received < length:
        received = min(length, received + steps[turn % len(steps)])
        turn += 1
        sink.advance(received)
    assert not sink.verified
    sink.finish()
    assert sink.verified == (flip is None)


def test_zero_and_cut():
    memory = bytearray(b"\xee" * (3 << 20))
    zero(cut([memoryview(memory)[:1000], memoryview(memory)[1000:]], (2 << 20) + 5))
    assert memory == bytes((2 << 20) + 5) + b"\xee" * ((1 << 20) - 5)


def test_parts_in_the_form_of_the_protocol():
    assert check_parts(None, [5, 6], 256) == []
    assert check_parts((2, 3), [5, 5], 256) == [[2, 3]]
    assert check_parts([(2, 3), [6]], [5, 6], 256) == [[2, 3], [6]]


def test_buffers_of_any_elements():
    numbers = array.array("d", [1.5, 2.5])
    (place,) = places([numbers], writable=True, name="targets")
    assert (place.length, place.region) == (16, None)
    place.memory()[0][:8] = bytes(8)
    assert numbers[0] == 0.0
    square = memoryview(bytearray(12)).cast("I", (3, 1))
    assert places([square], writable=True, name="targets")[0].length == 12

    class Exotic(ctypes.Structure):
        _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_char))

    assert places([(Exotic * 2)()], writable=True, name="targets")[0].length == 16


class TestBackoff:
    @given(chance=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 200))
    def test_delays_grow_and_are_bounded(self, chance, failures):
        backoff = Backoff(lambda: chance, first_s=0.1, factor=2, max_s=3)
        for number in range(failures):
            delay = backoff.failed(50.0)
            ceiling = min(3.0, 0.1 * 2**number)
            assert ceiling / 2 <= delay <= ceiling
            assert backoff.not_before == 50.0 + delay
        backoff.succeeded()
        assert backoff.failed(0.0) <= 0.1

    def test_options(self):
        with pytest.raises(ValueError, match="backoff needs"):
            Backoff(lambda: 0.5, first_s=2, max_s=1)
