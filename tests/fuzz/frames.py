"""Fuzz target: bytes that a peer may send, against both ends of the protocol.

    python tests/fuzz/frames.py --seconds 60 --seed 1

Starts from well-formed conversations and mutates them: bits, lengths, order, cuts.  Whatever comes
in, an end must answer with `ProtocolError` (or another error of the tree) or go on; it must not
raise anything else, take memory beyond its limits, or stand still.  A finding is printed with its
seed and bytes; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc

from mezzo.errors import MezzoError
from mezzo.operations import Acquire, Delete, Lookup, ReadEvents, Renew, Stat
from mezzo.places import Place
from mezzo.protocol.connection import ANSWERS, ServerConnection
from mezzo.protocol.frame import FROM_CLIENT, HEADER_BYTES, Frame, FrameReader, encode
from mezzo.protocol.messages import (
    Acquired,
    Cancel,
    Cancelled,
    Deleted,
    ErrorReply,
    Events,
    EventsAre,
    Get,
    GetData,
    Got,
    Hello,
    Kind,
    LeaseRenew,
    LeaseRenewed,
    LookedUp,
    Offer,
    Offered,
    Pull,
    Pulled,
    PulledChunk,
    Put,
    PutData,
    PutDone,
    PutGrant,
    RegionAdd,
    Stated,
    Welcome,
)
from mezzo.protocol.messages import Lookup as LookupBody
from mezzo.session import Session
from mezzo.statistics import Counters
from mezzo.transfers import Get as GetOperation
from mezzo.transfers import Put as PutOperation
from mezzo_server.blockstore.api import Scope
from mezzo_server.shard.peer_operations import OfferChunks, PullChunks

BODY_BYTES_MAX = 1 << 16
PAYLOAD_BYTES_MAX = 1 << 16
MEMORY_BYTES_MAX = 8 << 20
WELCOME = Welcome(1, "s", bytes(16), 0, bytes(16), bytes(16), 64, 64, 1 << 16, 1 << 16, 8, 1, 1, 1, 1, False)
KEYS = [b"key-%d" % index for index in range(20)]

Frames = list[bytes]


def from_client() -> Frames:
    """A conversation, as a server receives it."""
    return [
        encode(Kind.HELLO, 0, Hello(1, 1, "fuzz", "default")),
        encode(Kind.LOOKUP, 1, LookupBody(KEYS)),
        encode(Kind.REGION_ADD, 2, RegionAdd(1, 0, 4096)),
        encode(Kind.GET, 3, Get(KEYS[:2], 1, [[0, 10], [10, 20, 30, 40]])),
        encode(Kind.PUT, 4, Put(KEYS[:2], [5, 6], [[2, 3], [6]])),
        encode(Kind.PUT_DATA, 4, PutData(0, [1, 2]), 5) + b"bytes",
        encode(Kind.CANCEL, 4, Cancel()),
        encode(Kind.LEASE_RENEW, 5, LeaseRenew(7, 1000, bytes(16))),
        encode(Kind.EVENTS, 6, Events(bytes(16), 3, 100, 1000)),
        encode(Kind.EVENTS, 7, Events(part=1, parts=2)),
        encode(Kind.PULL, 8, Pull(bytes(16), bytes(16), 0, 3, KEYS[:2], [100, 200])),
        encode(Kind.OFFER, 9, Offer(bytes(16), bytes(16), KEYS[:2], 1000, [100, 200], KEYS[2:], True)),
        encode(Kind.PUT_DATA, 4, PutData(1, [3]), 30000) + bytes(30000),
    ]


def from_server() -> Frames:
    """A conversation, as a client receives it."""
    return [
        encode(Kind.WELCOME, 0, WELCOME),
        encode(Kind.LOOKED_UP, 1, LookedUp(3, 4, 5)),
        encode(Kind.GET_DATA, 2, GetData(1, 0, [4, 5], [1, 2]), 9) + b"123456789",
        encode(Kind.GET_DATA, 2, GetData(0, 0, [30000], [1]), 30000) + bytes(30000),
        encode(Kind.GOT, 2, Got(2, b"\3", [30000, 9])),
        encode(Kind.PUT_GRANT, 3, PutGrant([1, 0])),
        encode(Kind.PUT_DONE, 3, PutDone(b"\1", b"\2", 1, 1)),
        encode(Kind.ERROR, 4, ErrorReply(16, "busy", 5)),
        encode(Kind.DELETED, 5, Deleted(1, b"\1")),
        encode(Kind.ACQUIRED, 6, Acquired(1, 2, 3, 4, 5)),
        encode(Kind.STATED, 7, Stated([None] * 20)),
        encode(Kind.LEASE_RENEWED, 8, LeaseRenewed(1000)),
        encode(Kind.EVENTS_ARE, 9, EventsAre(bytes(16), 2, 0, b"\0\2", KEYS[:2], [1, 2], 3)),
        encode(Kind.CANCELLED, 4, Cancelled()),
        encode(Kind.GET_DATA, 10, GetData(0, 0, [4, 5], [1, 2]), 9) + b"123456789",
        encode(Kind.PULLED, 10, Pulled([PulledChunk([4, 5], 1000, 7, 3, [1, 2]), None])),
        encode(Kind.OFFERED, 11, Offered(1, b"\1")),
    ]


def mutate(frames: Frames, chance: random.Random) -> bytes:
    """The conversation with a few things wrong."""
    frames = list(frames)
    for _ in range(chance.randint(0, 2)):
        index = chance.randrange(len(frames))
        match chance.randrange(4):
            case 0:
                frames.insert(chance.randrange(len(frames)), frames[index])
            case 1:
                del frames[index]
                frames = frames or [b""]
            case 2:
                other = chance.randrange(len(frames))
                frames[index], frames[other] = frames[other], frames[index]
            case _:
                frames[index] = frames[index][: chance.randrange(len(frames[index]) + 1)]
    stream = bytearray(b"".join(frames))
    for _ in range(chance.choice((0, 1, 1, 2, 8))):
        if not stream:
            break
        # Most of the bytes are payload, which nobody looks at: aim at headers and bodies.
        place = chance.randrange(min(len(stream), chance.choice((HEADER_BYTES, 400, len(stream)))))
        match chance.randrange(4):
            case 0:
                stream[place] ^= 1 << chance.randrange(8)
            case 1:
                stream[place] = chance.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDC, 0xDD, 0xFF))
            case 2:
                stream[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 12)))
            case _:
                del stream[place : place + chance.randint(1, 12)]
    return bytes(stream)


def pieces(stream: bytes, chance: random.Random, room_of) -> int:  # type: ignore[no-untyped-def]
    """Feed ``stream`` in random pieces; ``room_of`` gives (buffer, received)."""
    position = 0
    while position < len(stream):
        room, received = room_of()
        if len(room) == 0:
            raise RuntimeError("an empty buffer: the driver would stand still")
        count = min(len(room), len(stream) - position, chance.choice((1, 7, 100, 5000, 1 << 16)))
        room[:count] = stream[position : position + count]
        received(count)
        position += count
    return position


def serve(stream: bytes, chance: random.Random) -> None:
    """A server's end."""
    reader = FrameReader(FROM_CLIENT, body_bytes_max=BODY_BYTES_MAX, payload_bytes_max=PAYLOAD_BYTES_MAX)
    order = ServerConnection(8)

    def received(count: int) -> None:
        reader.received(count)
        while (event := reader.next_event()) is not None:
            if not isinstance(event, Frame):
                continue
            if event.payload_bytes:
                if chance.random() < 0.5:
                    reader.discard_payload()
                else:
                    reader.deliver_into([memoryview(bytearray(event.payload_bytes))])
            order.receive_event(event)
            if event.kind in ANSWERS:
                order.begin(event.request_id, event.kind)
                if isinstance(event.body, Put):
                    order.grant(event.request_id, range(len(event.body.keys)))
            elif event.kind is Kind.CANCEL and order.in_flight(event.request_id):
                order.end(event.request_id)

    pieces(stream, chance, lambda: (reader.buffer(), received))


def ask(stream: bytes, chance: random.Random) -> None:
    """A client's end, with one of each request in flight."""
    counters = Counters()
    session = Session(
        address="tcp://fuzz:1",
        client_name="fuzz",
        namespace="default",
        counters=counters,
        now=lambda: 0.0,
        use_shm=True,
        waiting_max=8,
    )
    targets = [bytearray(30000), bytearray(9)]
    places = [Place(len(target), (), (memoryview(target),)) for target in targets]
    pulled = [bytearray(9), bytearray(30000)]
    places_of_pull = [Place(len(target), (), (memoryview(target),)) for target in pulled]
    lookup, unanswered = Lookup(KEYS), Lookup(KEYS)
    get = GetOperation(KEYS[:2], places, region=None, scope=bytes(32), part=(0, 0), counters=counters)
    put = PutOperation(KEYS[:2], places, parts=[], region=None, scope=bytes(32), positions=range(2))
    operations = [
        lookup,
        get,
        put,
        unanswered,
        Delete(KEYS),
        Acquire(KEYS, 5),
        Stat(KEYS),
        Renew(1, 5),
        ReadEvents(Events()),
        PullChunks(Scope(bytes(16), bytes(16)), KEYS[:2], places_of_pull),
        OfferChunks(Scope(bytes(16), bytes(16)), KEYS[:2]),
    ]
    begun = False

    def received(count: int) -> None:
        nonlocal begun
        session.received(count)
        while (event := session.next_event()) is not None:
            session.handle(event)
            if session.refused is not None:
                raise session.refused
            if session.welcome is not None and not begun:
                begun = True
                for operation in operations:
                    session.submit(operation)
                session.cancel(unanswered, MezzoError("given up"))

    try:
        pieces(stream, chance, lambda: (session.buffer(), received))
    finally:
        session.lose(MezzoError("over"))
        if begun and not all(operation.done for operation in operations):
            raise RuntimeError("an operation was forgotten")
        # Bytes whose checksums do not match (none here do) must not stay in the targets.
        if any(any(target) for target in (*targets, *pulled)):
            raise RuntimeError("unverified bytes were left in a target")


def run(seed: int, rounds: int, deadline: float | None = None) -> int:
    """Rounds run; prints and raises at the first finding."""
    tracemalloc.start()
    try:
        for number in range(rounds):
            if deadline is not None and time.monotonic() > deadline:
                return number
            chance = random.Random(f"{seed}-{number}")
            end, frames = chance.choice(((serve, from_client()), (ask, from_server())))
            stream = mutate(frames, chance)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                end(stream, chance)
            except MezzoError:
                pass
            except Exception:
                print(f"finding: seed {seed}, round {number}, {end.__name__}: {stream[:2000]!r}")
                raise
            if tracemalloc.get_traced_memory()[1] - before > MEMORY_BYTES_MAX:
                raise MemoryError(f"seed {seed}, round {number}: over {MEMORY_BYTES_MAX} bytes were taken")
    finally:
        tracemalloc.stop()
    return rounds


def main() -> int:
    """Run for some seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rounds = run(options.seed, 1 << 62, time.monotonic() + options.seconds)
    print(f"{rounds} rounds, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
