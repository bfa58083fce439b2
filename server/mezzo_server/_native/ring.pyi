from collections.abc import Sequence

from mezzo_server.blockstore.io import Transfer
from mezzo_server.memory import Memory

BUFFER_SLOTS: int
SLICE_BYTES: int

def probe() -> tuple[int, int]: ...

class Ring:
    def __init__(
        self,
        fd: int,
        depth: int,
        *,
        size_bytes: int,
        block_bytes: int,
        memory_align_bytes: int,
        transfers_max: int,
        asynchronous: bool = False,
        move_bytes_max: int = ...,
    ) -> None: ...
    depth: int
    setup_flags: int
    features: int
    fixed_file: bool
    fixed_buffers: bool
    size_bytes: int
    block_bytes: int
    memory_align_bytes: int
    transfers_max: int
    move_bytes_max: int
    retried: int
    fixed_transfers: int
    @property
    def event_fd(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    def grow(self, size_bytes: int) -> None: ...
    def populate(self, address: int, length: int) -> None: ...
    def pin(self, slot: int, address: int, length: int) -> int: ...
    def unpin(self, slot: int) -> None: ...
    def publish(self, memory: Memory, first_slot: int, ready: int) -> None: ...
    def submit(self, transfers: Sequence[Transfer]) -> None: ...
    def reap(self) -> list[Transfer]: ...
    def wait(self, timeout_s: float | None = None) -> None: ...
    def close(self) -> None: ...
