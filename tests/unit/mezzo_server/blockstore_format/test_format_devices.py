"""What a start does to devices: empty, foreign, damaged, short, half formatted, given up."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from mezzo.errors import DeviceFailed, FormatError, MezzoError
from mezzo_server.blockstore.attach import write_superblock
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, digest
from mezzo_server.blockstore.io import Op, Transfer
from tests.unit.mezzo_server.blockstore_format.driver import Driver, copy_of, device_of

KEYS = [b"key %d" % number for number in range(5)]


def content(device: MemoryDevice) -> bytes:
    return bytes(device.memory.view)


def superblock_of(device: MemoryDevice) -> superblock.Superblock:
    found = superblock.newest([content(device)[at : at + BLOCK_BYTES] for at in superblock.COPY_OFFSETS])
    assert found is not None
    return found


def filled(*devices: MemoryDevice) -> None:
    """A store with the chunks of KEYS."""
    driver = Driver(*devices)
    driver.put(KEYS)
    driver.close()


def whole(*devices: MemoryDevice) -> bool:
    driver = Driver(*devices)
    return all(driver.get(key) is not None for key in KEYS)


def overwrite(device: MemoryDevice, offset: int, data: bytes) -> None:
    device.memory.view[offset : offset + len(data)] = data


# -- devices that are not ours -----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 510, 4096, 65600, (1 << 20) + 5, (2 << 20) - 1, -1, -512, -(1 << 20)])
def test_foreign_data_is_refused_and_untouched(offset: int) -> None:
    device = device_of()
    overwrite(device, offset % device.size_bytes, b"\x55")
    before = content(device)
    with pytest.raises(FormatError, match="--format"):
        Driver(device)
    assert content(device) == before
    Driver(device, format_foreign=True).close()
    assert superblock_of(device).set_generation == 1


def test_one_foreign_device_of_two_leaves_both_untouched() -> None:
    devices = device_of(name="one"), device_of(name="two")
    overwrite(devices[1], 1080, b"\x53\xef")
    before = [content(device) for device in devices]
    with pytest.raises(FormatError, match="two"):
        Driver(*devices)
    assert [content(device) for device in devices] == before


def test_a_store_is_never_formatted_away() -> None:
    device = device_of()
    filled(device)
    assert Driver(device, format_foreign=True).get(KEYS[0]) is not None


def test_a_short_device_is_refused_and_untouched() -> None:
    device = device_of()
    filled(device)
    short = MemoryDevice(device.size_bytes - 4096)
    short.memory.view[:] = device.memory.view[: short.size_bytes]
    before = content(short)
    for format_foreign in (False, True):
        with pytest.raises(FormatError, match="truncated"):
            Driver(short, format_foreign=format_foreign)
    assert content(short) == before


def test_a_device_may_have_grown() -> None:
    device = device_of()
    filled(device)
    grown = MemoryDevice(device.size_bytes + (1 << 20))
    grown.memory.view[: device.size_bytes] = device.memory.view
    assert whole(grown)


@pytest.mark.parametrize("size", [1 << 20, (2 << 20) + (256 << 10)])
def test_a_device_that_is_too_small(size: int) -> None:
    with pytest.raises(FormatError):
        Driver(MemoryDevice(size))


def signed(device: MemoryDevice, offset: int, value: int) -> bytes:
    block = bytearray(content(device)[:BLOCK_BYTES])
    block[offset] = value
    body = bytes(block[:-DIGEST_BYTES])
    return body + digest(b"mezzo superblock", body)


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (84, 1)])
def test_a_newer_release_s_device_is_refused_and_untouched(offset: int, value: int) -> None:
    """Even if only one copy says so: repairing it from the other would undo what the release began."""
    device = device_of()
    filled(device)
    newer = signed(device, offset, value)
    for copies in (superblock.COPY_OFFSETS, superblock.COPY_OFFSETS[:1], superblock.COPY_OFFSETS[1:]):
        changed = copy_of(device)
        for at in copies:
            overwrite(changed, at, newer)
        before = content(changed)
        with pytest.raises(FormatError, match="newer release"):
            Driver(changed)
        assert content(changed) == before


# -- damaged superblocks -------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        lambda block: bytes(BLOCK_BYTES),
        lambda block: block[:512] + bytes(BLOCK_BYTES - 512),
        lambda block: b"X" + block[1:],
        lambda block: block[:-1] + bytes([block[-1] ^ 1]),
    ],
    ids=["lost", "torn", "magic", "digest"],
)
def test_a_damaged_copy_is_repaired(copy: int, damage: Callable[[bytes], bytes]) -> None:
    device = device_of()
    filled(device)
    before = content(device)
    offset = superblock.COPY_OFFSETS[copy]
    overwrite(device, offset, damage(before[offset : offset + BLOCK_BYTES]))
    assert whole(device)
    assert content(device)[: superblock.DATA_OFFSET] == before[: superblock.DATA_OFFSET]


def test_an_outdated_copy_is_renewed() -> None:
    device = device_of()
    filled(device)
    older = content(device)[:BLOCK_BYTES]
    write_superblock(device.restarted(), replace(superblock_of(device), retired=(9,), written=5))
    overwrite(device, superblock.COPY_OFFSETS[1], older)
    assert whole(device)
    assert content(device)[:BLOCK_BYTES] == content(device)[1 << 20 : (1 << 20) + BLOCK_BYTES]
    assert superblock_of(device).retired == (9,)


def test_both_copies_damaged_needs_format() -> None:
    device = device_of()
    filled(device)
    for offset in superblock.COPY_OFFSETS:
        overwrite(device, offset + 100, b"\xff\xff")
    before = content(device)
    with pytest.raises(FormatError, match="checksum"):
        Driver(device)
    assert content(device) == before
    driver = Driver(device, format_foreign=True, seed="anew")
    assert [driver.get(key) for key in KEYS] == [None] * len(KEYS), "nothing of the former store is seen"


@pytest.mark.parametrize("copy", [0, 1])
def test_a_device_that_was_given_to_somebody_else(copy: int) -> None:
    """A file system over one copy: repairing it would damage what is there now."""
    device = device_of()
    filled(device)
    overwrite(device, superblock.COPY_OFFSETS[copy], b"\xeb\x58\x90mkfs" * 500)
    before = content(device)
    with pytest.raises(FormatError, match="repair"):
        Driver(device)
    assert content(device) == before
    driver = Driver(device, format_foreign=True)
    assert driver.get(KEYS[0]) is not None
    driver.close()
    assert whole(device)


# -- sets of devices -----------------------------------------------------------------------------


class DyingDevice(MemoryDevice):
    """Fails from the ``lives``-th write on, counted over all that share ``left``."""

    def __init__(self, of: MemoryDevice, left: list[int]) -> None:
        super().__init__(of.size_bytes, name=of.name, memory=of.memory)
        self._left = left

    def restarted(self) -> MemoryDevice:
        return self

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op == Op.WRITE:
            self._left[0] -= 1
            if self._left[0] < 0:
                return -errno.EIO
        return super()._perform(transfer)


def test_formatting_that_was_killed_is_begun_anew_or_ended() -> None:
    writes = 2 * 2 * 2  # devices, copies, passes
    for survived in range(writes):
        devices = device_of(name="one"), device_of(name="two")
        left = [survived]
        with pytest.raises(DeviceFailed):
            Driver(*(DyingDevice(device, left) for device in devices))
        filled(*devices)
        blocks = [superblock_of(device) for device in devices]
        assert [block.set_generation for block in blocks] == [1, 1], survived
        assert blocks[0].members == blocks[1].members == tuple(block.device_id for block in blocks)
        assert whole(*devices)


def three() -> list[MemoryDevice]:
    devices = [device_of(name=name) for name in ("one", "two", "three")]
    filled(*devices)
    return devices


def test_a_missing_device_is_refused_unless_given_up() -> None:
    one, two, gone = three()
    before = [content(one), content(two)]
    with pytest.raises(FormatError, match="3 devices, 2 are here"):
        Driver(one, two)
    assert [content(one), content(two)] == before
    Driver(one, two, allow_missing=True).close()
    Driver(one, two).close()
    with pytest.raises(FormatError, match="three was given up"):
        Driver(one, two, gone)
    with pytest.raises(FormatError, match="three was given up"):
        Driver(one, gone, allow_missing=True)


def test_giving_up_that_was_killed_is_ended() -> None:
    writes = 2 * 2
    for survived in range(writes):
        one, two, gone = three()
        left = [survived]
        with pytest.raises(DeviceFailed):
            Driver(DyingDevice(one, left), DyingDevice(two, left), allow_missing=True)
        if survived:
            # The first device says that the third is given up: the second follows.
            Driver(one, two).close()
            with pytest.raises(FormatError, match="given up"):
                Driver(one, two, gone)
        else:
            Driver(one, two, gone).close()


def test_a_set_that_was_split_is_not_joined() -> None:
    one, two, three_ = three()
    Driver(one, two, allow_missing=True).close()
    Driver(three_, allow_missing=True).close()
    before = [content(device) for device in (one, two, three_)]
    with pytest.raises(FormatError, match="given up"):
        Driver(one, two, three_)
    assert [content(device) for device in (one, two, three_)] == before


def test_devices_that_do_not_belong_together() -> None:
    one, two = device_of(name="one"), device_of(name="two")
    filled(one)
    Driver(two, seed="another").close()
    with pytest.raises(FormatError, match="different stores"):
        Driver(one, two)
    with pytest.raises(FormatError, match="copies of one"):
        Driver(one, copy_of(one))
    empty = device_of(name="empty")
    with pytest.raises(FormatError, match="empty is not part"):
        Driver(one, empty)
    assert not any(content(empty))


def test_too_many_devices() -> None:
    devices = [device_of(8, name=str(number)) for number in range(33)]
    with pytest.raises(FormatError, match="32 at most"):
        Driver(*devices)
    assert not any(any(content(device)[:BLOCK_BYTES]) for device in devices)


def test_errors_are_of_the_tree() -> None:
    assert issubclass(superblock.Unsupported, FormatError)
    assert issubclass(FormatError, MezzoError)
