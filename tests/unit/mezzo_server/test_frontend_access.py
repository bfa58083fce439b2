"""The gate of a front-end, the tickets that it gives out, and where keys come from. No sockets, no real clock."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mezzo.errors import Unauthenticated, Unavailable
from mezzo.v1 import store_pb2
from mezzo_server.access.authentication import Anonymous, Authentication
from mezzo_server.access.keyring import KeyRing
from mezzo_server.access.principal import Principal, Reason, Scopes
from mezzo_server.access.tickets import verify
from mezzo_server.config import NodeConfig
from mezzo_server.frontend import key_source, permissions
from mezzo_server.frontend.access import Access
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Calls, refuse
from mezzo_server.frontend.gate import Gate, Guard
from mezzo_server.frontend.key_source import LOOK_GAP_S, KeySource
from mezzo_server.frontend.numbers import METHODS, FrontendNumbers
from mezzo_server.frontend.ticket_office import KEEP_S, TicketOffice
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential, Tenant, TicketKey
from mezzo_server.tenancy.tokens import new_token

A = b"a" * 16
NOW = 1_700_000_000.0
GARBAGE = b"\xff\xff\xff no message"
HANG_S = 10.0


def token(number: int, scopes: list[str], tenant: bytes = A) -> tuple[str, Credential]:
    text, token_id, kept = new_token(lambda count: bytes([number]) * count)
    return text, Credential(id=token_id, tenant_id=tenant, hash=kept, scopes=scopes)


READER, READS = token(1, ["read"])
WRITER, WRITES = token(2, ["write"])
OPERATOR, OPERATES = token(3, ["admin"], b"")
ADMIN, ADMINISTERS = token(5, ["read", "write", "admin"])
"""of a tenant: with all scopes that there are, and no operator"""
B = b"b" * 16
NEIGHBOUR, NEXT_DOOR = token(4, ["read"], B)
CATALOG = Catalog(
    tenants={A: Tenant(id=A, name="a"), B: Tenant(id=B, name="b")},
    tenant_ids={"a": A, "b": B},
    credentials={held.id: held for held in (READS, WRITES, OPERATES, ADMINISTERS, NEXT_DOOR)},
)


def gate(anonymous: str = "") -> Gate:
    return Gate(
        Authentication(
            lambda: CATALOG,
            now_s=lambda: NOW,
            anonymous=Anonymous(anonymous, Scopes.READ) if anonymous else None,
        )
    )


class Aborted(Exception):
    pass


class FakeContext:
    """A call's context: headers in, status out."""

    def __init__(self, bearer: str = "") -> None:
        self.headers = [("authorization", f"Bearer {bearer}")] if bearer else []
        self.status = ""
        self.details = ""
        self.message: bytes | None = b""
        """None: it never comes"""

    async def read(self) -> bytes:
        if self.message is None:
            await asyncio.Event().wait()
        return self.message or b""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.headers

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return "test"

    def time_remaining(self) -> float:
        return 1.0

    async def abort(self, status: Any, details: str, metadata: Any) -> None:
        self.status, self.details = status.name, details
        raise Aborted


def outcome(handle: Callable[..., Awaitable[Any]], data: bytes, bearer: str = "") -> str:
    context = FakeContext(bearer)
    context.message = data

    async def play() -> str:
        try:
            await handle(None, context)
        except Aborted:
            return context.status
        return "OK"

    return asyncio.run(play())


async def answer(request: Any, timeout_s: float) -> Any:
    assert caller().tenant == A
    return store_pb2.LookupResponse(prefix=1)


def test_nothing_is_decoded_before_it_is_known_who_calls() -> None:
    calls = Calls(FrontendNumbers(), 10, gate())
    handle = calls.unary("Lookup", store_pb2.LookupRequest, answer)
    # What is no message is UNAUTHENTICATED, and not INVALID_ARGUMENT, from somebody whom nobody knows.
    for bearer in ("", "garbage", "mz_" + "0" * 16 + "_" + "A" * 43, READER[:-1]):
        assert outcome(handle, GARBAGE, bearer) == "UNAUTHENTICATED"
    assert outcome(handle, GARBAGE, WRITER) == "PERMISSION_DENIED"
    assert outcome(handle, GARBAGE, READER) == "INVALID_ARGUMENT"
    assert outcome(handle, b"", READER) == "OK"


def test_nothing_is_received_before_it_is_known_who_calls_and_then_not_for_ever() -> None:
    def told(bearer: str) -> str:
        context = FakeContext(bearer)
        context.message = None
        handle = Calls(FrontendNumbers(), 10, gate(), stall_s=0.01).unary(
            "Lookup", store_pb2.LookupRequest, answer
        )

        async def play() -> None:
            with pytest.raises(Aborted):
                await handle(None, context)

        asyncio.run(play())
        return f"{context.status}: {context.details}"

    assert told("").startswith("UNAUTHENTICATED")
    assert told(WRITER).startswith("PERMISSION_DENIED")
    assert told(READER) == "DEADLINE_EXCEEDED: the request did not come within 0.01 s (frontend.stall_s)"


class Ahead(asyncio.SelectorEventLoop):
    """A loop whose clock is set."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def test_a_request_that_came_in_time_is_not_given_up_later() -> None:
    loop = Ahead()

    async def slow(request: Any, timeout_s: float) -> Any:
        loop.ahead_s = 3600.0
        for _ in range(3):
            await asyncio.sleep(0)
        return store_pb2.LookupResponse(prefix=1)

    async def play() -> tuple[bytes, int]:
        numbers = FrontendNumbers()
        handle = Calls(numbers, 10, gate(), stall_s=60.0).unary("Lookup", store_pb2.LookupRequest, slow)
        return await handle(None, FakeContext(READER)), numbers.calls_in_flight

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(play()) == (store_pb2.LookupResponse(prefix=1).SerializeToString(), 0)


def test_who_gives_up_himself_is_not_told_that_his_request_did_not_come() -> None:
    async def play() -> tuple[bool, str, int]:
        numbers, context = FrontendNumbers(), FakeContext(READER)
        context.message = None
        handle = Calls(numbers, 10, gate(), stall_s=60.0).unary("Lookup", store_pb2.LookupRequest, answer)
        task = asyncio.ensure_future(handle(None, context))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled(), context.status, numbers.calls_in_flight

    assert asyncio.run(play()) == (True, "", 0)


def test_a_stream_is_not_begun_before_it_is_known_who_calls() -> None:
    begun = []

    async def work(data: bytes, context: Any, timeout_s: float) -> None:
        begun.append(caller().credential)

    calls = Calls(FrontendNumbers(), 10, gate())
    assert outcome(calls.stream("Get", work), GARBAGE) == "UNAUTHENTICATED"
    assert outcome(calls.taking("Put", work), GARBAGE, READER) == "PERMISSION_DENIED"
    assert begun == []
    assert outcome(calls.stream("Get", work), b"", READER) == "OK"
    assert begun == [READS.id]


def test_a_stream_ends_when_its_caller_is_not_welcome_any_more() -> None:
    async def play() -> tuple[str, str]:
        calls = Calls(FrontendNumbers(), 10, gate())
        entered = asyncio.Event()

        async def work(data: bytes, context: Any, timeout_s: float) -> None:
            entered.set()
            await asyncio.Event().wait()

        context, other = FakeContext(READER), FakeContext(OPERATOR)
        tasks = [
            asyncio.ensure_future(calls.stream("Get", work)(None, context)),
            asyncio.ensure_future(calls.stream("Get", work)(None, other)),
        ]
        await entered.wait()
        calls.end_unwelcome(lambda principal: None)
        await asyncio.sleep(0)
        assert not tasks[0].done()
        calls.end_unwelcome(lambda principal: Reason.REVOKED if principal.credential == READS.id else None)
        with pytest.raises(Aborted):
            await asyncio.wait_for(tasks[0], HANG_S)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        return context.status, other.status

    # The operator has no READ here, and was refused for that.
    assert asyncio.run(play()) == ("UNAUTHENTICATED", "PERMISSION_DENIED")


def test_so_does_a_call_that_waits() -> None:
    async def play() -> str:
        calls = Calls(FrontendNumbers(), 10, gate())
        entered = asyncio.Event()

        async def wait(request: Any, timeout_s: float) -> Any:
            entered.set()
            await asyncio.Event().wait()

        context = FakeContext(READER)
        handle = calls.unary("PollEvents", store_pb2.PollEventsRequest, wait)
        task = asyncio.ensure_future(handle(None, context))
        await entered.wait()
        calls.end_unwelcome(lambda principal: Reason.REVOKED)
        with pytest.raises(Aborted):
            await task
        return context.status

    assert asyncio.run(play()) == "UNAUTHENTICATED"


def test_no_tenant_holds_all_calls() -> None:
    async def play() -> list[str]:
        calls = Calls(FrontendNumbers(), 4, gate())
        release = asyncio.Event()

        async def wait(request: Any, timeout_s: float) -> Any:
            await release.wait()
            return store_pb2.LookupResponse()

        handle = calls.unary("Lookup", store_pb2.LookupRequest, wait)

        async def call(bearer: str) -> str:
            context = FakeContext(bearer)
            try:
                await handle(None, context)
            except Aborted:
                return context.status
            return "OK"

        tasks = []
        for bearer in (READER, READER, READER, READER, NEIGHBOUR, NEIGHBOUR):
            tasks.append(asyncio.create_task(call(bearer)))
            await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(*tasks)

    full = "RESOURCE_EXHAUSTED"
    assert asyncio.run(play()) == ["OK", "OK", "OK", full, "OK", full]


def test_who_has_no_revocable_credential_is_welcome_until_it_ends() -> None:
    access = Access(NodeConfig(), lambda: CATALOG, Published())
    token = Principal(A, "a", Scopes.READ, "jwt:somebody", expires_s=int(time.time()) + 3600)
    assert access.unwelcome(token) is None
    assert access.unwelcome(replace(token, expires_s=int(time.time()))) is Reason.EXPIRED
    assert access.unwelcome(replace(token, tenant=b"c" * 16)) is Reason.TENANT


def test_every_method_has_its_need() -> None:
    assert set(METHODS) == set(permissions.NEEDS)
    calls = Calls(FrontendNumbers(), 10, gate())
    with pytest.raises(KeyError):
        calls.unary("SomethingNew", store_pb2.LookupRequest, answer)


def guarded(path: str, bearer: str = "", *, anonymous: str = "") -> str:
    """What a service of others makes of a call whose message is garbage."""

    def decode(data: bytes) -> Any:
        return store_pb2.LookupRequest.FromString(data)

    async def serve(request: Any, context: Any) -> str:
        return "answered"

    async def play() -> str:
        async def found(details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(serve, decode, None)  # type: ignore[arg-type]

        guard = Guard(gate(anonymous), refuse, ("/mezzo.v1.StoreService/",))
        handler = await guard.intercept_service(found, SimpleNamespace(method=path))
        context = FakeContext(bearer)
        if handler.request_deserializer is not None:
            return "not guarded"
        try:
            context.message = GARBAGE
            return str(await handler.stream_unary(None, context))
        except Aborted:
            return context.status
        except Exception as error:
            return type(error).__name__

    return asyncio.run(play())


def test_services_of_others_are_guarded_before_they_decode() -> None:
    channelz = "/grpc.channelz.v1.Channelz/GetServers"
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert guarded(channelz) == "UNAUTHENTICATED"
    assert guarded(channelz, READER) == "PERMISSION_DENIED"
    assert guarded(channelz, ADMIN) == "PERMISSION_DENIED"
    assert guarded(channelz, OPERATOR) == "DecodeError"
    assert guarded("/some.Service/Added", READER) == "PERMISSION_DENIED"
    assert guarded(reflection) == "UNAUTHENTICATED"
    assert guarded(reflection, READER) == "DecodeError"
    assert guarded(reflection, anonymous="a") == "DecodeError"
    assert guarded("/grpc.health.v1.Health/Check") == "DecodeError", "anybody may ask"
    assert guarded("/mezzo.v1.StoreService/Get") == "not guarded"
    assert guarded("/mezzo.v1.StoreServiceX/Get") == "UNAUTHENTICATED"


# -- tickets


class Published:
    """Where keys are published, as far as the office sees."""

    def __init__(self) -> None:
        self.keys: dict[int, TicketKey] = {}
        self.ends: dict[int, float] = {}
        """of leases, since they were last kept"""
        self.lease_s = math.inf
        self.now = 0.0
        self.published = 0
        self.away = False
        self.kept = 0

    async def publish_ticket_key(self, key: TicketKey, ttl_s: float) -> int:
        if self.away:
            raise Unavailable("the engine is away")
        self.published += 1
        self.keys[self.published] = key
        self.ends[self.published] = self.now + self.lease_s
        return self.published

    async def keep_ticket_key(self, lease: int) -> bool:
        if self.away:
            raise Unavailable("the engine is away")
        self.kept += 1
        self.ends[lease] = self.now + self.lease_s
        return lease in self.keys

    def expire(self, now: float) -> None:
        self.now = now
        self.keys = {lease: key for lease, key in self.keys.items() if self.ends[lease] > now}


class Office:
    def __init__(self) -> None:
        self.clock = 100.0
        self.published = Published()
        ring = KeyRing(pod="pod", key_s=4000, ticket_s=300, random_bytes=random.Random(7).randbytes)
        self.office = TicketOffice(
            ring, self.published, ticket_s=300, now=lambda: self.clock, now_s=lambda: NOW + self.clock
        )

    def step(self, seconds: float = 0.0) -> None:
        self.clock += seconds
        asyncio.run(self.office.step())


CALLER = Principal(A, "a", Scopes.READ, "f" * 16)


def test_a_ticket_is_good_as_long_as_it_says() -> None:
    rig = Office()
    with pytest.raises(Unavailable):
        rig.office.sign(CALLER)
    rig.step()
    signed = rig.office.sign(CALLER)
    assert signed.expires == 400.0
    # At every moment of a second: a ticket of less than one would have no time at all at some.
    for _ in range(8):
        rig.clock += 0.125
        assert rig.office.sign(CALLER).expires == rig.clock + 300.0
    assert "Ticket of" in repr(signed)
    [key] = rig.published.keys.values()
    said = verify(signed.ticket, lambda key_id: key.public, pod="pod", now_s=NOW + 100)
    assert (said.tenant, said.scopes) == (A, 1)


def test_an_outage_of_the_metadata_costs_no_ticket() -> None:
    rig = Office()
    rig.published.away = True
    rig.step()
    assert rig.office.failures == 1
    rig.published.away = False
    rig.step(5)
    assert rig.office.sign(CALLER)
    rig.step(KEEP_S)
    assert rig.published.kept == 1
    rig.published.away = True
    for _ in range(100):
        rig.step(5)
    assert rig.office.sign(CALLER)
    # It comes back without our lease: what we still sign with is published anew.
    [lost] = rig.published.keys.values()
    rig.published.keys.clear()
    rig.published.away = False
    rig.step(5)
    assert [key.public for key in rig.published.keys.values()] == [lost.public]


def test_a_key_is_published_no_longer_than_its_tickets_are_good() -> None:
    """Else every shard would collect the keys of all days."""
    rig = Office()
    rig.published.lease_s = 3 * KEEP_S
    for _ in range(1000):
        rig.step(KEEP_S)
        rig.published.expire(rig.clock)
        assert rig.office.sign(CALLER)
    assert 1 <= len(rig.published.keys) <= 4


# -- keys of JSON Web Tokens


def key_set(kid: str) -> bytes:
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}]}).encode()


class Source:
    def __init__(self) -> None:
        self.clock = 100.0
        self.answer: bytes | Exception = key_set("one")
        self.reads = 0
        self.source = KeySource("keys", refresh_s=300, read=self.read, now=lambda: self.clock)

    def read(self, source: str) -> bytes:
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_last_good_key_set_stays() -> None:
    async def play() -> None:
        rig = Source()
        assert rig.source.keys == ()
        assert await rig.source.look()
        [one] = rig.source.keys
        # Strangers with keys that nobody knows do not make us ask again and again.
        assert not await rig.source.look()
        assert rig.reads == 1
        for answer in (OSError("gone"), b"no key set", b"{}", ValueError("x")):
            rig.clock += LOOK_GAP_S
            rig.answer = answer
            assert await rig.source.look()
            assert rig.source.keys == (one,)
        assert rig.source.failures == 4
        rig.clock += LOOK_GAP_S
        rig.answer = key_set("two")
        both = await asyncio.gather(rig.source.look(), rig.source.look())
        assert both == [True, True]
        assert rig.reads == 6
        assert [key.id for key in rig.source.keys] == ["two"]

    asyncio.run(play())


class Answer:
    """Of a web server: pieces, with seconds that pass before each."""

    def __init__(self, clock: list[float], pieces: list[tuple[float, bytes]]) -> None:
        self.clock, self.pieces = clock, pieces

    def read1(self, count: int) -> bytes:
        if not self.pieces:
            return b""
        seconds, piece = self.pieces.pop(0)
        self.clock[0] += seconds
        return piece

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_a_key_set_from_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in time and whole, from where it was said to be, or not at all."""
    clock, handlers, pieces = [100.0], [], []  # type: ignore[var-annotated]

    def build_opener(*found: Any) -> Any:
        handlers[:] = found
        return SimpleNamespace(open=lambda request, timeout: Answer(clock, pieces))

    monkeypatch.setattr(key_source.urllib.request, "build_opener", build_opener)
    monkeypatch.setattr(key_source.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("http_proxy", "http://proxy.example:1")
    monkeypatch.setenv("https_proxy", "http://proxy.example:1")

    def looked(url: str, *coming: tuple[float, bytes]) -> KeySource:
        source = KeySource(url, refresh_s=300)
        pieces[:] = coming
        asyncio.run(source.look())
        return source

    data = key_set("one")
    there = looked("https://id.example/keys", (1.0, data[:20]), (1.0, data[20:]))
    assert [key.id for key in there.keys] == ["one"]
    proxies = next(one for one in handlers if isinstance(one, urllib.request.ProxyHandler))
    assert "https" in proxies.proxies
    # Of plain HTTP on loopback we trust that nobody stands between.
    assert looked("http://127.0.0.1/keys", (0.0, data)).keys
    proxies = next(one for one in handlers if isinstance(one, urllib.request.ProxyHandler))
    assert proxies.proxies == {}
    assert any(one is key_source._NoRedirect for one in handlers)
    dripping = looked("https://id.example/keys", *((1.0, data[at : at + 1]) for at in range(len(data))))
    assert (dripping.keys, dripping.failures) == ((), 1)
    large = looked("https://id.example/keys", *((0.0, b" " * 60_000) for _ in range(10)))
    assert large.failures == 1
    assert len(pieces) >= 4, "what is too large is not read to its end"


def test_who_waits_for_keys_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_source, "FETCH_S_MAX", 0.0)
    release = threading.Event()

    def read(source: str) -> bytes:
        release.wait(10)
        return key_set("late")

    async def play() -> None:
        source = KeySource("keys", refresh_s=300, read=read)
        assert not await source.look()
        assert source.keys == ()
        release.set()

    asyncio.run(play())


def test_keys_in_a_file(tmp_path: Any) -> None:
    async def play() -> None:
        path = tmp_path / "keys.json"
        source = KeySource(str(path), refresh_s=300)
        await source.look()
        assert (source.keys, source.failures) == ((), 1)
        path.write_bytes(key_set("here"))
        other = KeySource(str(path), refresh_s=300)
        await other.look()
        assert [key.id for key in other.keys] == ["here"]
        path.write_bytes(b"x" * 300_000)
        large = KeySource(str(path), refresh_s=300)
        await large.look()
        assert large.failures == 1

    asyncio.run(play())


def test_who_is_refused_is_told_the_same() -> None:
    told = set()
    for bearer in ("", "garbage", READER[:-1]):
        context = FakeContext(bearer)
        calls = Calls(FrontendNumbers(), 10, gate())
        with pytest.raises(Aborted):
            asyncio.run(calls.unary("Lookup", store_pb2.LookupRequest, answer)(None, context))
        told.add((context.status, context.details))
    assert len(told) == 1
    assert issubclass(Unauthenticated, Exception)
