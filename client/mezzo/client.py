"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from mezzo import calls, moves, shard_calls
from mezzo.backoff import Backoff
from mezzo.errors import (
    Busy,
    ClientClosed,
    MezzoError,
    Unavailable,
)
from mezzo.events import Cursor, EventReader, EventStream
from mezzo.lease import Lease
from mezzo.loading import LoadDecision, load_question
from mezzo.performing import Performing
from mezzo.places import Memory, Parts
from mezzo.protocol.messages import (
    PRIORITY_DEFAULT,
    DeviceAction,
    DeviceChange,
    DeviceState,
    Events,
    EventsAre,
    TenantStated,
)
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, Stats

T = TypeVar("T")


class Client(Performing):
    """A blocking client of a shard, or of all shards of a node or pod, for any number of threads.

    ``address`` is a shard's (``unix:///path``, ``tcp://host:port``) or a front-end's (``grpc://host:port``, several as
    ``grpc://a:7710,b:7710`` or a list; ``via`` says whether it leads the way to the shards or stands in between,
    `mezzo.frontend.via`).  What is different where there are several shards is in docs/sdk.md ("Several shards").
    ``tcps`` and ``grpcs`` are the same over TLS; ``tls`` says whom to trust, and ``stripes`` how many
    connections a shard gets for payload then.

    Threads share one connection (to each shard) and their requests are pipelined on it.  It connects with the first
    call, and again when the connection was lost.  ``timeout_s`` bounds each call unless the call
    brings its own; when it is over the call raises `DeadlineExceeded` after the server has let go
    of the call's memory (at most ``cancel_grace_s`` later, or the connection is ended).

    ``token`` is shown to front-ends: a text, or a callable that gives one, for tokens that do not live
    long; None: what ``MEZZO_TOKEN`` says.  A front-end makes a ticket of it, which opens the shard and
    is renewed while the client is used.  It is not shown over ``grpc://`` to other hosts, where whoever is on
    the way could read it: such a client is refused unless it is made with ``insecure=True``, or
    ``MEZZO_INSECURE`` is set.  ``ticket`` is for clients of a shard's own address.

    Every call may raise: `InvalidArgument`, `RegionError` and `TooLarge` (the call is wrong), `Busy`
    (try again after ``retry_after_s``), `Unauthenticated` and `Denied` (the token), `DeadlineExceeded`, `Unavailable` (no server, or the
    connection was lost), `WrongEpoch` (the pod's map has changed, and nobody gave the present one: try again), `ClientClosed`, `ForkedError` (the client was made before a fork).
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(
        self,
        keys: Iterable[bytes],
        sources: Sequence[Memory],
        *,
        parts: Parts = None,
        position: int = 0,
        ttl_s: float | None = None,
        priority: int = PRIORITY_DEFAULT,
        timeout_s: float | None = None,
    ) -> PutResult:
        """Store chunks; those whose key is there already stay as they are.

        ``sources[i]`` is the memory of ``keys[i]``.  ``parts``: part lengths in bytes, one list for
        all chunks or one for each; each part is readable alone.  ``position``: where in its prefix
        ``keys[0]`` stands; the others follow.  ``ttl_s``: seconds that the chunks live, if their
        namespace and tenant allow; None: as these say.  ``priority``: 0 to 7; the higher, the longer
        the server tries to keep them.
        """
        call = moves.put(self._context, keys, sources, parts, position, ttl_s, priority)
        return self._perform(call, timeout_s)

    def get(
        self,
        keys: Iterable[bytes],
        targets: Sequence[Memory],
        *,
        part: tuple[int, int] | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> GetResult:
        """Read chunks into ``targets``, or of each chunk the parts ``part = (first, count)``.

        Only where ``found`` is true may a target be read; where bytes had landed and were not
        confirmed it is zeroed.  A target may be larger than its chunk; smaller is `TooLarge`.

        ``deadline_s``: the chunks are of no use later than in so many seconds.  A load that is expected to take
        longer fails at once with `DeadlineExceeded`, which says how long it would take, and one that does take
        longer is given up then.  Without it ``timeout_s`` is the deadline.
        """
        return self._perform(moves.get(self._context, keys, targets, part), timeout_s, deadline_s)

    def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """How many of ``keys``, from the first on, are there? Does not prolong their life."""
        return self._perform(calls.lookup(self._context, keys), timeout_s)

    def should_load(
        self,
        keys: Iterable[bytes],
        recompute_tokens_per_s: float,
        chunk_tokens: int | None = None,
        *,
        overhead_s: float = 0.0,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> LoadDecision:
        """Load what is there of a prefix, or compute it again? One lookup, and `mezzo.decide_load`.

        ``recompute_tokens_per_s``: tokens that the engine prefills in a second, now; ``chunk_tokens``: tokens of
        one chunk (those of the namespace's identity, if it has one); ``overhead_s``: what a load costs the caller
        besides; ``deadline_s``: the load is of no use if it takes longer.  Never raises because of the store: one
        that is busy, slow or not there means computing.  `CallerError`: the call is wrong.
        """
        question = load_question(self.identity, recompute_tokens_per_s, chunk_tokens, overhead_s, deadline_s)
        try:
            return question.answer(self.lookup(keys, timeout_s=timeout_s))
        except MezzoError as error:
            return question.answer(error)

    def acquire(
        self,
        keys: Iterable[bytes],
        ttl_s: float,
        *,
        in_place: bool = False,
        load: bool = False,
        timeout_s: float | None = None,
    ) -> Lease:
        """Lease the present prefix for ``ttl_s`` seconds (the server may give less: ``expires``).

        ``in_place``: chunks that are hot may be read where they lie, through ``views`` of the lease;
        the shard must be on this host.  ``load``: those that are not hot are read into the hot tier
        first, as far as it has room.  How to read what is in place: `mezzo.Lease`.
        """
        grant = self._perform(calls.acquire(self._context, keys, ttl_s, in_place, load), timeout_s)
        return Lease(
            grant,
            self._surroundings.now,
            lambda: self._perform(calls.release(grant.leases, grant.over), None),
            lambda ttl_s: self._perform(calls.renew(self._context, grant.leases, ttl_s, grant.over), None),
        )

    def renew(self, lease: Lease, ttl_s: float) -> float:
        """Let a lease last until ``ttl_s`` seconds from now; see `mezzo.Lease.renew`."""
        return lease.renew(ttl_s)

    def release(self, lease: Lease) -> bool:
        """End a lease now. False: it had ended already."""
        return lease.release()

    def events(self, after: Cursor | None = None, *, snapshot: bool = False) -> EventStream:
        """What happens in the client's namespace from now on, or after a cursor: an iterator (docs/events.md).

        It yields `Event` and `Gap`; the first of a stream without ``after`` is a gap.  A gap says that nothing
        is known of what is present.  ``snapshot``: after each gap the chunks that are present are told, as
        events that are ``listed``; who adds and removes keys as told has the present ones once he has taken in
        what had happened meanwhile.  The stream resumes by itself when the connection was lost.  Of several shards
        each has events of its own, so this raises `Unsupported`: make a client of each one's address.
        """
        return EventStream(
            lambda question, wait_s: self.read_events(question, timeout_s=wait_s + self.timeout_s),
            EventReader(after, snapshot),
            Backoff(self._surroundings.random),
            self._surroundings.now,
            self._surroundings.sleep,
        )

    def read_events(self, question: Events, *, timeout_s: float | None = None) -> EventsAre | None:
        """One question about events, for who keeps the cursor himself; `events` does that for you.

        None: the client is disabled.
        """
        return self._perform(shard_calls.read_events(self._context, question), timeout_s)

    def delete(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> DeleteResult:
        """Delete chunks, and tell which were there.

        Not tried again when the connection is lost: whether they were deleted is not known then.  Of several shards,
        those that own one of the keys, or may have a second copy of one, must all say that they have done it: what
        one of them raised is raised, though others have deleted theirs.
        """
        return self._perform(calls.delete(self._context, keys), timeout_s)

    def stat(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> Stats:
        """What is known of each chunk; None for a miss."""
        return self._perform(calls.stat(self._context, keys), timeout_s)

    def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """Numbers of the shard, by name (docs/metrics.md); of several, sums over those that answer."""
        return self._perform(shard_calls.shard_stat(self._context), timeout_s)

    def tenant_stat(
        self, tenant: bytes, namespaces: Sequence[bytes] = (), *, timeout_s: float | None = None
    ) -> TenantStated:
        """What a tenant (its id) uses of the shard, in all and in these namespaces of its (their ids).

        Of several shards: sums over those that answer.
        For operators, directly at a shard; `Denied` for everybody else.
        """
        return self._perform(shard_calls.tenant_stat(self._context, tenant, namespaces), timeout_s)

    def devices(self, *, timeout_s: float | None = None) -> tuple[DeviceState, ...]:
        """The devices of the server, and what is done to them.

        `Denied` unless it runs as the caller, or root is; `Unsupported` where there are several shards.
        """
        return self._perform(shard_calls.devices(self._context), timeout_s)

    def change_device(
        self,
        action: DeviceAction,
        device: str,
        *,
        by: str = "",
        capacity_bytes: int = 0,
        erase: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Begin a change of the server's devices; `devices` tells how it goes (docs/devices.md). `Unsupported` as there.

        ``device`` is a path of the server's.  ``by``: what replaces it; ``capacity_bytes``: size of a
        file that is added or grown (0: as it is); ``erase``: a device that is added may be erased if it
        holds anything but a store of ours.  What is refused at once is raised: `InvalidArgument`, `Busy`,
        `Unavailable` (held by another process, or no room), `Denied` unless the caller runs as the server
        does, or as root.  Not tried again when the connection is lost.
        """
        change = DeviceChange(int(action), device, by, capacity_bytes, erase)
        self._perform(shard_calls.change_device(self._context, change), timeout_s)

    def chunk_bytes_max(self, *, timeout_s: float | None = None) -> int:
        """Bytes of the largest chunk that the server (each shard) takes, as it said when the connection was made."""
        return self._perform(shard_calls.chunk_bytes_max(self._context), timeout_s)

    def ping(self, *, timeout_s: float | None = None) -> float:
        """Seconds that a round trip takes; of several shards, to the slowest of those that answer."""
        return self._perform(shard_calls.ping(self._context), timeout_s)

    def connect(self, timeout_s: float | None = None) -> None:
        """Connect now, trying again with backoff until ``timeout_s`` is over: for a start.

        Other calls never wait for a server that is not there; they raise `Unavailable` at once while
        the next attempt is not due.
        """
        self._check_usable()
        if self.disabled:
            return
        deadline = self._deadline(timeout_s)
        while True:
            try:
                self._connected(deadline)
            except (Unavailable, Busy):
                now = self._surroundings.now()
                wait_s = max(0.0, self._backoff.not_before - now)
                if now + wait_s >= deadline or self._closed:
                    raise
                self._surroundings.sleep(wait_s)
            else:
                return

    def close(self) -> None:
        """End the connection; calls in flight raise `ClientClosed`. May be called twice.

        Regions stay; one with a transfer in flight is tainted.  In a forked child only the child's
        copy of the descriptors is closed.
        """
        if self._closed:
            return
        self._closed = True
        link, self._link = self._link, None
        if self._forked():
            if link is not None:
                link.close_descriptors()
            return
        if link is not None:
            link.end(ClientClosed("the client was closed"))
        self._staging.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()
