"""The gate of a front-end: who is let in to what, before anything of a call is received. No sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from mezzo.errors import Unauthenticated
from mezzo.v1 import store_pb2
from mezzo_server.access.authentication import Anonymous, Authentication
from mezzo_server.access.principal import Principal, Reason, Scopes
from mezzo_server.config import NodeConfig
from mezzo_server.frontend import permissions
from mezzo_server.frontend.access import Access
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Calls, refuse
from mezzo_server.frontend.gate import Gate, Guard
from mezzo_server.frontend.numbers import METHODS, FrontendNumbers
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential, Tenant
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
    access = Access(NodeConfig(), lambda: CATALOG)
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
