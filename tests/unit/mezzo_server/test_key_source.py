"""Where a front-end has the keys of JSON Web Tokens from. No sockets, no real clock."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mezzo_server.frontend import key_source
from mezzo_server.frontend.key_source import LOOK_GAP_S, KeySource


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
