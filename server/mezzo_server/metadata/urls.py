"""The setting ``metadata.engine``: which texts name an engine."""

from __future__ import annotations

from mezzo.errors import InvalidArgument
from mezzo_server.metadata.etcd.place import is_etcd, parse_place
from mezzo_server.metadata.remote.place import is_service, parse_service

SQLITE = "sqlite://"
MEMORY = "memory:"
"""of one process, which forgets it: for tests"""


def check_url(url: str) -> None:
    """Raises InvalidArgument: ``url`` names no engine; the message says what would."""
    if url == MEMORY:
        return
    if is_etcd(url):
        parse_place(url)
        return
    if is_service(url):
        parse_service(url)
        return
    if not url.startswith(SQLITE):
        raise InvalidArgument(
            f"{url!r} names no metadata engine, as sqlite:///var/lib/mezzo/metadata.db, etcd://10.0.0.1:2379/mezzo and "
            "mezzo://10.0.0.1:7713 do"
        )
    path = url.removeprefix(SQLITE)
    if not path.startswith("/") or path.endswith("/") or "?" in path or "#" in path:
        raise InvalidArgument(
            f"{url!r}: after sqlite:// comes the whole path of a file, as in sqlite:///var/lib/mezzo/metadata.db"
        )
