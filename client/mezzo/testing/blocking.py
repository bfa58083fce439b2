"""An asynchronous client behind a blocking face, so that both pass the same suite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from mezzo.errors import ClientClosed


class Blocking:
    """An asynchronous client behind a blocking face; its loop runs in a thread of its own.

    ``policy`` makes the loop, so that the suite runs on uvloop as well.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._new_loop = new_loop
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = make()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if name == "events":
            return lambda *args, **kwargs: _BlockingStream(self, value(*args, **kwargs))
        if not callable(value) or name in ("region", "adopt", "statistics"):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._finish(value(*args, **kwargs))

        return call

    def namespace(self, **identity: Any) -> Blocking:
        """The client of a namespace, on a loop of its own."""
        return Blocking(lambda: self._client.namespace(**identity), self._new_loop)

    def close(self) -> None:
        """Close the client, and end its loop."""
        if not self._loop.is_closed():
            self._finish(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._loop.is_closed():
            work.close()
            raise ClientClosed("the client is closed")
        result = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if hasattr(result, "__aenter__"):
            return _BlockingLease(self, result)
        return result


class _BlockingLease:
    def __init__(self, owner: Blocking, lease: Any) -> None:
        self._owner = owner
        self._lease = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._owner._finish(self._lease.__aexit__(*raised))

    def release(self) -> bool:
        return bool(self._owner._finish(self._lease.release()))

    def renew(self, ttl_s: float) -> float:
        return float(self._owner._finish(self._lease.renew(ttl_s)))


class _BlockingStream:
    def __init__(self, owner: Blocking, stream: Any) -> None:
        self._owner = owner
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._owner._finish(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def poll(self, timeout_s: float) -> Any:
        return self._owner._finish(self._stream.poll(timeout_s))
