"""A shard as a member of its pod: the thread that keeps it registered, and what it hands to the event loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mezzo_server.config import NodeConfig
from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.driving import Driver, machine_seconds
from mezzo_server.pod.handover import Handover
from mezzo_server.pod.membership import Membership
from mezzo_server.pod.place import node_name, reached_at
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import NEVER, Situation, Standing

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
    ) -> None:
        """``listening``: the addresses at which the shard can be reached."""
        self._node = node
        self._service = service
        self._addresses = reached_at(listening, node.pod)
        self._from_thread = from_thread
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
        service.standing, service.pod_numbers = self.standing, self.numbers

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

    def close(self) -> None:
        """Wait for the end of the membership, a moment."""
        self.leave()
        if not self._driver.join(LEAVE_S):
            log.warning("the membership of the pod could not be given up; it ends with its lease")
            self._driver.stop(1.0)

    def numbers(self) -> Mapping[str, int | float]:
        """How it stands."""
        return {**self.standing.numbers(), **self._membership.numbers(machine_seconds())}

    def _record(self) -> MemberRecord:
        pod = self._node.pod
        service = self._service
        return MemberRecord(
            node_name(pod), pod.rack, self._addresses, service.store.capacity_bytes, service.incarnation
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
        if standing.serving and epoch and (epoch != followed or not before):
            log.info(
                "the shard follows the map of the pod", epoch=epoch, slots=situation.share.answers.count(1)
            )
        elif before and not standing.serving:
            log.warning("the shard serves nothing", reason=situation.reason)
        self._driver.call(lambda: self._membership.followed(epoch))
