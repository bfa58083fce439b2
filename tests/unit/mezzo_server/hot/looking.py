"""What the hot tier of a store has, looked at behind the store's back."""

from __future__ import annotations

from mezzo_server.hot.slots import Slot
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig


def slot_of(rig: Rig, key: bytes) -> Slot | None:
    """The slot of a chunk; None: it is not hot."""
    return audit.context_of(rig.store).index.peek(SCOPE).hot.get(key)


def the_slot(rig: Rig, key: bytes) -> Slot:
    """The slot of a chunk that is hot."""
    slot = slot_of(rig, key)
    assert slot is not None
    return slot


def word(rig: Rig, slot: Slot) -> int:
    """Its generation, as clients see it."""
    assert rig.hot is not None
    return rig.hot.arena(slot.arena).generation(slot.page)


def tiers(rig: Rig) -> tuple[int, int]:
    """Chunks got (from the hot tier, from devices)."""
    return rig.counters["chunks_got_hot"], rig.counters["chunks_got_device"]
