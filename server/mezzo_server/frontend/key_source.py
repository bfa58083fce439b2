"""Where the keys of JSON Web Tokens come from: a file, or an address; looked at again and again."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import structlog

from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.access.keysets import KEY_SET_BYTES_MAX, PublicKey, parse_key_set
from mezzo_server.config.access import is_url

log = structlog.get_logger("mezzo.access")

ANSWER_S_MAX = 5.0
"""For each step of a fetch: to connect, and to hear something more."""
FETCH_S_MAX = 10.0
"""For all of it: a source that drips is away."""
PIECE_BYTES = 64 * 1024
LOOK_GAP_S = 10.0
"""Between two looks that tokens with unknown keys make for: strangers can send any number of those."""
RETRY_S = 15.0
"""After a failure."""

Read = Callable[[str], bytes]


class KeySource:
    """Owner of the key set: the last good one stays in force while there is no better."""

    def __init__(
        self,
        source: str,
        *,
        refresh_s: float,
        read: Read | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``source``: a path, or an address that `mezzo_server.config.access` has checked."""
        self._source = source
        self._refresh_s = refresh_s
        self._read = read or (_fetch if is_url(source) else _read_file)
        self._now = now
        self._keys: tuple[PublicKey, ...] = ()
        self._looked_at = -LOOK_GAP_S
        self._looking: asyncio.Task[None] | None = None
        self.failures = 0
        self._failed = False

    @property
    def keys(self) -> Sequence[PublicKey]:
        """Those that are known now."""
        return self._keys

    async def look(self) -> bool:
        """Look for newer ones, if that was not done a moment ago. Whether it was done now."""
        if self._looking is None:
            if self._now() - self._looked_at < LOOK_GAP_S:
                return False
            self._begin()
        # Shared by all who ask: whoever gives up waiting does not take it from the others.
        if self._looking is None:
            return True
        done, _ = await asyncio.wait((self._looking,), timeout=FETCH_S_MAX)
        return bool(done)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._refresh()
            await asyncio.sleep(min(RETRY_S, self._refresh_s) if self._failed else self._refresh_s)

    async def _refresh(self) -> None:
        if self._looking is None:
            self._begin()
        if self._looking is not None:
            await asyncio.wait((self._looking,))

    def _begin(self) -> None:
        self._looked_at = self._now()
        self._looking = asyncio.get_running_loop().create_task(self._take())
        self._looking.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _take(self) -> None:
        try:
            data = await asyncio.to_thread(self._read, self._source)
            self._keys = parse_key_set(data)
        except (OSError, HTTPException, ValueError, Unavailable) as error:
            # InvalidArgument is a ValueError: a set that is none is as good as none.
            self.failures += 1
            self._failed = True
            log.warning(
                "the keys of JSON Web Tokens could not be read; those that are known stay in force",
                source=self._source,
                known=len(self._keys),
                error=str(error),
            )
        else:
            if self._failed:
                log.info("the keys of JSON Web Tokens are read again", keys=len(self._keys))
            self._failed = False


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return _bounded(file.read)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The address that was configured is the one that is trusted."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    deadline = time.monotonic() + FETCH_S_MAX
    # What comes without TLS is trusted because it comes from this host: no proxy of the environment's comes between.
    proxies = urllib.request.ProxyHandler({} if url.startswith("http:") else None)
    opener = urllib.request.build_opener(_NoRedirect, proxies)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 (checked)
    with opener.open(request, timeout=ANSWER_S_MAX) as answer:

        def read(count: int) -> bytes:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the key set did not come within {FETCH_S_MAX:g} s")
            return bytes(answer.read1(count))

        return _bounded(read)


def _bounded(read: Callable[[int], bytes]) -> bytes:
    data = b""
    while piece := read(PIECE_BYTES):
        data += piece
        if len(data) > KEY_SET_BYTES_MAX:
            raise InvalidArgument(f"a key set of over {KEY_SET_BYTES_MAX} bytes")
    return data
