"""The ways to other shards: by which addresses, with what, and when another is looked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from mezzo import TLS
from mezzo.errors import Busy, DeadlineExceeded, MezzoError, Unavailable, WrongEpoch
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo_server.access.peers import PeerDoor, PeerKey
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import Share, Situation, Standing
from mezzo_server.shard import peers
from mezzo_server.shard.peer_operations import PullChunks
from mezzo_server.shard.peers import PeerWays

OURS, THEIRS, POD = b"o" * 16, b"t" * 16, b"p" * 16
UNIX, LOOPBACK, NETWORK = "unix:///run/mezzo.sock", "tcp://127.0.0.1:7700", "tcps://10.0.0.17:7700"


class Played:
    """Stands for the client of a way, which was made with these addresses."""

    made: list[Played]
    error: MezzoError | None

    def __init__(
        self,
        shard: bytes,
        addresses: tuple[str, ...],
        tls: TLS,
        credential: Callable[[], bytes],
        surroundings: object = None,
    ) -> None:
        self.addresses, self.credential, self.closed = addresses, credential, False
        self.made.append(self)

    async def ask(self, operation: object) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.played = type("Fresh", (Played,), {"made": [], "error": None})
        monkeypatch.setattr(peers, "PeerClient", self.played)
        self.now = 100.0
        self.record = self.described("theirs", UNIX, NETWORK)
        self.key = PeerKey(b"k" * 32)
        standing = Standing(lambda: self.now, lambda: self.now)
        places = [ShardPlace(OURS, "ours", "", (), 1), ShardPlace(THEIRS, "theirs", "", (), 1)]
        share = Share.of(PodMap(POD, 3, 4, places, [0] * 16, {}), OURS)
        standing.take(Situation(share, self.now + 10_000))
        self.ways = PeerWays(OURS, self.key, self, standing, TLS(), lambda: self.now, "ours")

    @staticmethod
    def described(node: str, *addresses: str, incarnation: bytes = b"i" * 16) -> MemberRecord:
        return MemberRecord(node, "", addresses, 1, incarnation, public=b"x" * 32)

    def look(self, shard: bytes, fresh_s: float, told: Any, *, unproven: bool = False) -> None:
        assert not unproven
        told(self.record)

    def pull(self) -> Played:
        async def run() -> None:
            with suppress(MezzoError):
                await self.ways.pull(THEIRS, PullChunks(Scope(bytes(16), bytes(16)), [b"k"]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(run())
        return self.played.made[-1]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


@pytest.mark.parametrize(
    ("node", "told", "gone"),
    [
        ("theirs", (UNIX, LOOPBACK, NETWORK), (NETWORK,)),
        ("theirs", ("later://whatever", UNIX, NETWORK), ("later://whatever", NETWORK)),
        # All of the pod is on one host, whatever its nodes are called: there are no others.
        ("theirs", (UNIX, LOOPBACK), (UNIX, LOOPBACK)),
        ("ours", (UNIX, LOOPBACK, NETWORK), (UNIX, LOOPBACK, NETWORK)),
    ],
)
def test_what_stands_on_our_own_host_is_shown_nothing_that_is_for_another(rig, node, told, gone):
    rig.record = rig.described(node, *told)
    assert rig.pull().addresses == gone


def test_each_connection_has_a_credential_for_that_shard_in_that_life(rig):
    way = rig.pull()
    now_s = peers.time.time()
    door = PeerDoor(THEIRS, b"i" * 16)
    for _ in range(2):
        assert door.admit(way.credential(), rig.key.public, POD, now_s) == OURS


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (None, True),
        (Busy("others first", 0.1), True),
        (WrongEpoch("not its", 4), True),
        (DeadlineExceeded("no answer"), False),
        (Unavailable("it is away"), False),
    ],
)
def test_who_does_not_answer_is_looked_for_again(rig, error, stays):
    rig.played.error = error
    first = rig.pull()
    assert first.closed is not stays
    rig.record = rig.described("theirs", "tcps://10.0.0.18:7700")
    second = rig.pull()
    assert (second is first) is stays
    assert stays or second.addresses == ("tcps://10.0.0.18:7700",)
