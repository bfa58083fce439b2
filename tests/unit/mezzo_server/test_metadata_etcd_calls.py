"""Calls to an etcd that is played: what its errors mean for who asked, and what an engine that is closed says."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import grpc
import pytest

from mezzo.errors import Unavailable
from mezzo_server.metadata import calling
from mezzo_server.metadata.calling import Refused
from mezzo_server.metadata.etcd import calls
from mezzo_server.metadata.etcd import etcd_pb2 as api
from mezzo_server.metadata.etcd.calls import EtcdCalls
from mezzo_server.metadata.etcd.place import parse_place

AUTHENTICATE = calls.AUTHENTICATE.path


class Said(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._code.name


class Played:
    """A channel whose authentications end with these errors, one after the other, and then well."""

    def __init__(self, *errors: grpc.StatusCode) -> None:
        self.errors = list(errors)
        self.closed = False

    def unary_unary(self, path, _encode, _decode):
        channel = self

        class Call:
            def future(self, request, timeout, metadata=()):
                if channel.closed:
                    raise ValueError("Cannot invoke RPC on closed channel!")
                return self

            def add_done_callback(self, told) -> None:
                told(self)

            def cancel(self) -> None:
                pass

            def result(self):
                if path == AUTHENTICATE:
                    if channel.errors:
                        raise Said(channel.errors.pop(0))
                    return api.AuthenticateResponse(token="t")
                return api.RangeResponse()

        return Call()


def made(tmp_path: Path, channel: Played, monkeypatch: pytest.MonkeyPatch) -> EtcdCalls:
    password = tmp_path / "password"
    password.write_text("p")
    monkeypatch.setattr(calling, "PAUSE_S", 0.0)
    etcd = EtcdCalls(parse_place(f"etcd://me@127.0.0.1:1/mezzo?password_file={password}"), 5.0)
    etcd._members = [calling.Member(channel, "played")]  # type: ignore[arg-type]
    return etcd


def read(etcd: EtcdCalls) -> object:
    return asyncio.run(etcd.read(calls.RANGE, api.RangeRequest(key=b"k")))


@pytest.mark.parametrize("code", calls.AWAY)
def test_a_member_that_goes_away_while_it_is_asked_for_a_token_is_asked_again(tmp_path, monkeypatch, code):
    assert read(made(tmp_path, Played(code), monkeypatch)) == api.RangeResponse()


def test_members_that_hang_are_not_all_waited_for(tmp_path, monkeypatch):
    etcd = made(tmp_path, Played(), monkeypatch)
    places = [f"10.0.0.{number}:1" for number in range(16)]
    etcd._endpoints = places
    etcd._members = [calling.Member(Played(), place) for place in places]  # type: ignore[arg-type]
    etcd.call_s = 0.05
    asked = []

    async def question(member, timeout_s):
        asked.append(member.endpoint)
        await asyncio.sleep(0.06)
        raise Said(grpc.StatusCode.DEADLINE_EXCEEDED)

    monkeypatch.setattr(etcd, "question", question)
    with pytest.raises(Unavailable, match="no member of etcd answers"):
        read(etcd)
    first = len(asked)
    assert first <= 2
    with pytest.raises(Unavailable):
        read(etcd)
    assert len(set(asked)) == len(asked), "the next call goes on where that one ended"


def test_a_password_that_is_wrong_is_not_tried_again(tmp_path, monkeypatch):
    channel = Played(*[grpc.StatusCode.INVALID_ARGUMENT] * 2)
    with pytest.raises(Refused, match="'me'"):
        read(made(tmp_path, channel, monkeypatch))
    assert len(channel.errors) == 1


def test_a_channel_that_is_closed_meanwhile_is_unavailable(tmp_path, monkeypatch):
    channel = Played()
    etcd = made(tmp_path, channel, monkeypatch)
    etcd.call_s = 0.0
    channel.closed = True
    with pytest.raises(Unavailable):
        read(etcd)


def test_who_stops_listening_to_a_stream_that_is_full_leaves_no_thread_behind(tmp_path, monkeypatch):
    """As many answers wait as may, and more come at once."""

    class Endless:
        cancelled = False

        def __iter__(self):
            while not self.cancelled:
                yield api.WatchResponse()

        def cancel(self) -> None:
            time.sleep(0.02)  # in which the thread takes what it can
            self.cancelled = True

    call = Endless()
    etcd = made(tmp_path, Played(), monkeypatch)
    monkeypatch.setattr(calling, "_streaming", lambda channel, method: lambda *given, **named: call)

    async def main() -> None:
        told = etcd.stream(calls.WATCH, api.WatchRequest())
        await anext(told)
        await told.aclose()

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "mezzo-metadata-stream":
            thread.join(5)
            assert not thread.is_alive()
