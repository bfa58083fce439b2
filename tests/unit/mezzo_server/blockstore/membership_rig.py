"""A rig whose store gets and loses devices while it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mezzo.errors import FormatError
from mezzo_server.blockstore.api import DeviceStatus
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET, Superblock
from mezzo_server.blockstore.io import Transfer
from mezzo_server.blockstore.join import prepare
from tests.simulation.rig import TURNS_MAX, Rig, content
from tests.simulation.world import SEGMENT_BYTES


def device_of(name: str, *, segments: int = 10, faults: Iterable[Fault] = (), seed: int = 77) -> FaultyDevice:
    return FaultyDevice(
        DATA_OFFSET + segments * SEGMENT_BYTES, seed=seed, faults=faults, name=name, in_order=True
    )


def prepared(rig: Rig, device: FaultyDevice, *, format_foreign: bool = False) -> Superblock:
    return prepare(
        device,
        rig.store.join_terms(),
        format_foreign=format_foreign,
        created_s=0,
        entropy=rig.random.randbytes,
    )


def add(rig: Rig, device: FaultyDevice, *, format_foreign: bool = False) -> None:
    """Begin to add a device."""
    rig.store.membership.add(device, prepared(rig, device, format_foreign=format_foreign))
    rig.devices.append(device)


def step(rig: Rig) -> None:
    """One turn; time passes when nothing else is to be done."""
    if not rig.store.pump() and not rig.store.eager:
        rig.time += 0.02
        rig.store.tick()


def settle(rig: Rig, reached: Callable[[], bool] | None = None) -> None:
    """Until no change is under way (or a condition holds)."""
    for _ in range(TURNS_MAX):
        if reached() if reached is not None else not rig.store.membership.running:
            return
        step(rig)
    raise AssertionError(f"it never happens: {rig.store.devices_state()}")


class Ended(BaseException):
    """The process ends here. Not an Exception: nothing may catch it."""


def run_until_transfer(rig: Rig, most: int) -> bool:
    """Go on until so many transfers were submitted, then leave everything as it is.

    False: the change came to its end before.
    """
    left = most

    def limited(device: FaultyDevice) -> Callable[[Sequence[Transfer]], None]:
        def submit(transfers: Sequence[Transfer]) -> None:
            nonlocal left
            left -= len(transfers)
            FaultyDevice.submit(device, transfers)
            if left < 0:
                raise Ended

        return submit

    for device in rig.devices:
        device.submit = limited(device)  # type: ignore[method-assign, assignment]
    try:
        settle(rig)
    except Ended:
        return True
    return False


def crashed(rig: Rig, how: str) -> list[FaultyDevice]:
    """The devices after the end of the process, or of the power."""
    return [device.kill() if how == "kill" else device.power_cut() for device in rig.devices]


def state(rig: Rig, name: str) -> DeviceStatus:
    """The device of that name; the last one that had it."""
    return [status for status in rig.store.devices_state() if status.name == name][-1]


def forget(rig: Rig, name: str) -> FaultyDevice:
    """Take a device out of what the next start is given."""
    device = next(device for device in rig.devices if device.name == name)
    rig.devices.remove(device)
    return device


def refusal(rig: Rig) -> str:
    """Start the store; why it would not, or nothing."""
    try:
        rig.open()
    except FormatError as error:
        return str(error)
    return ""


def right(rig: Rig, keys: list[bytes], length: int) -> int:
    """How many keys are there; each that is must have its bytes."""
    count = 0
    for key in keys:
        data = rig.get(key)
        assert data is None or data == content(key, length)
        count += data is not None
    return count
