"""How a client with a ``grpc://`` address reaches chunks. No I/O, and no grpc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mezzo.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from mezzo.frontend.asynchronous import AsyncProxyLink
    from mezzo.frontend.link import ProxyLink

Via: TypeAlias = Literal["auto", "direct", "proxy"]
"""``direct``: the front-end only says where the shard is; ``proxy``: all calls go through the
front-end; ``auto``: directly where the shard can be reached, else through the front-end."""


def check_via(via: str) -> None:
    """Raises InvalidArgument unless it is a `Via`."""
    if via not in get_args(Via):
        raise InvalidArgument(f"via must be one of {', '.join(get_args(Via))}, not {via!r}")


def proxy_link() -> type[ProxyLink]:
    """The class of blocking links. Raises Unsupported without grpcio."""
    try:
        from mezzo.frontend.link import ProxyLink
    except ImportError as error:
        raise _missing(error) from None
    return ProxyLink


def async_proxy_link() -> type[AsyncProxyLink]:
    """The class of asynchronous links. Raises Unsupported without grpcio."""
    try:
        from mezzo.frontend.asynchronous import AsyncProxyLink
    except ImportError as error:
        raise _missing(error) from None
    return AsyncProxyLink


def _missing(error: ImportError) -> Unsupported:
    return Unsupported(f"a grpc:// address needs grpcio and protobuf: pip install 'mezzo[grpc]' ({error})")
