"""A shard as a member of its pod: the thread that keeps it registered, and what it hands to the event loop."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mezzo.tls import TLS
from mezzo_server.access.peers import PeerDoor, PeerKey
from mezzo_server.access.tickets import SEED_BYTES
from mezzo_server.config import NodeConfig
from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.driving import Driver, machine_seconds
from mezzo_server.pod.handover import Handover
from mezzo_server.pod.heat import Heat
from mezzo_server.pod.membership import KEEP, Membership
from mezzo_server.pod.moving import NOTHING_MOVED, Moves
from mezzo_server.pod.offers import NOTHING_COPIED
from mezzo_server.pod.parts import ROWS_MAX
from mezzo_server.pod.place import node_name, reached_at
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import NEVER, Situation, Standing
from mezzo_server.quota.part import POINTS, Part
from mezzo_server.quota.wants import Wants
from mezzo_server.shard.copies import SecondCopies
from mezzo_server.shard.members import MemberRecords
from mezzo_server.shard.peer_admission import PeerAdmission
from mezzo_server.shard.peers import PeerWays
from mezzo_server.shard.puller import Puller

if TYPE_CHECKING:
    from mezzo_server.shard.service import Service

log = structlog.get_logger("mezzo.shard")

LEAVE_S = 3.0
"""A stop waits so long for the membership to end; without, it ends by itself."""

FromThread = Callable[[Callable[[], None]], None]


class PodMember:
    """Owner of the thread and of its `Standing`. `start` when the loop runs, `leave` in the loop, then `close`."""

    def __init__(
        self,
        node: NodeConfig,
        service: Service,
        listening: Sequence[str],
        from_thread: FromThread,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``listening``: the addresses at which the shard can be reached; ``loop``: where it serves."""
        self._node = node
        self._service = service
        self._addresses = reached_at(listening, node.pod)
        self._from_thread = from_thread
        moves = node.pod.move_bytes_per_s
        self._key = PeerKey(os.urandom(SEED_BYTES)) if moves else None
        self._membership = Membership(service.store.store_id, self._record(), node.pod.lease_s, random.random)
        self._handed = Situation()
        self._said = ""
        self._losses = 0
        self._renewed_at = NEVER
        self._handover: Handover | None = None
        self.standing = Standing(machine_seconds, service.now)
        self._driver = Driver(
            self._membership, lambda: make_engine(node.metadata.engine), self._moved, name="mezzo-pod"
        )
        self._wants = Wants(
            service.accounts, random.random, told_max=ROWS_MAX, look_s=node.pod.lease_s * KEEP
        )
        service.standing, service.pod_numbers = self.standing, self.numbers
        service.pod_tick = self.tick
        if self._key is not None:
            self._move(self._key, moves, loop)

    def _move(self, key: PeerKey, bytes_per_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Let chunks move from and to other shards."""
        service, standing, tls = self._service, self.standing, self._node.tls
        shard = service.store.store_id
        members = MemberRecords(self._driver, self._from_thread, service.now)
        door = PeerDoor(shard, service.incarnation)
        service.door = PeerAdmission(service, door, members, standing, time.time)
        trust = TLS(ca=tls.ca, certificate=tls.certificate, key=tls.key, server_name=tls.server_name)
        ways = PeerWays(shard, key, members, standing, trust, service.now, node_name(self._node.pod))
        moves = Moves(bytes_per_s, random.random, service.now())
        service.puller = Puller(service, standing, moves, ways, bytes_per_s, loop)
        pod = self._node.pod
        heat = Heat(pod.popular_gets_per_s, random.random, service.now()) if pod.popular_gets_per_s else None
        service.copies = SecondCopies(
            service, standing, service.puller, ways, heat, pod.popular_bytes, random.random, loop
        )

    def start(self) -> None:
        """Register, and serve once that is done."""
        self._driver.start()

    def described_anew(self) -> None:
        """The shard's capacity is another."""
        record = self._record()
        self._driver.call(lambda: self._membership.describe(record))

    def retire(self) -> None:
        """Have others take the slots over; once. In the loop, which asks `may_go` then."""
        self._handover = Handover(self.standing.share, machine_seconds())
        self._driver.call(self._membership.retire)

    @property
    def may_go(self) -> bool:
        """Whether the slots are others' by now, or nobody takes them. False before `retire`."""
        standing, handover = self.standing, self._handover
        return handover is not None and handover.is_over(standing.share, standing.serving, machine_seconds())

    def leave(self) -> None:
        """Serve nothing from now on, and give the membership up. In the loop."""
        self.standing.end()
        self._driver.call(self._membership.leave)

    async def stop_moving(self) -> None:
        """Pull nothing any more. In the loop, before the store is closed."""
        if self._service.copies is not None:
            await self._service.copies.stop()
        if self._service.puller is not None:
            await self._service.puller.stop()

    def tick(self) -> None:
        """Look what tenants use, and have it told. In the loop."""
        rows = self._wants.tick(self._service.now())
        if rows is not None:
            self._driver.call(lambda: self._membership.uses(rows))

    def close(self) -> None:
        """Wait for the end of the membership, a moment."""
        self.leave()
        if not self._driver.join(LEAVE_S):
            log.warning("the membership of the pod could not be given up; it ends with its lease")
            self._driver.stop(1.0)

    def numbers(self) -> Mapping[str, int | float]:
        """How it stands."""
        part = self._service.accounts.part
        puller, copies = self._service.puller, self._service.copies
        return {
            **self.standing.numbers(),
            **self._membership.numbers(machine_seconds()),
            **(NOTHING_MOVED if puller is None else puller.numbers()),
            **(NOTHING_COPIED if copies is None else copies.numbers()),
            "pod_part": part.default / POINTS,
            "pod_parts_weighed": sum(map(len, part.exceptions.values())),
            "pod_part_settled": int(part.settled),
        }

    def _record(self) -> MemberRecord:
        pod = self._node.pod
        service = self._service
        return MemberRecord(
            node_name(pod),
            pod.rack,
            self._addresses,
            service.store.capacity_bytes,
            service.incarnation,
            public=b"" if self._key is None else self._key.public,
        )

    # -- in the thread

    def _moved(self) -> None:
        membership = self._membership
        situation = membership.situation
        if membership.reason != self._said:
            self._said = membership.reason
            if self._said:
                log.error("this shard is no member of its pod", reason=self._said)
        if membership.losses != self._losses:
            self._losses = membership.losses
            log.warning("the membership of the pod had ended; the shard registers anew")
        if membership.renewed_at != self._renewed_at:
            self._from_thread(self._alive)
            self._renewed_at = membership.renewed_at
        if situation != self._handed:
            self._from_thread(partial(self._take, situation))
            self._handed = situation

    # -- in the loop

    def _alive(self) -> None:
        now = machine_seconds()
        self._driver.call(lambda: self._membership.heard(now))

    def _take(self, situation: Situation) -> None:
        standing, epoch = self.standing, situation.share.epoch
        before, followed = standing.serving, standing.epoch
        standing.take(situation)
        if self._service.puller is not None and (epoch != followed or not standing.serving):
            self._service.puller.standing_changed()
            if self._service.copies is not None:
                self._service.copies.standing_changed()
        if standing.serving and epoch and (epoch != followed or not before):
            log.info(
                "the shard follows the map of the pod", epoch=epoch, slots=standing.numbers()["pod_slots"]
            )
        elif before and not standing.serving:
            log.warning("the shard serves nothing", reason=situation.reason)
        self._driver.call(lambda: self._membership.followed(epoch))
        part, accounts = situation.part, self._service.accounts
        # Who serves nothing keeps the part that he had: he gets it anew before he serves again.
        if situation.until != NEVER and part is not accounts.part:
            accounts.part_is(part, partial(self._enforced, part))

    def _enforced(self, part: Part) -> None:
        self._wants.soon(self._service.now())
        self._driver.call(lambda: self._membership.enforces(part.mark))
