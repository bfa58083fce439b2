"""Tickets and the keys that sign them: what is good, and that nothing else is."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo.errors import ErrorCode, Unauthenticated, Unavailable
from mezzo_server.access.keyring import SETTLE_S, KeyRing
from mezzo_server.access.principal import NO_TENANT, Principal, Reason, Refused, Scopes
from mezzo_server.access.tickets import (
    DOMAIN,
    SIGNATURE_BYTES,
    SKEW_S,
    TICKET_BYTES_MAX,
    SigningKey,
    Ticket,
    key_id_of,
    scopes_in,
    verify,
)

NOW = 1_000_000
TENANT = bytes(range(16))
KEY = SigningKey(b"key-0001", bytes(range(32)))
OTHER = SigningKey(b"key-0002", bytes(range(1, 33)))
TICKET = Ticket("pod", TENANT, "0123456789abcdef", int(Scopes.READ), NOW, NOW + 300)


def publics(*keys: SigningKey) -> Callable[[bytes], bytes | None]:
    return {key.id: key.public for key in keys}.get


def check(data: bytes, *keys: SigningKey, pod: str = "pod", now_s: float = NOW + 1) -> Ticket:
    return verify(data, publics(*(keys or (KEY,))), pod=pod, now_s=now_s)


def reason(data: bytes, *keys: SigningKey, pod: str = "pod", now_s: float = NOW + 1) -> Reason:
    with pytest.raises(Refused) as refused:
        check(data, *keys, pod=pod, now_s=now_s)
    # One code and one text for all of them: who guesses learns nothing.
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert str(refused.value) == str(Refused(Reason.EXPIRED))
    return refused.value.reason


def test_what_was_signed_is_read() -> None:
    data = KEY.sign(TICKET)
    assert check(data) == TICKET
    assert key_id_of(data) == b"key-0001"
    assert scopes_in(TICKET) is Scopes.READ
    assert len(data) < 160


def test_why_a_ticket_is_refused() -> None:
    good = KEY.sign(TICKET)
    assert reason(good, OTHER) is Reason.UNKNOWN_KEY
    imposter = SigningKey(KEY.id, bytes(32))
    assert reason(imposter.sign(TICKET)) is Reason.SIGNATURE
    assert reason(good, pod="another") is Reason.POD
    assert reason(good, now_s=NOW + 300 + SKEW_S) is Reason.EXPIRED
    assert reason(good, now_s=NOW - SKEW_S - 1) is Reason.NOT_YET
    assert reason(b"") is Reason.MALFORMED
    assert reason(bytes(TICKET_BYTES_MAX + 1)) is Reason.MALFORMED
    assert reason(b"\x02" + good[1:]) is Reason.MALFORMED
    short = msgspec.structs.replace(TICKET, tenant=b"short")
    assert reason(KEY.sign(short)) is Reason.MALFORMED
    assert issubclass(Refused, Unauthenticated)


def test_clocks_may_be_apart_a_little() -> None:
    good = KEY.sign(TICKET)
    assert check(good, now_s=NOW + 300 + SKEW_S - 1) == TICKET
    assert check(good, now_s=NOW - SKEW_S) == TICKET


def test_what_is_signed_is_a_ticket_and_nothing_else() -> None:
    """A signature of the same bytes for another purpose does not make a ticket."""
    data = KEY.sign(TICKET)
    bare = KEY._private.sign(data[:-SIGNATURE_BYTES])
    assert reason(data[:-SIGNATURE_BYTES] + bare) is Reason.SIGNATURE
    assert KEY._private.sign(DOMAIN + data[:-SIGNATURE_BYTES]) == data[-SIGNATURE_BYTES:]


def test_no_private_key_in_a_repr() -> None:
    assert repr(KEY) == "<SigningKey 6b65792d30303031>"


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    good = KEY.sign(TICKET)
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(good)
    changed[at] ^= 1 << bit
    with pytest.raises(Refused):
        check(bytes(changed))


@given(st.binary(max_size=5000))
def test_no_bytes_of_strangers_pass(data: bytes) -> None:
    with pytest.raises(Refused):
        check(data)


@given(st.binary(max_size=300))
@example(b"\x96\xa1\x80")  # a text that is no UTF-8
def test_bodies_that_we_would_sign_are_bounded_too(body: bytes) -> None:
    """The decoder behind the signature: whatever is there, it is a ticket or refused."""
    signed = b"\x01" + KEY.id + body
    data = signed + KEY._private.sign(DOMAIN + signed)
    try:
        ticket = check(data)
    except Refused:
        return
    assert len(ticket.tenant) in (0, 16)


# -- key ring


def ring(*, key_s: float = 1000.0, ticket_s: float = 100.0, seed: int = 1) -> KeyRing:
    return KeyRing(pod="pod", key_s=key_s, ticket_s=ticket_s, random_bytes=random.Random(seed).randbytes)


CALLER = Principal(TENANT, "a", Scopes.READ | Scopes.WRITE, "0123456789abcdef")


def publish(keys: KeyRing, now_s: float) -> None:
    for key in keys.unpublished():
        keys.published(key.id, now_s)


def test_nothing_is_signed_before_its_key_is_published() -> None:
    keys = ring()
    keys.step(NOW)
    with pytest.raises(Unavailable):
        keys.sign(CALLER, NOW)
    [key] = keys.unpublished()
    keys.published(key.id, NOW)
    data, expires_s = keys.sign(CALLER, NOW)
    assert expires_s == NOW + 100
    assert keys.unpublished() == []
    ticket = verify(data, lambda key_id: key.public, pod="pod", now_s=NOW)
    assert (ticket.tenant, ticket.scopes, ticket.credential) == (TENANT, 3, "0123456789abcdef")
    assert key.expires_s >= ticket.expires_s


def test_a_ticket_is_good_for_no_less_than_was_said() -> None:
    """It counts whole seconds."""
    keys = ring(ticket_s=0.8)
    keys.step(NOW)
    publish(keys, NOW)
    assert [keys.sign(CALLER, NOW + part)[1] - NOW for part in (0.0, 0.1, 0.2, 0.3, 0.9)] == [1, 1, 1, 2, 2]


def test_a_ticket_ends_with_its_credential() -> None:
    keys = ring()
    keys.step(NOW)
    publish(keys, NOW)
    _, expires_s = keys.sign(_until(NOW + 7), NOW)
    assert expires_s == NOW + 7
    assert Principal(NO_TENANT, "", Scopes.ADMIN, "x").is_operator


def _until(expires_s: int) -> Principal:
    return Principal(TENANT, "a", Scopes.READ, "0123456789abcdef", expires_s)


def test_a_successor_is_used_only_when_shards_have_heard_of_it() -> None:
    keys = ring(key_s=1000.0)
    keys.step(NOW)
    publish(keys, NOW)
    first = key_id_of(keys.sign(CALLER, NOW)[0])
    keys.step(NOW + 499)
    assert keys.unpublished() == []
    keys.step(NOW + 500)
    [second] = keys.unpublished()
    assert key_id_of(keys.sign(CALLER, NOW + 500)[0]) == first
    keys.published(second.id, NOW + 501)
    assert key_id_of(keys.sign(CALLER, NOW + 501 + SETTLE_S - 1)[0]) == first
    assert key_id_of(keys.sign(CALLER, NOW + 501 + SETTLE_S)[0]) == second.id


def test_what_was_lost_is_published_again() -> None:
    keys = ring()
    keys.step(NOW)
    publish(keys, NOW)
    keys.lost(key_id_of(keys.sign(CALLER, NOW)[0]))
    assert len(keys.unpublished()) == 1
    publish(keys, NOW + 1)
    assert keys.sign(CALLER, NOW + 1)


class Rotation(RuleBasedStateMachine):
    """Time passes, publishing fails for up to half of a key's time, and no ticket that is signed is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.now = float(NOW)
        self.random = random.Random(5)
        self.keys = KeyRing(pod="pod", key_s=1000, ticket_s=100, random_bytes=self.random.randbytes)
        self.metadata: dict[bytes, tuple[bytes, int]] = {}
        self.seen: dict[bytes, tuple[bytes, int]] = {}
        self.pending: list[tuple[float, bytes]] = []
        self.tickets: list[tuple[bytes, int]] = []
        self.engine_down_since: float | None = None

    @rule(seconds=st.floats(0.1, 60.0))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 5.0)
            self._turn()

    @precondition(lambda self: self.engine_down_since is None and self.tickets)
    @rule()
    def engine_goes(self) -> None:
        self.engine_down_since = self.now

    @rule()
    def engine_comes_back(self) -> None:
        self.engine_down_since = None

    @rule()
    def a_ticket(self) -> None:
        try:
            self.tickets.append(self.keys.sign(CALLER, self.now))
        except Unavailable:
            # Only before the first publication, or after a long outage of the engine.
            assert not self.seen or self.engine_down_since is not None
            return
        # A shard sees a new key within five seconds; here it is asked at once if it is the first.
        if len(self.metadata) == 1:
            self.seen.update(self.metadata)

    def _turn(self) -> None:
        # As the front-end does it: `step` every few seconds, publishing while the engine is there.
        if self.engine_down_since is not None and self.now - self.engine_down_since > 300:
            self.engine_down_since = None
        self.keys.step(self.now)
        if self.engine_down_since is None:
            for key in self.keys.unpublished():
                self.metadata[key.id] = (key.public, key.expires_s)
                self.pending.append((self.now + 5.0, key.id))
                self.keys.published(key.id, self.now)
        for at, key_id in self.pending:
            if at <= self.now:
                self.seen[key_id] = self.metadata[key_id]

    @invariant()
    def all_tickets_are_good(self) -> None:
        self.tickets = [known for known in self.tickets if known[1] > self.now]
        for data, expires_s in self.tickets[-3:]:
            public, key_expires_s = self.seen[key_id_of(data)]
            assert key_expires_s >= expires_s
            verify(data, lambda _, public=public: public, pod="pod", now_s=self.now)


Rotation.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
TestRotation = Rotation.TestCase
