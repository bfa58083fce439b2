"""From the setting ``metadata.engine`` to an engine."""

from __future__ import annotations

import time
from pathlib import Path

from mezzo_server.metadata.engine import Engine
from mezzo_server.metadata.etcd.place import is_etcd, parse_place
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.places import CALL_S
from mezzo_server.metadata.remote.place import is_service, parse_service
from mezzo_server.metadata.sqlite import SqliteEngine
from mezzo_server.metadata.urls import MEMORY, SQLITE, check_url

__all__ = ["SQLITE", "make_engine"]


def make_engine(url: str, *, create: bool = True, call_s: float = CALL_S) -> Engine:
    """The engine that ``url`` names; its first call reaches it, and makes the file if ``create``.

    ``call_s``: after so long without a member or replica a call raises Unavailable, if it has such.

    Raises:
        InvalidArgument: it names none.
    """
    check_url(url)
    if url == MEMORY:
        return MemoryEngine(time.monotonic)
    if is_etcd(url):
        # gRPC takes longer to import than all that a node without an etcd needs.
        from mezzo_server.metadata.etcd.engine import EtcdEngine

        return EtcdEngine(parse_place(url), call_s)
    if is_service(url):
        from mezzo_server.metadata.remote.engine import ServiceEngine

        return ServiceEngine(parse_service(url), call_s)
    return SqliteEngine(Path(url.removeprefix(SQLITE)), time.time, create=create)
