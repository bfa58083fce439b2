"""Tickets and tokens of both clients: brought, renewed in time, hidden; against a server by hand."""

import math

import pytest

import mezzo
from mezzo import Ticket
from mezzo.credentials import FRESH_S, Bearer, TicketState
from mezzo.errors import ErrorCode, InvalidArgument, Unauthenticated
from mezzo.protocol.messages import (
    Deleted,
    ErrorReply,
    Kind,
    LookedUp,
    Pong,
    Refuse,
    TicketRenewed,
)

SECRET = "mz_0123456789abcdef_secret"
KEYS = [b"k"]


class Tickets:
    """What a front-end would sign: counted, each good for 100 s."""

    def __init__(self, clock):
        self.clock = clock
        self.good_s = 100.0
        self.asked = 0
        self.count = 0
        self.fails = None

    def __call__(self):
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        self.count += 1
        return Ticket(b"ticket-%d" % self.count, self.clock[0] + self.good_s)


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def tickets(clock):
    return Tickets(clock)


@pytest.fixture
def client(make, network, clock, tickets):
    surroundings = network.surroundings(now=lambda: clock[0], random=lambda: 0.0, sleep=lambda seconds: None)
    return make(ticket=tickets, surroundings=surroundings)


def pong(peer):
    peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())


def renew(peer, ticket):
    frame = peer.expect(Kind.TICKET_RENEW)
    assert frame.body.ticket == ticket
    peer.send(Kind.TICKET_RENEWED, frame.request_id, TicketRenewed(100_000))


def connected(client, network, start):
    result = start(client.ping)
    peer = network.arrived()
    assert peer.welcome().body.ticket == b"ticket-1"
    pong(peer)
    result()
    return peer


def test_a_ticket_is_renewed_before_it_expires(client, network, start, clock, tickets):
    peer = connected(client, network, start)
    clock[0] += 49.0
    result = start(client.ping)
    pong(peer)
    result()
    assert tickets.count == 1
    clock[0] += 1.0  # half of its time, and chance says: now
    result = start(client.ping)
    kinds = []
    # The blocking client renews first, the asynchronous one beside: the call does not depend on it.
    for _ in range(2):
        frame = peer.receive()
        kinds.append(frame.kind)
        if frame.kind is Kind.PING:
            peer.send(Kind.PONG, frame.request_id, Pong())
        else:
            assert frame.body.ticket == b"ticket-2"
            peer.send(Kind.TICKET_RENEWED, frame.request_id, TicketRenewed(100_000))
    result()
    assert sorted(kinds) == [Kind.PING, Kind.TICKET_RENEW]
    assert client.statistics().connections == 1


def test_an_idle_client_renews_before_it_asks(client, network, start, clock):
    peer = connected(client, network, start)
    clock[0] += 5000.0
    result = start(client.ping)
    renew(peer, b"ticket-2")
    pong(peer)
    result()


@pytest.mark.parametrize("error", [mezzo.Unavailable, OSError])
def test_what_cannot_be_renewed_yet_is_tried_again(client, network, start, clock, tickets, error):
    peer = connected(client, network, start)
    tickets.fails = error("the front-end is away")
    clock[0] += 60.0
    for _ in range(3):
        result = start(client.ping)
        pong(peer)
        result()
    clock[0] += 60.0
    with pytest.raises(error, match="the front-end is away"):
        client.ping()
    tickets.fails = None
    clock[0] += 10.0
    result = start(client.ping)
    renew(peer, b"ticket-2")
    pong(peer)
    result()


@pytest.mark.parametrize("call", ["lookup", "delete"])
def test_a_shard_that_says_expired_gets_another_ticket(client, network, start, clock, call):
    """Whatever our clock says; also for a call that is not tried again on a lost connection: nothing was done."""
    peer = connected(client, network, start)
    clock[0] += 1.0
    kind, answer = {
        "lookup": (Kind.LOOKUP, LookedUp(1, 9, 0)),
        "delete": (Kind.DELETE, Deleted(1, b"\x01")),
    }[call]
    result = start(getattr(client, call), KEYS)
    asked = peer.expect(kind)
    peer.send(Kind.ERROR, asked.request_id, ErrorReply(ErrorCode.UNAUTHENTICATED, "no"))
    renew(peer, b"ticket-2")
    peer.send(kind + 1, peer.expect(kind).request_id, answer)
    assert result()
    clock[0] += 1.0
    # Once; who is refused again is told.
    result = start(getattr(client, call), KEYS)
    for number in (3, 4):
        peer.send(Kind.ERROR, peer.expect(kind).request_id, ErrorReply(ErrorCode.UNAUTHENTICATED, "no"))
        if number == 3:
            renew(peer, b"ticket-3")
    with pytest.raises(Unauthenticated):
        result()


def refuse(peer):
    peer.send(
        Kind.ERROR, peer.expect(Kind.LOOKUP).request_id, ErrorReply(ErrorCode.UNAUTHENTICATED, "expired")
    )


def test_a_shard_that_refuses_every_ticket_is_not_brought_one_with_each_call(
    client, network, start, clock, tickets
):
    peer = connected(client, network, start)
    clock[0] += 1.0
    for number in range(10):
        result = start(client.lookup, KEYS)
        refuse(peer)
        if number == 0:
            renew(peer, b"ticket-2")
        refuse(peer)
        with pytest.raises(Unauthenticated):
            result()
    assert tickets.asked == 2
    # What was asked with the ticket before is asked once more, with the one that there is.
    result = start(client.lookup, KEYS)
    refuse(peer)
    peer.send(Kind.LOOKED_UP, peer.expect(Kind.LOOKUP).request_id, LookedUp(1, 9, 0))
    assert result().prefix == 1
    assert tickets.asked == 2


def test_nobody_is_asked_for_a_ticket_with_each_call_while_none_is_given(
    client, network, start, clock, tickets
):
    peer = connected(client, network, start)
    clock[0] += 1.0
    tickets.fails = mezzo.Unavailable("the front-end is away")
    for number in range(10):
        result = start(client.lookup, KEYS)
        if number < 2:  # asked once more: it has the last word
            refuse(peer)
        with pytest.raises(mezzo.Unavailable, match="the front-end is away"):
            result()
    assert tickets.asked == 2
    tickets.fails = None
    clock[0] += 1.0
    result = start(client.lookup, KEYS)
    renew(peer, b"ticket-2")
    peer.send(Kind.LOOKED_UP, peer.expect(Kind.LOOKUP).request_id, LookedUp(1, 9, 0))
    assert result().prefix == 1


@pytest.mark.parametrize("good_s", [0.0, 0.01])
def test_tickets_that_end_at_once_are_asked_for_now_and_then(client, network, start, clock, tickets, good_s):
    """As they do when the token ends. The shard, whose clock is another, has the last word on whether they have."""
    tickets.good_s = good_s
    peer = connected(client, network, start)
    for _ in range(60):
        clock[0] += 0.05
        result = start(client.lookup, KEYS)
        frame = peer.receive()
        if frame.kind is Kind.TICKET_RENEW:
            peer.send(Kind.TICKET_RENEWED, frame.request_id, TicketRenewed(1))
            frame = peer.receive()
        peer.send(Kind.LOOKED_UP, frame.request_id, LookedUp(1, 9, 0))
        assert result().prefix == 1
    assert 5 < tickets.asked <= 1 + 60 * 0.05 / 0.25


def test_a_shard_that_has_not_heard_yet_is_asked_once_more(client, network, start):
    result = start(client.ping)
    for number in (1, 2):
        peer = network.arrived()
        assert peer.expect(Kind.HELLO).body.ticket == b"ticket-%d" % number
        if number == 1:
            peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAUTHENTICATED, "no"))
    from mezzo.protocol.messages import Welcome
    from tests.contract.peer import LIMITS

    peer.send(Kind.WELCOME, 0, Welcome(**LIMITS))
    pong(peer)
    result()


def test_who_is_refused_twice_is_told(client, network, start):
    result = start(client.ping)
    for _ in range(2):
        peer = network.arrived()
        peer.expect(Kind.HELLO)
        peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAUTHENTICATED, "no (next attempt in 9.00 s)"))
    with pytest.raises(Unauthenticated, match="no"):
        result()
    # While the next attempt is not due, the same is said at once.
    with pytest.raises(Unauthenticated, match=r"no \(next attempt in [0-8][.0-9]* s\)$"):
        client.ping()


def test_who_shows_a_shard_no_ticket_is_told_where_tickets_come_from(make, network, start):
    client = make(surroundings=network.surroundings())
    result = start(client.ping)
    peer = network.arrived()
    assert peer.expect(Kind.HELLO).body.ticket == b""
    peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAUTHENTICATED, "no"))
    with pytest.raises(Unauthenticated, match="is a shard, which wants a ticket; a front-end"):
        result()


def test_a_session_that_was_ended_is_opened_anew(client, network, start):
    peer = connected(client, network, start)
    result = start(client.lookup, KEYS)
    peer.expect(Kind.LOOKUP)
    peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAUTHENTICATED, "revoked"))
    again = network.arrived()
    assert again.welcome().body.ticket == b"ticket-2"
    again.send(Kind.LOOKED_UP, again.expect(Kind.LOOKUP).request_id, LookedUp(0, 0, 0))
    result()
    assert client.statistics().retries == 1


def test_a_given_ticket_is_all_there_is(make, network, start, clock):
    client = make(
        ticket=Ticket(b"only", clock[0] + 100.0),
        surroundings=network.surroundings(now=lambda: clock[0]),
    )
    result = start(client.ping)
    peer = network.arrived()
    assert peer.expect(Kind.HELLO).body.ticket == b"only"
    peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAUTHENTICATED, "no"))
    with pytest.raises(Unauthenticated):
        result()
    assert network.attempts == 1


def test_no_ticket_no_renewal(make, network, start, clock):
    client = make(surroundings=network.surroundings(now=lambda: clock[0]))
    result = start(client.ping)
    peer = network.arrived()
    peer.welcome()
    pong(peer)
    result()
    clock[0] += 1e6
    result = start(client.ping)
    pong(peer)
    result()


# -- tokens


def test_tokens_come_from_the_option_or_the_environment(monkeypatch):
    monkeypatch.setenv("MEZZO_TOKEN", f" {SECRET}\n")
    assert Bearer(None, lambda: 0.0).metadata() == (("authorization", f"Bearer {SECRET}"),)
    assert Bearer("other", lambda: 0.0).metadata() == (("authorization", "Bearer other"),)
    assert Bearer("", lambda: 0.0).metadata() is None
    monkeypatch.delenv("MEZZO_TOKEN")
    assert Bearer(None, lambda: 0.0).metadata() is None


def test_a_callable_is_asked_when_what_it_gave_is_old():
    clock, given = [0.0], []

    def token():
        given.append(f"token-{len(given)}")
        return given[-1]

    bearer = Bearer(token, lambda: clock[0])
    assert bearer.stale
    bearer.refresh()
    assert (bearer.stale, bearer.metadata()) == (False, (("authorization", "Bearer token-0"),))
    clock[0] += FRESH_S
    assert bearer.stale
    bearer.refresh()
    assert bearer.metadata() == (("authorization", "Bearer token-1"),)
    # Refused, and given just now: it would say the same.
    assert not bearer.forget()
    assert not bearer.stale
    clock[0] += 1.0
    assert bearer.forget()
    assert bearer.stale
    assert not Bearer("text", lambda: 0.0).forget()


@pytest.mark.parametrize("token", [SECRET, lambda: SECRET, None])
def test_a_token_is_not_sent_in_the_clear_to_another_host(monkeypatch, make, token):
    """Wherever it comes from: an option, a function, the environment."""
    monkeypatch.setenv("MEZZO_TOKEN", SECRET)
    with pytest.raises(InvalidArgument, match="in the clear") as refused:
        make(address="grpc://node:7710", token=token)
    assert SECRET not in str(refused.value)
    with pytest.raises(InvalidArgument, match=r"grpcs://.*insecure=True \(MEZZO_INSECURE=1\)"):
        make(address="grpc://10.0.0.1:7710", token=token)
    for safe in (
        "grpcs://node:7710",
        "grpc://localhost:1",
        "grpc://127.0.0.2:1",
        "grpc://[::1]:1",
        "tcp://node:1",
    ):
        make(address=safe, token=token)
    make(address="grpc://node:7710", token="")
    make(address="grpc://node:7710", token=token, insecure=True)
    monkeypatch.setenv("MEZZO_INSECURE", "1")
    make(address="grpc://node:7710", token=token)
    with pytest.raises(InvalidArgument, match="in the clear"):
        make(address="grpc://node:7710", token=token, insecure=False)


def test_who_has_no_token_may_go_anywhere(monkeypatch, make):
    monkeypatch.delenv("MEZZO_TOKEN", raising=False)
    make(address="grpc://node:7710")


def test_a_call_in_a_hurry_leaves_the_renewal_to_others(network, start, clock, tickets):
    surroundings = network.surroundings(now=lambda: clock[0], random=lambda: 0.0)
    with mezzo.Client("tcp://shard:1", ticket=tickets, surroundings=surroundings, timeout_s=60.0) as client:
        peer = connected(client, network, start)
        clock[0] += 60.0
        result = start(client.ping, timeout_s=0.05)
        pong(peer)
        result()
        assert tickets.count == 1
        result = start(client.ping)
        renew(peer, b"ticket-2")
        pong(peer)
        result()


@pytest.mark.parametrize("token", ["a b", "a\nb", "a\r\nx-header: 1", "ü", "x" * 8193, 7, b"bytes"])
def test_what_is_no_token_is_refused_and_not_shown(token):
    with pytest.raises(InvalidArgument) as refused:
        Bearer(token, lambda: 0.0)
    assert str(token) not in str(refused.value)
    bearer = Bearer(lambda: token, lambda: 0.0)
    with pytest.raises(InvalidArgument):
        bearer.refresh()


def test_nothing_secret_is_in_a_repr(make):
    client = make(address="grpc://127.0.0.1:1", token=SECRET)
    assert "secret" not in repr(client)
    for thing in (
        Bearer(SECRET, lambda: 0.0),
        Bearer(lambda: SECRET, lambda: 0.0),
        Ticket(b"secret", 1.0),
        TicketState(lambda: 0.0, lambda: 0.0),
    ):
        assert "secret" not in repr(thing)
        assert "secret" not in str(thing)


def test_renewals_are_spread():
    def due_at(chance):
        clock = [0.0]
        state = TicketState(lambda: clock[0], lambda: chance)
        state.took(Ticket(b"t", 100.0))
        while not state.due:
            clock[0] += 1.0
        return clock[0]

    assert [due_at(chance) for chance in (0.0, 0.5, 1.0)] == [50.0, 63.0, 75.0]
    state = TicketState(lambda: 0.0, lambda: 0.0)
    state.took(Ticket(b"", math.inf))
    assert (state.due, state.used, state.expired) == (False, False, False)


def test_a_renewal_that_failed_is_tried_again_before_a_short_ticket_ends():
    """And then less and less often: up to every 5 s."""
    clock = [0.0]
    state = TicketState(lambda: clock[0], lambda: 0.0)
    state.took(Ticket(b"t", 6.0))
    attempts = []
    while clock[0] < 20.0:
        clock[0] += 0.125
        if state.due:
            state.check()
            attempts.append(clock[0])
            state.failed(mezzo.Unavailable("away"))
            with pytest.raises(mezzo.Unavailable, match="away"):
                state.check()
    assert attempts == [3.0, 3.125, 3.375, 3.875, 4.875, 6.875, 9.375, 11.875, 14.375, 16.875, 19.375]
    state.took(Ticket(b"t", clock[0] + 6.0))
    assert not state.due
    state.check()
