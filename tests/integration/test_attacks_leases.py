"""S6: a mapping used after its lease.  No other tenant's bytes, nothing silently wrong, and the caps hold.

The attacker is a tenant with a good credential and a client of his own: he maps what he was given by hand, keeps
the mapping for as long as he likes, and never gives anything back.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

import mezzo
from mezzo.errors import Gone, InvalidArgument, OverQuota
from mezzo.operations import Acquire, OpenArena, Operation, Release, Renew
from mezzo.protocol.messages import PLACE_NUMBERS, InPlace
from mezzo_server.tenancy.model import Limit, Quota
from tests.integration.tenants import Tenants, tenants
from tests.patience import PATIENCE_S, eventually

MIB = 1 << 20
CHUNK = 64 * 1024
SECRET = b"secret of tenant a! "
CONFIG = """
[shard.hot]
bytes = "8MiB"
arena_bytes = "1MiB"
held_fraction = 0.5
[shard.limits]
lease_ms_max = 600000
"""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with tenants(tmp_path_factory.mktemp("leases"), config=CONFIG) as pod:
        yield pod


class Attacker:
    """A client whose frames are chosen by hand; what it maps it keeps."""

    def __init__(self, client: mezzo.Client) -> None:
        client.connect(PATIENCE_S)
        self.client = client
        link = client._link
        assert link is not None
        self.link = link
        self.maps: dict[int, mmap.mmap] = {}
        self.heads: dict[int, tuple[int, int]] = {}

    def run(self, operation: Operation) -> None:
        self.link.run((operation,), time.monotonic() + PATIENCE_S, 1.0)

    def acquire(self, keys: list[bytes], ttl_s: float) -> tuple[int, list[tuple[int, int, int, int]]]:
        """The lease's number, and its places: arena, page, bytes, generation."""
        operation = Acquire(keys, round(ttl_s * 1000), InPlace.LOAD)
        self.run(operation)
        numbers = operation.places
        places = [tuple(numbers[at : at + PLACE_NUMBERS]) for at in range(0, len(numbers), PLACE_NUMBERS)]
        for arena, _, _, generation in places:
            if generation and arena not in self.maps:
                self.map(arena)
        return operation.lease, places  # type: ignore[return-value]

    def map(self, arena: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            operation = OpenArena(arena, theirs.fileno())
            self.run(operation)
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        opened = operation.opened
        assert opened is not None
        self.maps[arena] = mmap.mmap(fds[0], opened.bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(fds[0])
        self.heads[arena] = (opened.data_offset, opened.page_bytes)

    def read(self, place: tuple[int, int, int, int]) -> tuple[bytes, bool]:
        """The bytes of a place, and whether its generation, looked at after them, is still the lease's."""
        arena, page, length, generation = place
        data_offset, page_bytes = self.heads[arena]
        memory = self.maps[arena]
        start = data_offset + page * page_bytes
        data = memory[start : start + length]
        return data, int.from_bytes(memory[8 * page : 8 * page + 8], "little") == generation

    def everything(self) -> Iterator[bytes]:
        """All that he can see: heads, free slots, chunks of others that may be there by mistake."""
        for memory in self.maps.values():
            yield memory[:]


@pytest.fixture
def attacker(pod: Tenants) -> Iterator[Attacker]:
    with pod.client("b", namespace="attack") as client:
        yield Attacker(client)


def churn(client: mezzo.Client, prefix: str, fill: Callable[[bytes], bytes], count: int) -> None:
    """Put and use chunks until the slots of earlier ones have been used again."""
    for number in range(count):
        key = f"{prefix}-{number}".encode()
        client.put([key], [fill(key)])
        client.acquire([key], 60.0, in_place=True, load=True).release()


def own(key: bytes) -> bytes:
    return random.Random(key).randbytes(CHUNK)


def secret(key: bytes) -> bytes:
    return (SECRET * (CHUNK // len(SECRET) + 1))[:CHUNK]


def test_a_mapping_kept_after_its_lease_shows_no_other_tenants_bytes(
    pod: Tenants, attacker: Attacker
) -> None:
    """Whatever slots his arenas' memory had before, and whoever uses the hot tier afterwards."""
    keys = [b"mine-%d" % number for number in range(16)]
    attacker.client.put(keys, [own(key) for key in keys])
    with pod.client("a") as victim:
        churn(victim, "before", secret, 40)
        lease, places = attacker.acquire(keys, 60.0)
        assert sum(generation > 0 for _, _, _, generation in places) == len(keys)
        assert all(attacker.read(place) == (own(key), True) for key, place in zip(keys, places, strict=True))
        attacker.run(Release(lease))
        # The victim, and the attacker's own other chunks, take what was given back.
        churn(victim, "after", secret, 120)
        churn(attacker.client, "later", own, 40)
        churn(victim, "again", secret, 120)
        for memory in attacker.everything():
            assert SECRET not in memory
        # Nor does a name help: arenas of others are as unknown as those that do not exist.
        for number in set(range(1, 40)) - set(attacker.maps):
            # One of his own that no lease has named may be mapped; of all others he is told the same.
            assert told(attacker, number) in ("", f"there is no arena {number}")
        for memory in attacker.everything():
            assert SECRET not in memory


def told(attacker: Attacker, arena: int) -> str:
    """Why an arena is not to be had."""
    try:
        attacker.map(arena)
    except InvalidArgument as error:
        return str(error)
    return ""


def check_places(attacker: Attacker, keys: list[bytes], places: list[tuple[int, int, int, int]]) -> int:
    """How many places are not to be believed any more; all others have the leased bytes."""
    changed = 0
    for key, place in zip(keys, places, strict=True):
        data, believed = attacker.read(place)
        assert data == own(key) or not believed, key
        changed += not believed
    return changed


def test_what_changes_under_a_mapping_is_seen_and_never_silently_wrong(
    pod: Tenants, attacker: Attacker
) -> None:
    """Every place whose bytes are not the leased ones any more has another generation."""
    keys = [b"seen-%d" % number for number in range(16)]
    attacker.client.put(keys, [own(key) for key in keys])
    lease, places = attacker.acquire(keys, 60.0)
    assert check_places(attacker, keys, places) == 0
    attacker.run(Release(lease))
    # Some slots are used again one by one, since their chunks are gone; then whole arenas are, for want of room.
    attacker.client.delete(keys[:8])
    churn(attacker.client, "few", own, 16)
    changed = check_places(attacker, keys, places)
    assert changed >= 8
    churn(attacker.client, "over", own, 200)
    changed = check_places(attacker, keys, places)
    assert changed > 8, "no slot was used again for want of room"
    # The SDK's own lease raises rather than let such bytes pass.
    with pod.client("b", namespace="sdk") as client:
        client.put(keys, [own(key) for key in keys])
        kept = client.acquire(keys, 600.0, in_place=True, load=True)
        views = kept.views
        client.delete(keys[:1])
        assert views[1] is not None
        with pytest.raises(Gone):
            kept.check()
        with pytest.raises(Gone):
            kept.release()
        with pytest.raises(ValueError, match="released"):
            bytes(views[1])


def test_a_lease_that_ended_gives_nothing_back(pod: Tenants, attacker: Attacker) -> None:
    key = [b"ended"]
    attacker.client.put(key, [own(key[0])])
    lease, _ = attacker.acquire(key, 0.2)
    with pod.client("b", namespace="attack") as other, pod.client("a") as stranger:
        for client in (other, stranger):
            with pytest.raises(Gone):
                Attacker(client).run(Renew(lease, 60_000))
            release = Release(lease)
            Attacker(client).run(release)
            assert not release.held
    time.sleep(0.3)
    with pytest.raises(Gone):
        attacker.run(Renew(lease, 60_000))
    for number in (0, 1, lease + 1, lease - 1, 2**63 - 1):
        with pytest.raises(Gone):
            attacker.run(Renew(number, 60_000))
        release = Release(number)
        attacker.run(release)
        assert not release.held


def test_who_never_lets_go_holds_no_more_than_he_may(pod: Tenants, attacker: Attacker) -> None:
    """Neither of the hot tier, nor of the bytes that leases may keep; and others go on."""
    keys = [b"hoard-%d" % number for number in range(64)]
    attacker.client.put(keys, [own(key) for key in keys])
    held = 0
    for key in keys:
        lease, places = attacker.acquire([key], 600.0)
        assert lease
        held += sum(length for _, _, length, generation in places if generation)
    assert held <= 4 * MIB
    with pod.client("operator") as operator, pod.client("a") as victim:
        numbers = operator.shard_stat()
        assert held <= numbers["hot_bytes_held"] <= 4 * MIB
        assert 64 * CHUNK <= numbers["leased_bytes"] <= numbers["leased_bytes_max"]
        churn(victim, "goes-on", secret, 20)
        assert victim.lookup([b"goes-on-%d" % number for number in range(20)]).prefix == 20
    quota = Quota(leased_bytes=Limit(hard=MIB))
    pod.do(lambda registry: registry.set_tenant("b", lambda tenant: replace(tenant, quota=quota)))
    with pod.client("b", namespace="attack") as other:
        eventually(lambda: refused(other, keys[:8]), "the quota is in force")


def refused(client: mezzo.Client, keys: list[bytes]) -> bool:
    """Whether a lease is refused because the tenant holds too much already."""
    try:
        client.acquire(keys, 0.05)
    except OverQuota as error:
        return error.retry_after_s > 0
    return False
