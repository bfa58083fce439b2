"""Put over a stream: credit out, payload in, checked on its way into the store.

A `TcpPut` grants what its connection's share of the staging memory allows, checks what comes while it
is still in the processor's cache, and hands it to the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xxhash

from mezzo.checksum import chunk_seed, part_seed
from mezzo.errors import DeadlineExceeded, MezzoError, ProtocolError
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Kind, Put, PutData, PutGrant
from mezzo_server.blockstore.api import PutChunk, PutOutcome, PutStatus
from mezzo_server.memory import Span
from mezzo_server.shard.request import Request, check_lengths, parts_of, positions_of
from mezzo_server.shard.shm_transfer import answer_put, count_stored

if TYPE_CHECKING:
    from mezzo_server.blockstore.put import PutTicket
    from mezzo_server.shard.session import Session
    from mezzo_server.shard.share import Ask

STEP_KEYS = 128
"""Keys considered before others get their turn."""
FLUSH_BYTES = 1 << 20
"""Received chunks are handed to the store together until they are so many bytes."""


class PayloadSink:
    """Where one payload of a put goes, and the checksums that run along. Owned by its connection
    from the frame to `complete`.
    """

    __slots__ = (
        "_checked",
        "_checksums",
        "_hasher",
        "_part",
        "_part_left",
        "_parts",
        "_put",
        "_seed",
        "_view",
        "index",
        "span",
    )

    def __init__(self, put: TcpPut, index: int, span: Span, parts: Sequence[int], seed: int) -> None:
        self._put = put
        self.index = index
        self.span = span
        self._view: memoryview | None = span.view
        self._parts = parts
        self._seed = seed
        self._part = 0
        self._part_left = parts[0]
        self._hasher = xxhash.xxh3_64(seed=part_seed(seed, 0))
        self._checked = 0
        self._checksums: list[int] = []

    @property
    def view(self) -> memoryview:
        """Where the payload is received into."""
        if self._view is None:
            raise ProtocolError("the payload is complete")
        return self._view

    def advance(self, received: int) -> None:
        """The first ``received`` bytes have come: check them while they are in the cache."""
        view = self.view
        while self._checked < received:
            count = min(received - self._checked, self._part_left)
            self._hasher.update(view[self._checked : self._checked + count])
            self._checked += count
            self._part_left -= count
            if self._part_left == 0:
                self._checksums.append(self._hasher.intdigest())
                self._part += 1
                if self._part < len(self._parts):
                    self._part_left = self._parts[self._part]
                    self._hasher = xxhash.xxh3_64(seed=part_seed(self._seed, self._part))

    def complete(self) -> None:
        """All has come."""
        self.advance(self.span.length)
        self._view = None
        self._put.received(self.index, self.span, tuple(self._checksums))


class TcpPut(Request):
    """A put whose bytes come on the same stream, against credit."""

    __slots__ = (
        "_ask",
        "_claimed",
        "_error",
        "_expiry_ms",
        "_granting",
        "_in_store",
        "_keys",
        "_lengths",
        "_next_index",
        "_open",
        "_parts",
        "_pending_step",
        "_positions",
        "_priority",
        "_ready",
        "_ready_bytes",
        "_receiving",
        "_statuses",
        "_tickets",
    )

    def __init__(self, session: Session, request_id: int, body: Put) -> None:
        parts, positions = parts_of(body), positions_of(body)
        check_lengths(body.lengths, session.service.chunk_bytes_max, session.identity)
        session.service.store.check_put(session.scope, body.keys, body.lengths)
        super().__init__(session, request_id, Kind.PUT, deadline_ms=body.deadline_ms)
        self._keys = body.keys
        self._lengths = body.lengths
        self._parts = parts
        self._positions = positions
        self._expiry_ms, self._priority = session.expiry_ms(body.ttl_ms), body.priority
        self._statuses = [PutStatus.FAILED] * len(body.keys)
        self._error: Exception | None = None
        self._next_index = 0
        self._ask: Ask | None = None
        self._granting: list[int] | None = None
        self._pending_step = False
        # Granted and not begun to come, in order; the one that is coming; checked and not yet handed
        # to the store; how many the store has.
        self._open: deque[tuple[int, Span]] = deque()
        self._claimed: dict[int, tuple[int, ...]] = {}
        self._receiving: Span | None = None
        self._ready: list[tuple[int, Span, tuple[int, ...]]] = []
        self._ready_bytes = 0
        self._in_store = 0
        self._tickets: list[PutTicket] = []

    @property
    def grants_open(self) -> int:
        """Payloads granted that have not begun to come."""
        return len(self._open)

    @property
    def bytes_open(self) -> int:
        """Bytes of these."""
        return sum([span.length for _, span in self._open])

    @property
    def written(self) -> Sequence[bytes]:
        """See `Request.written`."""
        return self._keys

    def start(self) -> None:
        """Begin to grant."""
        self._grant_more()

    def receive(self, body: PutData, payload_bytes: int) -> PayloadSink:
        """Where the payload of the next granted chunk goes.

        Raises:
            ProtocolError: it is not what was announced.
        """
        index, span = self._open[0]
        if payload_bytes != span.length:
            raise ProtocolError(f"PUT_DATA of {payload_bytes} bytes for a chunk announced with {span.length}")
        if len(body.checksums) != len(self._parts[index]):
            raise ProtocolError(f"{len(body.checksums)} checksums for {len(self._parts[index])} parts")
        self._open.popleft()
        self._claimed[index] = tuple(body.checksums)
        self._receiving = span
        scope = self.session.scope
        seed = chunk_seed(scope.tenant + scope.namespace, self._keys[index])
        return PayloadSink(self, index, span, self._parts[index], seed)

    def received(self, index: int, span: Span, checksums: tuple[int, ...]) -> None:
        """A payload is complete; these are its checksums."""
        self._receiving = None
        claimed = self._claimed.pop(index)
        if self.cancelled or checksums != claimed:
            if checksums != claimed:
                self.session.service.counters["checksum_mismatches_received"] += 1
            self.session.share.give(span)
            self._grant_more()
            return
        if not self._ready:
            self.session.at_turn_end(self)
        self._ready.append((index, span, checksums))
        self._ready_bytes += span.length
        if self._ready_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what was received to the store."""
        if not self._ready:
            return
        batch, self._ready, self._ready_bytes = self._ready, [], 0
        chunks = [self._chunk(index, (span,), checksums) for index, span, checksums in batch]
        ended = False
        ticket: PutTicket | None = None

        def done(outcome: PutOutcome) -> None:
            nonlocal ended, ticket
            ended = True
            if ticket is not None:
                self._tickets.remove(ticket)
                ticket = None  # it holds this function: no work for the garbage collector
            self._in_store -= len(batch)
            self._error = self._error or outcome.error
            count_stored(self.session, "tcp", chunks, outcome)
            for (index, _, _), status in zip(batch, outcome.statuses, strict=True):
                self._statuses[index] = status
            for _, span, _ in batch:
                self.session.share.give(span)
            self._grant_more()

        self._in_store += len(batch)
        try:
            begun = self.session.service.put(
                self.session.scope, chunks, done, deadline=self.deadline, time=self
            )
        except MezzoError as error:
            self._in_store -= len(batch)
            self._error = self._error or error
            for _, span, _ in batch:
                self.session.share.give(span)
            self._grant_more()
            return
        if not ended:
            ticket = begun
            self._tickets.append(begun)

    def _chunk(
        self, index: int, source: tuple[Span, ...], checksums: tuple[int, ...] | None = None
    ) -> PutChunk:
        return PutChunk(
            self._keys[index],
            self._parts[index],
            source,
            self._positions[index],
            checksums,
            self._expiry_ms,
            self._priority,
            admitted=True,
        )

    def give_up(self) -> None:
        """Take back what was granted and has not come, abandon what waits in the store."""
        self._next_index = len(self._keys)
        if self._ask is not None:
            self._ask.cancel()
            self._ask = None
        spans = [span for _, span in self._open]
        self._open.clear()
        if self._receiving is not None and self.session.closed:
            spans.append(self._receiving)
            self._receiving = None
        for _, span, _ in self._ready:
            spans.append(span)
        self._ready, self._ready_bytes = [], 0
        for span in spans:
            self.session.share.give(span)
        for ticket in tuple(self._tickets):
            ticket.abandon()
        self._maybe_finish()

    def _grant_more(self) -> None:
        """Grant what staging allows now; end if nothing is left."""
        if self._granting is not None:
            return
        granting: list[int] = []
        self._granting = granting
        keys_left = STEP_KEYS
        store, scope = self.session.service.store, self.session.scope
        while self._next_index < len(self._keys) and self._ask is None and not self._pending_step:
            if self._passed():
                break
            if keys_left == 0:
                self._pending_step = True
                self.session.link.later(self._step)
                break
            keys_left -= 1
            index = self._next_index
            self._next_index += 1
            if store.prefix(scope, (self._keys[index],))[0]:
                self._statuses[index] = PutStatus.EXISTS
            elif not store.takes(scope, self._chunk(index, ())):
                self._statuses[index] = PutStatus.DECLINED
            else:
                self._ask_for(index)
        self._granting = None
        self._send_grants(granting)
        self._maybe_finish()

    def _ask_for(self, index: int) -> None:
        now = False

        def arrived(span: Span | None) -> None:
            nonlocal now
            now = True
            self._ask = None
            if span is None:
                self._error = self._error or self.session.share.busy()
                self._next_index = len(self._keys)
            elif self._passed():
                self.session.share.give(span)
            else:
                self._open.append((index, span))
                if self._granting is None:
                    self._send_grants([index])
                else:
                    self._granting.append(index)
            if self._granting is None:
                self._grant_more()

        ask = self.session.share.request(self._lengths[index], arrived)
        if not now:
            self._ask = ask

    def _send_grants(self, indexes: list[int]) -> None:
        if indexes:
            nbytes = sum([self._lengths[index] for index in indexes])
            self.session.grant(self, encode(Kind.PUT_GRANT, self.id, PutGrant(indexes)), indexes, nbytes)

    def _passed(self) -> bool:
        """Whether the deadline has passed: then no more is granted."""
        if self.deadline is None or self.session.service.now() < self.deadline:
            return False
        self._error = self._error or DeadlineExceeded("the deadline passed before all was stored")
        self._next_index = len(self._keys)
        return True

    def _step(self) -> None:
        self._pending_step = False
        self._grant_more()

    def _maybe_finish(self) -> None:
        if (
            self._next_index < len(self._keys)
            or self._open
            or self._ready
            or self._in_store
            or self._ask is not None
            or self._receiving is not None
            or self._pending_step
            or not self.session.holds(self)
        ):
            return
        answer_put(self, self._statuses, self._error)
