"""Whose work a device, or the worker threads, do next: weighted fair queueing between tenants with queued work.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing: A Scheduling Algorithm for Integrated
Services Packet Switching Networks", SIGCOMM 1996): each flow (a tenant, or the background) has a queue; a
transfer's start tag is the later of the virtual time and its predecessor's finish tag, its finish tag is that
plus its cost over the flow's weight; the lowest start tag goes next, and is the virtual time from then on.
A step costs O(log flows).

What a device has been given it works on as it likes, so only so much is given to it as it does in one
*device-queue time*, by the rate that it has shown.  A tenant's flood waits here, where another tenant's
transfer passes it by, and not in the device, where none could.

Jobs of worker threads are scheduled in the same way (`jobs.py`); below, what is said of a device and its
transfers is true of them too.

Invariants: a flow's transfers go in order; what is urgent (flushes, headers of segments, tables, superblocks:
transfers of no flow) never waits; something is with the device whenever something waits.  Nothing else may
be concluded from the order of transfers: the store relies on completions alone.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

from mezzo_server.blockstore.io import Transfer
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.spans import cut

BACKGROUND = b""
"""The flow of what nobody asked for: reclaim, scrub, drains."""
TRANSFER_COST_BYTES = 16 << 10
"""What a transfer costs a device besides its bytes, as if it were so many more."""
RATE_START = 100e6
"""Bytes a second of a device of which nothing is known yet: little, since a faster one shows that at once, and
a slower one would have been given too much."""
OUTSTANDING_BYTES_MIN = 1 << 20
"""A device is given so much at any rate."""
WINDOW_S = 0.02
"""A device's rate is taken over so much time, at least half of which it worked in."""
WINDOWS_MAX = 50
"""After so many windows in which it did not, it is begun anew."""
RISE, FALL = 0.5, 0.3
"""How far one window moves the rate towards what it showed."""
BEHIND_WEIGHT = 1 / 16
"""A tenant over a soft limit weighs so much of what it otherwise would: it comes last, and never not at all."""
WEIGHT_MIN = 1e-3
"""Less than any tenant's: a sum below it is that of none, but for rounding."""
LOOK_S = 0.02
"""How long is relied on what was said of a tenant's weight."""
FLOWS_MAX = 4096
"""Flows with nothing queued are forgotten when there are more."""
SPLIT_ABOVE_BYTES = 8 << 20
SPLIT_BYTES = 4 << 20
"""A longer transfer goes in pieces, since whatever a device has begun nobody passes."""


class Work(Protocol):
    """A transfer or a job: so many bytes, for a tenant; None: it is urgent."""

    length: int
    tenant: bytes | None


W = TypeVar("W", bound=Work)


class Flow(Generic[W]):
    """One tenant's queue for one device."""

    __slots__ = ("_looked_at", "bytes", "finish", "queue", "tenant", "wait_s", "weight")

    def __init__(self, tenant: bytes) -> None:
        self.tenant = tenant
        self.queue: deque[tuple[float, W]] = deque()
        """when it came, and what"""
        self.finish = 0.0
        """tag of the transfer that went last"""
        self.weight = 1.0
        self.bytes = 0
        """given to the device since the start"""
        self.wait_s = 0.0
        """that its transfers waited here, all together"""
        self._looked_at = float("-inf")

    def look(self, shares: Shares, now: float) -> float:
        """Its weight now."""
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            behind = BEHIND_WEIGHT if shares.behind(self.tenant) else 1.0
            self.weight = shares.weight(self.tenant) * behind
        return self.weight


class Schedule(Generic[W]):
    """The transfers of one device that wait, and how much the device has. Owner: its `DeviceLog`."""

    def __init__(
        self, queue_s: float, background_share: float, now: float, *, rate: float = RATE_START
    ) -> None:
        """``queue_s``: one device-queue time, 0: all is given at once; ``background_share`` of the device's
        time is the background's while it and others have work; ``rate``: what it is believed to do at first.
        """
        self._queue_s = queue_s
        self._background_ratio = background_share / (1 - background_share)
        self.rate = rate
        """cost that the device has been getting done, bytes a second"""
        self.outstanding = 0
        """cost of what it was given and has not ended"""
        self.outstanding_max = self._most()
        """what it is given at a time, as cost: one transfer may be over it"""
        self.waiting = 0
        """transfers that wait here"""
        self.waiting_bytes = 0
        self.flows: dict[bytes, Flow[W]] = {}
        self._heap: list[tuple[float, int, Flow[W]]] = []
        """(start tag, order, flow) of those flows that have transfers queued"""
        self._order = 0
        self._virtual = self._latest = 0.0
        self._weights = 0.0
        """of tenants with transfers queued"""
        self._done = 0
        """cost of what ended in this window"""
        self._window_at = self._idle_at = now
        self._idle_s = 0.0
        """that the device had nothing to do in this window"""
        self._pressed = False
        """whether something waited all through this window"""

    def passes(self, cost: int) -> bool:
        """Whether work of this cost may be given at once, in place of `next`; it then counts as given.

        For who cannot afford more on his way: flows are told nothing, and time in which nothing was to do
        before counts as if something had been, so that less is learnt of the rate and nothing wrong.
        """
        if self.waiting or self.outstanding + cost > self.outstanding_max:
            return False
        self.outstanding += cost
        self._pressed = False
        return True

    def next(self, queue: list[W], shares: Shares, now: float) -> list[W]:
        """Those of ``queue``, which has just come, and of those that wait that the device gets now."""
        if not self.outstanding:
            self._idle_s += now - self._idle_at
        if not self.waiting:
            cost = TRANSFER_COST_BYTES * len(queue)
            flows = self.flows
            for transfer in queue:
                cost += transfer.length
            if self.outstanding + cost <= self.outstanding_max:
                # The usual case: nobody waits, and the device takes it all.
                for transfer in queue:
                    tenant = transfer.tenant
                    if tenant is not None:
                        (flows.get(tenant) or self._flow(tenant)).bytes += transfer.length
                self.outstanding += cost
                self._pressed = False
                return queue
        given = [transfer for transfer in queue if transfer.tenant is None]
        for transfer in given:
            self.outstanding += TRANSFER_COST_BYTES + transfer.length
        for transfer in queue:
            if transfer.tenant is not None:
                self._add(transfer, transfer.tenant, shares, now)
        most = self.outstanding_max
        while self._heap and self.outstanding < most:
            given.append(self._take(shares, now))
        if not self.waiting:
            self._pressed = False
        return given

    def ended(self, count: int, nbytes: int, now: float) -> None:
        """The device has ended so many transfers, of so many bytes in all."""
        cost = TRANSFER_COST_BYTES * count + nbytes
        self.outstanding -= cost
        self._done += cost
        if not self.outstanding:
            self._idle_at = now
        if now - self._window_at >= WINDOW_S:
            self._measure(now)

    def _measure(self, now: float) -> None:
        """A window is over: what did it show of the device?"""
        busy_s = now - self._window_at - self._idle_s
        if busy_s >= WINDOW_S / 2:
            # A device that was not given enough to do shows less than it can: only more counts then.
            rate = self._done / busy_s
            if rate > self.rate:
                self.rate += RISE * (rate - self.rate)
            elif self._pressed:
                self.rate += FALL * (rate - self.rate)
            self.outstanding_max = self._most()
            self._pressed = self.waiting > 0
        elif now - self._window_at < WINDOWS_MAX * WINDOW_S:
            return
        self._done, self._idle_s, self._window_at = 0, 0.0, now

    def _most(self) -> float:
        if not self._queue_s:
            return float("inf")
        return max(self.rate * self._queue_s, OUTSTANDING_BYTES_MIN)

    def _flow(self, tenant: bytes) -> Flow[W]:
        if len(self.flows) >= FLOWS_MAX:
            for name in [name for name, flow in self.flows.items() if not flow.queue]:
                del self.flows[name]
        flow: Flow[W] = Flow(tenant)
        self.flows[tenant] = flow
        return flow

    def _add(self, transfer: W, tenant: bytes, shares: Shares, now: float) -> None:
        flow = self.flows.get(tenant) or self._flow(tenant)
        if not flow.queue:
            if tenant != BACKGROUND:
                self._weights += flow.look(shares, now)
            heappush(self._heap, (max(self._virtual, flow.finish), self._order, flow))
            self._order += 1
        flow.queue.append((now, transfer))
        self.waiting += 1
        self.waiting_bytes += transfer.length

    def _take(self, shares: Shares, now: float) -> W:
        start, _, flow = heappop(self._heap)
        came, transfer = flow.queue.popleft()
        self.waiting -= 1
        self.waiting_bytes -= transfer.length
        cost = TRANSFER_COST_BYTES + transfer.length
        self.outstanding += cost
        self._virtual = start
        former = flow.weight
        weight = self._background_weight() if flow.tenant == BACKGROUND else flow.look(shares, now)
        flow.finish = start + cost / weight
        self._latest = max(self._latest, flow.finish)
        flow.bytes += transfer.length
        flow.wait_s += now - came
        if flow.queue:
            if flow.tenant != BACKGROUND:
                self._weights += weight - former
            heappush(self._heap, (flow.finish, self._order, flow))
            self._order += 1
        elif flow.tenant != BACKGROUND:
            self._weights -= former
        if not self._heap:
            # Nobody waits: all begin anew, whatever they had.
            self._virtual = self._latest
            self._weights = 0.0
        return transfer

    def _background_weight(self) -> float:
        # Alone it is weighed as beside one tenant, so that who comes then is not before it for long.
        return self._background_ratio * (self._weights if self._weights > WEIGHT_MIN else 1.0)


def split(transfer: Transfer) -> list[Transfer]:
    """A long transfer in pieces, after the last of which its ``done`` is called."""
    left = -(-transfer.length // SPLIT_BYTES)
    moved = 0
    failed = 0

    def ended(piece: Transfer) -> None:
        nonlocal left, moved, failed
        left -= 1
        if piece.result < 0:
            failed = failed or piece.result
        else:
            moved += piece.result
        if not left:
            transfer.result = failed or moved
            if transfer.done is not None:
                transfer.done(transfer)

    pieces = []
    for start in range(0, transfer.length, SPLIT_BYTES):
        size = min(SPLIT_BYTES, transfer.length - start)
        spans = cut(transfer.spans, start, size)
        piece = Transfer(
            transfer.op, transfer.offset + start, spans, ended, None, transfer.time, transfer.tenant
        )
        pieces.append(piece)
    return pieces
