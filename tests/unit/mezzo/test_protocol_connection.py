import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo.errors import Busy, ErrorCode, ProtocolError, Unsupported
from mezzo.protocol.connection import ANSWERS, ClientConnection, ServerConnection, negotiate, refusal
from mezzo.protocol.frame import FROM_CLIENT, FROM_SERVER, Frame, FrameReader
from mezzo.protocol.messages import (
    Cancel,
    Cancelled,
    Epoch,
    ErrorReply,
    GetData,
    Got,
    Hello,
    Kind,
    LookedUp,
    Lookup,
    Ping,
    Pong,
    Put,
    PutData,
    PutDone,
    PutGrant,
    Refuse,
    Welcome,
)

WELCOME = Welcome(
    1, "s", bytes(16), 0, bytes(16), bytes(16), 4096, 64, 1 << 20, 1 << 20, 3, 1, 1, 1, 4096, True
)


def frame(kind, request_id, body, payload_bytes=0):
    return Frame(kind, request_id, body, payload_bytes)


@pytest.mark.parametrize(
    ("low", "high", "version"), [(1, 1, 1), (0, 1, 1), (1, 9, 2), (2, 2, 2), (0, 2**32 - 1, 2)]
)
def test_the_highest_common_version(low, high, version):
    assert negotiate(Hello(low, high)) == version
    assert negotiate(Hello(2, 5), 1, 4) == 4


@pytest.mark.parametrize(("low", "high"), [(3, 9), (0, 0), (9, 1)])
def test_unknown_versions_are_refused_kindly(low, high):
    with pytest.raises(Unsupported, match=f"speaks versions {low} to {high}.*this server 1 to 2") as caught:
        negotiate(Hello(low, high))
    reader = FrameReader(FROM_SERVER, body_bytes_max=4096, payload_bytes_max=0)
    data = refusal(caught.value)
    reader.buffer()[: len(data)] = data
    reader.received(len(data))
    body = reader.next_event().body
    assert (body.code, body.version_min, body.version_max) == (ErrorCode.UNSUPPORTED, 1, 2)


def test_a_refusal_fits_whatever_the_reason():
    assert len(refusal(ProtocolError("x" * 5000))) < 2000


class TestServer:
    def connection(self):
        server = ServerConnection(3)
        server.receive_event(frame(Kind.HELLO, 0, Hello(1, 1)))
        return server

    @pytest.mark.parametrize("kind", sorted(FROM_CLIENT - {Kind.HELLO}))
    def test_hello_comes_first(self, kind):
        with pytest.raises(ProtocolError, match="first frame must be HELLO"):
            ServerConnection(3).receive_event(frame(kind, 1, Ping()))

    def test_hello_comes_once_and_without_id(self):
        with pytest.raises(ProtocolError, match="request id 0"):
            ServerConnection(3).receive_event(frame(Kind.HELLO, 4, Hello(1, 1)))
        with pytest.raises(ProtocolError, match="HELLO may not come now"):
            self.connection().receive_event(frame(Kind.HELLO, 0, Hello(1, 1)))

    @pytest.mark.parametrize("kind", sorted(ANSWERS))
    def test_request_ids(self, kind):
        server = self.connection()
        with pytest.raises(ProtocolError, match="other than 0"):
            server.receive_event(frame(kind, 0, Ping()))
        server.receive_event(frame(kind, 5, Ping()))
        server.begin(5, kind)
        assert server.in_flight(5)
        with pytest.raises(ProtocolError, match="5 is in use"):
            server.receive_event(frame(kind, 5, Ping()))
        server.end(5)
        server.receive_event(frame(kind, 5, Ping()))

    def test_one_request_too_many_is_busy(self):
        server = self.connection()
        for request_id in (1, 2, 3):
            server.begin(request_id, Kind.LOOKUP)
        with pytest.raises(Busy, match="requests_max"):
            server.begin(4, Kind.LOOKUP)
        assert server.requests_in_flight == 3
        server.end(2)
        server.begin(4, Kind.LOOKUP)

    def test_payload_comes_as_it_was_granted(self):
        server = self.connection()
        server.begin(1, Kind.PUT)
        data = [frame(Kind.PUT_DATA, 1, PutData(index, [1]), 10) for index in range(3)]
        with pytest.raises(ProtocolError, match="without a grant"):
            server.receive_event(data[0])
        server.grant(1, [2, 0])
        assert server.granted(1) == 2
        with pytest.raises(ProtocolError, match="next granted is 2"):
            server.receive_event(data[0])
        server.receive_event(data[2])
        with pytest.raises(ValueError, match="has not come"):
            server.end(1)

    def test_payload_once_for_each_grant(self):
        server = self.connection()
        server.begin(1, Kind.PUT)
        server.grant(1, [0])
        server.receive_event(frame(Kind.PUT_DATA, 1, PutData(0, [1]), 10))
        with pytest.raises(ProtocolError, match="without a grant"):
            server.receive_event(frame(Kind.PUT_DATA, 1, PutData(0, [1]), 10))
        server.end(1)

    def test_no_payload_after_a_cancel(self):
        server = self.connection()
        server.begin(1, Kind.PUT)
        server.grant(1, [0, 1])
        server.receive_event(frame(Kind.CANCEL, 1, Cancel()))
        with pytest.raises(ProtocolError, match="without a grant"):
            server.receive_event(frame(Kind.PUT_DATA, 1, PutData(0, [1]), 10))
        server.end(1)

    def test_a_cancel_of_nothing_is_allowed(self):
        self.connection().receive_event(frame(Kind.CANCEL, 77, Cancel()))

    def test_only_puts_are_granted(self):
        server = self.connection()
        server.begin(1, Kind.GET)
        for request_id in (1, 2):
            with pytest.raises(ValueError, match="no put"):
                server.grant(request_id, [0])

    def test_nothing_after_refuse(self):
        server = self.connection()
        server.receive_event(frame(Kind.REFUSE, 0, Refuse(5, "bye")))
        with pytest.raises(ProtocolError, match="nothing may follow"):
            server.receive_event(frame(Kind.PING, 1, Ping()))
        assert "refused" in repr(server)


class TestClient:
    def connection(self):
        client = ClientConnection()
        assert client.hello("test", "default")
        assert client.receive_event(frame(Kind.WELCOME, 0, WELCOME)) is False
        return client

    def test_nothing_is_asked_before_the_welcome(self):
        with pytest.raises(ProtocolError, match="before WELCOME"):
            ClientConnection().request(Kind.PING, Ping())

    @pytest.mark.parametrize("kind", sorted(FROM_SERVER - {Kind.WELCOME, Kind.REFUSE}))
    def test_welcome_comes_first(self, kind):
        with pytest.raises(ProtocolError, match="first frame must be WELCOME"):
            ClientConnection().receive_event(frame(kind, 0, Pong()))

    def test_a_version_that_was_not_offered(self):
        with pytest.raises(ProtocolError, match="chose version 3"):
            ClientConnection().receive_event(frame(Kind.WELCOME, 0, Welcome(3, *_rest(WELCOME))))

    def test_welcome_comes_once(self):
        with pytest.raises(ProtocolError, match="twice"):
            self.connection().receive_event(frame(Kind.WELCOME, 0, WELCOME))

    @pytest.mark.parametrize("version", [1, 2])
    def test_an_epoch_comes_unasked_from_version_2_on(self, version):
        client = ClientConnection()
        client.receive_event(frame(Kind.WELCOME, 0, Welcome(version, *_rest(WELCOME))))
        request_id, _ = client.request(Kind.PING, Ping())
        if version == 1:
            with pytest.raises(ProtocolError, match="not in flight"):
                client.receive_event(frame(Kind.EPOCH, 0, Epoch(7)))
        else:
            assert client.receive_event(frame(Kind.EPOCH, 0, Epoch(7))) is False
        with pytest.raises(ProtocolError, match="no answer to PING"):
            client.receive_event(frame(Kind.EPOCH, request_id, Epoch(7)))

    def test_answers_end_their_requests(self):
        client = self.connection()
        first, _ = client.request(Kind.LOOKUP, Lookup([b"k"]))
        second, _ = client.request(Kind.PING, Ping())
        assert first != second
        assert client.receive_event(frame(Kind.PONG, second, Pong()))
        assert client.receive_event(frame(Kind.LOOKED_UP, first, LookedUp(0, 0, 0)))
        assert client.requests_in_flight == 0

    @pytest.mark.parametrize("kind", sorted(FROM_SERVER - {Kind.WELCOME, Kind.REFUSE, Kind.ERROR, Kind.PONG}))
    def test_an_answer_to_something_else(self, kind):
        client = self.connection()
        request_id, _ = client.request(Kind.PING, Ping())
        with pytest.raises(ProtocolError, match=r"is no answer to PING|was not cancelled"):
            client.receive_event(frame(kind, request_id, Pong()))

    def test_an_answer_that_nobody_waits_for(self):
        client = self.connection()
        request_id, _ = client.request(Kind.PING, Ping())
        client.receive_event(frame(Kind.ERROR, request_id, ErrorReply(1, "no")))
        with pytest.raises(ProtocolError, match="not in flight"):
            client.receive_event(frame(Kind.PONG, request_id, Pong()))

    def test_data_and_grants_end_nothing(self):
        client = self.connection()
        get, _ = client.request(Kind.GET, Lookup([b"k"]))
        put, _ = client.request(Kind.PUT, Put([b"k"], [1]))
        assert not client.receive_event(frame(Kind.GET_DATA, get, GetData(0, 0, [1], [1]), 1))
        assert not client.receive_event(frame(Kind.PUT_GRANT, put, PutGrant([0])))
        assert client.receive_event(frame(Kind.GOT, get, Got(0, b"", [])))
        assert client.receive_event(frame(Kind.PUT_DONE, put, PutDone(b"", b"", 0, 0)))

    def test_the_limit_of_the_server(self):
        client = self.connection()
        ids = [client.request(Kind.PING, Ping())[0] for _ in range(3)]
        with pytest.raises(Busy, match="requests_max"):
            client.request(Kind.PING, Ping())
        # A cancelled request holds its place until the server has let go of it.
        assert client.cancel(ids[0])
        assert not client.cancel(ids[0])
        assert not client.receive_event(frame(Kind.PONG, ids[0], Pong()))
        with pytest.raises(Busy):
            client.request(Kind.PING, Ping())
        assert client.receive_event(frame(Kind.CANCELLED, ids[0], Cancelled()))
        assert not client.cancel(ids[0])
        client.request(Kind.PING, Ping())

    def test_a_refusal_ends_nothing_by_itself(self):
        client = self.connection()
        client.request(Kind.PING, Ping())
        assert client.receive_event(frame(Kind.REFUSE, 0, Refuse(5, "bye"))) is False


def _rest(welcome):
    return [getattr(welcome, name) for name in welcome.__struct_fields__[1:]]


class BothEnds(RuleBasedStateMachine):
    """Whatever two ends that keep the rules do, neither sees the other break them."""

    def __init__(self):
        super().__init__()
        self.client, self.server = ClientConnection(), ServerConnection(3)
        self.client.hello("t", "n")
        self.server.receive_event(frame(Kind.HELLO, 0, Hello(1, 1)))
        self.client.receive_event(frame(Kind.WELCOME, 0, WELCOME))
        self.to_server, self.to_client = [], []
        self.open = {}  # server side: id -> kind
        self.payload = []  # client side: grants to serve, in order
        self.cancelled = set()

    @rule(kind=st.sampled_from([Kind.PING, Kind.LOOKUP, Kind.GET, Kind.PUT]))
    def ask(self, kind):
        if self.client.requests_in_flight < 3:
            request_id, _ = self.client.request(kind, Ping())
            self.to_server.append(frame(kind, request_id, Ping()))

    @precondition(lambda self: self.client.requests_in_flight)
    @rule(data=st.data())
    def cancel(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.client._in_flight)))
        if self.client.cancel(request_id):
            self.payload = [item for item in self.payload if item[0] != request_id]
            self.to_server.append(frame(Kind.CANCEL, request_id, Cancel()))

    @precondition(lambda self: self.payload)
    @rule()
    def send_payload(self):
        request_id, index = self.payload.pop(0)
        self.to_server.append(frame(Kind.PUT_DATA, request_id, PutData(index, [1]), 1))

    @precondition(lambda self: self.to_server)
    @rule()
    def serve(self):
        event = self.to_server.pop(0)
        self.server.receive_event(event)
        if event.kind in ANSWERS:
            self.server.begin(event.request_id, event.kind)
            self.open[event.request_id] = event.kind
        elif event.kind is Kind.CANCEL:
            if self.open.pop(event.request_id, None) is not None:
                self.server.end(event.request_id)
            self.to_client.append(frame(Kind.CANCELLED, event.request_id, Cancelled()))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), grant=st.booleans())
    def answer(self, data, grant):
        request_id = data.draw(st.sampled_from(sorted(self.open)))
        kind = self.open[request_id]
        if kind is Kind.PUT and grant:
            self.server.grant(request_id, [0, 1])
            self.to_client.append(frame(Kind.PUT_GRANT, request_id, PutGrant([0, 1])))
        elif kind is Kind.PUT and self.server.granted(request_id):
            return
        else:
            answer = min(ANSWERS[kind])
            self.server.end(request_id)
            del self.open[request_id]
            self.to_client.append(frame(answer, request_id, Pong()))

    @precondition(lambda self: self.to_client)
    @rule()
    def hear(self):
        event = self.to_client.pop(0)
        self.client.receive_event(event)
        if event.kind is Kind.PUT_GRANT and event.request_id not in self.client._cancelling:
            self.payload += [(event.request_id, index) for index in event.body.indexes]

    @invariant()
    def the_server_is_never_over_its_limit(self):
        assert self.server.requests_in_flight <= 3


BothEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestBothEnds = BothEnds.TestCase
