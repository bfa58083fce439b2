"""A world whose store gets, loses, replaces and grows devices at random moments."""

from __future__ import annotations

from collections.abc import Iterable

from mezzo.errors import Busy, InvalidArgument
from mezzo_server.blockstore.attach import inspect
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET, Superblock
from mezzo_server.blockstore.join import prepare
from tests.simulation.world import SEGMENT_BYTES, World

DEVICES_MAX = 4


class ChangingWorld(World):
    """See the module. ``devices`` are all that the store has, and those that it lost since the start."""

    def __init__(self, seed: int, **more: object) -> None:
        self.names = 0
        super().__init__(seed, **more)  # type: ignore[arg-type]
        self.weights[self.change] = 6

    # -- operations

    def change(self) -> None:
        """Something is done to a device, unless that is refused."""
        membership = self.store.membership
        names = [device.name for device in self.store.devices]
        name = self.random.choice(names)
        try:
            match self.random.choice(("add", "drain", "drain", "replace", "grow", "cancel")):
                case "add" if len(names) < DEVICES_MAX:
                    device = self._new()
                    membership.add(device, self._prepared(device))
                    self.devices.append(device)
                case "drain":
                    membership.drain(name)
                case "replace" if len(names) < DEVICES_MAX:
                    membership.check_drain(name, replaced=True)
                    device = self._new()
                    membership.replace(name, device, self._prepared(device))
                    self.devices.append(device)
                case "grow":
                    membership.check_grow(name)
                    device = next(one for one in self.devices if one.name == name)
                    device.grow(device.size_bytes + SEGMENT_BYTES * self.random.randint(1, 2))
                    membership.grow(name)
                case "cancel":
                    membership.cancel(name)
        except (Busy, InvalidArgument):
            pass  # the last one, or something is done to it already

    def _new(self) -> FaultyDevice:
        self.names += 1
        size = DATA_OFFSET + self.random.randint(8, 14) * SEGMENT_BYTES
        return FaultyDevice(size, seed=self.random.getrandbits(32), name=f"new{self.names}")

    def _prepared(self, device: FaultyDevice) -> Superblock:
        return prepare(
            device,
            self.store.join_terms(),
            format_foreign=False,
            created_s=0,
            entropy=self.random.randbytes,
        )

    # -- life

    def _idle(self) -> bool:
        return super()._idle() and not self.store.membership.running

    def _end(self, cut: bool, faults: Iterable[Fault]) -> None:
        super()._end(cut, faults)
        self.devices = self._members()

    def _members(self) -> list[FaultyDevice]:
        """What the next start is given: the set as the newest superblock has it.

        A device that was about to join may be given as well, or not.
        """
        found = [(device, inspect(device).superblock) for device in self.devices]
        blocks = [block for _, block in found if block is not None and block.set_generation]
        newest = max(blocks, key=lambda block: block.set_generation)
        members = []
        for device, block in found:
            if block is None:
                continue
            joins = not block.set_generation and self.random.random() < 0.5
            if block.device_id in newest.members or joins:
                members.append(device)
        return members
